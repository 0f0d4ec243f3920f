"""What convert, propagate, synthesize and superpixels share: resume, refusals, failures, Ctrl-C."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import STEMS, plain_folder
from helpers.trees_convert import run_command, times
from PIL import Image

from scribbleseg import ConfigError
from scribbleseg.data import (
    convert_source,
    main,
    map_in_processes,
    propagate_scribbles,
    synthesize_folder,
    write_superpixels,
)
from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import ScribbleStyle, SuperpixelOptions

if TYPE_CHECKING:
    from collections.abc import Callable

TRAIN = STEMS[:6]


@dataclass
class Job:
    """How one of the jobs is started and disturbed.

    Attributes:
        function: Public function.
        how: Its options in these tests.
        made_of: Folder of the files that its results show.
        results: Folder of these, below the output.
        others: Options of another folder, and how they are named.
        step: Function that is called once for every image, in the file of the job.
    """

    function: Callable[..., Any]
    how: dict[str, Any]
    made_of: str
    results: str
    others: tuple[dict[str, Any], str]
    step: str


NINE = {"method": "grid", "options": SuperpixelOptions(segments=9)}
JOBS = {
    "convert": Job(
        *(convert_source, {"splits": ["train"]}, "scribbles", "scribbles"),
        *(({"on_missing": "skip"}, r"options: .*'on_missing': 'skip'"), "_convert_image"),
    ),
    "propagate": Job(
        *(propagate_scribbles, {}, "scribbles", "."),
        *(({"beta": 90}, r"beta: 100\.0, now 90\.0"), "random_walker_labels"),
    ),
    "synthesize": Job(
        *(synthesize_folder, {}, "masks", "."),
        *(({"recipe": ScribbleStyle(width=5)}, r"width: 3\.0, now 5"), "synthesize_scribbles"),
    ),
    "superpixels": Job(
        *(write_superpixels, NINE, "images", "."),
        *(({"options": None}, r"'num_segments': 9.*800"), "write_atomic"),
    ),
}
each = pytest.mark.parametrize("name", JOBS)


@pytest.fixture
def root(tmp_path):
    return plain_folder(tmp_path / "data")


def run(name, root, out, **options):
    source = {key: options.pop(key) for key in ("on_missing",) if key in options}
    how = {"progress": False, **JOBS[name].how, **options}
    return JOBS[name].function(FolderSource(root, **source), out, **how)


def command(name, root, out, *words):
    own = {"convert": ("--split", "train"), "superpixels": ("--method", "grid", "--segments", "9")}
    return run_command(name, root, "--out", out, "--workers", "0", *own.get(name, ()), *words)


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


@each
def test_a_second_call_writes_nothing(name, root, tmp_path):
    first = run(name, root, tmp_path / "out")
    before = times(tmp_path / "out")
    again = run(name, root, tmp_path / "out")
    assert times(tmp_path / "out") == before
    assert (first.written, first.kept, again.written, again.kept) == (6, 0, 0, 6)
    assert again.overview == first.overview
    assert manifest_of(tmp_path / "out")["complete"] is True


@each
def test_missing_damaged_and_outdated_files_are_made_anew(name, root, tmp_path):
    job, out = JOBS[name], tmp_path / "out"
    run(name, root, out)
    results = [out / job.results / f"{stem}.png" for stem in TRAIN]
    expected = [np.array(Image.open(path)) for path in results]
    results[0].unlink()
    results[1].write_bytes(b"" if name == "convert" else b"\x89PNG")
    later = results[2].stat().st_mtime + 5
    os.utime(root / job.made_of / f"{TRAIN[2]}.png", (later, later))
    kept = times(out / job.results)
    report = run(name, root, out)
    assert (report.written, report.kept) == (3, 3)
    assert all(times(out / job.results)[p.name] == kept[p.name] for p in results[3:])
    for path, pixels in zip(results, expected, strict=True):
        np.testing.assert_array_equal(np.array(Image.open(path)), pixels)


def stop_at_the_third(monkeypatch, file, step):
    """Ctrl-C in the third image."""
    original, calls = getattr(file, step), []

    def stop(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(file, step, stop)


@each
def test_an_interrupted_command_goes_on(name, root, tmp_path, monkeypatch, capsys):
    out, file = tmp_path / "out", internal(name)
    stop_at_the_third(monkeypatch, file, JOBS[name].step)
    assert command(name, root, out) == 130
    message = f"interrupted: finished images stay in {out}; the same command goes on there"
    assert message in capsys.readouterr().err
    assert manifest_of(out)["complete"] is False
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="other settings"):
        run(name, root, out, **JOBS[name].others[0])
    before = times(out)
    assert command(name, root, out) == 0
    assert "4 written, 2 kept" in capsys.readouterr().out
    manifest = manifest_of(out)
    assert (manifest["complete"], manifest["files"]) == (True, 6)
    assert manifest["command"] == f"scribbleseg.data {name}"
    results = [path for path in before if path.endswith(".png")]
    assert {path: times(out)[path] for path in results} == {p: before[p] for p in results}


@each
def test_a_finished_folder_is_incomplete_while_files_are_made_anew(
    name, root, tmp_path, monkeypatch
):
    out, file = tmp_path / "out", internal(name)
    run(name, root, out)
    for stem in TRAIN:
        (out / JOBS[name].results / f"{stem}.png").unlink()
    stop_at_the_third(monkeypatch, file, JOBS[name].step)
    with pytest.raises(KeyboardInterrupt):
        run(name, root, out)
    assert manifest_of(out)["complete"] is False


@each
def test_other_settings_need_another_folder(name, root, tmp_path):
    out = tmp_path / "out"
    run(name, root, out)
    before = times(out)
    options, words = JOBS[name].others
    match = rf"manifest\.json: .*other settings \(.*{words}.*another folder, or delete this one"
    with pytest.raises(ConfigError, match=match):
        run(name, root, out, **options)
    with pytest.raises(ConfigError, match=r"other settings .*root"):
        run(name, plain_folder(tmp_path / "another"), out)
    assert times(out) == before


@each
def test_files_of_others_are_left_alone(name, root):
    before = times(root)
    for folder in ("scribbles", "masks", "."):
        with pytest.raises(ConfigError, match=r"holds files but no manifest\.json"):
            run(name, root, root / folder)
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        run(name, root, root / "classes.txt")
    assert times(root) == before


@each
def test_broken_files_do_not_stop_the_others(name, root, tmp_path, capsys):
    path = root / JOBS[name].made_of / f"{TRAIN[2]}.png"
    whole = path.read_bytes()
    path.write_bytes(b"broken")
    assert command(name, root, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "5 written, 0 kept from earlier, 1 failed" in said.out
    assert "1 images could not be " in said.err
    assert f"{TRAIN[2]}: D202 {path}" in said.err
    assert "Traceback" not in said.err
    assert manifest_of(tmp_path / "out")["complete"] is False
    path.write_bytes(whole)
    assert command(name, root, tmp_path / "out") == 0
    assert manifest_of(tmp_path / "out")["complete"] is True


@pytest.mark.parametrize("number", [20, 21])
def test_twenty_failures_are_listed(number, tmp_path, capsys):
    stems = tuple(f"img_{place:02}" for place in range(28))
    root = plain_folder(tmp_path / "data", stems=stems, masks=False)
    for stem in stems[:number]:
        (root / "images" / f"{stem}.png").write_bytes(b"broken")
    assert command("superpixels", root, tmp_path / "out") == 1
    first, *reasons, last = capsys.readouterr().err.rstrip().split("\n")[-number - 2 :]
    assert f"error: {number} images could not be segmented:" in first
    assert last == "correct them and run the same command again: it does only what is missing"
    listed = [line.split(":")[0].strip() for line in reasons]
    assert listed[:20] == list(stems[:20])
    assert listed[20:] == (["… and 1 more"] if number > 20 else [])


@pytest.mark.parametrize("name", ["propagate", "synthesize", "superpixels"])
def test_an_image_called_overview_keeps_its_file(name, tmp_path):
    root = plain_folder(tmp_path / "data", stems=("overview", "b", "c", "d"))
    report = run(name, root, tmp_path / "out")
    with Image.open(tmp_path / "out" / "overview.png") as image:
        assert image.size == (48, 40)
    assert report.overview == tmp_path / "out" / "_overview.png"
    with Image.open(report.overview) as picture:
        assert picture.mode == "RGB"
        assert picture.height == 26 + 3 * 244


@pytest.mark.parametrize(
    "name", ["synthesize", *(pytest.param(n, marks=pytest.mark.slow) for n in JOBS if n[0] != "s")]
)
def test_processes_write_the_same(name, root, tmp_path):
    threads = os.environ.get("OMP_NUM_THREADS")
    run(name, root, tmp_path / "one")
    assert run(name, root, tmp_path / "two", workers=2).written == 6
    assert os.environ.get("OMP_NUM_THREADS") == threads
    for path in (tmp_path / "one").rglob("*.png"):
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert twin.read_bytes() == path.read_bytes()


@each
def test_mistakes_are_one_line(name, root, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main([name, str(root), "--out", out, "--workers", "-1"]) == 2
    assert capsys.readouterr().err == "error: workers=-1: expected a whole number of at least 0\n"
    assert main([name, str(root), "--out", out, "--source", "voc"]) == 2
    assert "JPEGImages" in capsys.readouterr().err
    assert main([name, str(tmp_path / "none"), "--out", out]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_process_for_no_workers():
    assert list(map_in_processes(len, ["a", "bb", "ccc"], workers=0)) == [1, 2, 3]
