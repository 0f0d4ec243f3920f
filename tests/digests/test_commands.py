"""What ``python -m scribbleseg.data`` and prediction on folders leave, print and return.

Files by relative path; labels by mode, palette and decoded pixels, because the bytes of a PNG
depend on the compression library; copies are compared with their originals byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.left_files import clean_text, contents, label_counts, pictures
from helpers.tiny_folders import (
    acdc_plain,
    camvid_folder,
    photo,
    plain_folder,
    save,
    scribble_of,
    voc_tree,
)
from helpers.training import quiet_trainer
from helpers.trees_convert import run_command
from helpers.trees_medical import channel_folder, nnunet_volumes, raw_acdc
from PIL import Image
from torch import nn

from scribbleseg import (
    DataInfo,
    InferenceConfig,
    Predictor,
    RegularizedModule,
    main,
    predict_folder,
    predict_logits,
)

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTED = {"rtol": 1e-5, "atol": 1e-7}  # shares and means of pixels
LOOKS = {"rtol": 0.02, "atol": 1.0}  # mean colours of pictures with text, or of JPEGs
DECIDED = {"rtol": 0.02, "atol": 3.0}  # pixels on which network arithmetic decides
PROBABILITIES = {"rtol": 5e-3, "atol": 2e-3}  # float16


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a data command; its status and what it said."""

    def run(name: str, *arguments: object) -> dict[str, Any]:
        words = [] if name == "check" else ["--workers", 0]
        capfd.readouterr()
        status = run_command(name, *arguments, *words)
        said = capfd.readouterr()
        # a bar of progress writes over its line
        errors = [line for line in said.err.split("\n") if "\r" not in line and line.strip()]
        return {
            "status": status,
            "printed": [clean_text(line, tmp_path) for line in said.out.splitlines()],
            "errors": [clean_text(line, tmp_path) for line in errors],
        }

    return run


def break_file(path: Path) -> None:
    path.write_text("404: not found")


# ------------------------------------------------------------------------------ convert

CONVERTED: dict[str, tuple[Callable[[Path], Path], tuple[object, ...]]] = {
    "folder": (plain_folder, ()),
    "no background class": (camvid_folder, ()),
    "VOC": (voc_tree, ()),
    "VOC, scribbles as XML, val only": (
        lambda root: voc_tree(root, scribbles="xml"),
        ("--split", "val"),
    ),
    "patients": (acdc_plain, ("--unlabelled-value", 255)),
    "NIfTI volumes": (
        lambda root: raw_acdc(root, patients=5),
        ("--source", "nifti", "--unlabelled-value", 4),
    ),
    "volumes of two channels": (lambda root: nnunet_volumes(root, cases=5), ()),
    "16-bit grey": (lambda root: channel_folder(root, "deep"), ()),
    "four bands, linked": (lambda root: channel_folder(root, "bands"), ("--link",)),
}


def images_of(out: Path, raw: Path) -> dict[str, str]:
    """Which images are original ones (the same file, or the same bytes), and what others hold."""
    originals = {path.read_bytes(): path for path in sorted(raw.rglob("*")) if path.is_file()}
    found = {}
    for path in sorted((out / "images").rglob("*.*")):
        given, name = originals.get(path.read_bytes()), path.relative_to(out).as_posix()
        if given is None:
            found[name] = contents(path.parent, hide=raw)[path.name]
        else:
            kind = "link to" if path.samefile(given) else "copy of"
            found[name] = f"{kind} {given.relative_to(raw).as_posix()}"
    return found


@pytest.mark.parametrize("name", CONVERTED)
def test_convert(name: str, command, tmp_path, digest) -> None:
    build, options = CONVERTED[name]
    raw, out = build(tmp_path / "raw"), tmp_path / "plain"
    facts = command("convert", raw, "--out", out, *options)
    facts["images"] = images_of(out, raw)
    facts["files"] = contents(out, hide=tmp_path, skip=("images/",))
    facts["again"] = command("convert", raw, "--out", out, *options)
    digest.check(f"convert {name}", facts)


def test_convert_with_broken_files(command, tmp_path, digest) -> None:
    raw, out = plain_folder(tmp_path / "raw"), tmp_path / "plain"
    break_file(raw / "scribbles" / "img_2.png")
    (raw / "scribbles" / "img_3.png").unlink()
    facts = {"first": command("convert", raw, "--out", out)}
    facts["files"] = sorted(contents(out, hide=tmp_path))
    facts["unfinished"] = contents(out, hide=tmp_path)["manifest.json"]
    save(raw / "scribbles" / "img_2.png", np.full((40, 48), 1, np.uint8))
    facts["mended"] = command("convert", raw, "--out", out)
    facts["manifest"] = contents(out, hide=tmp_path)["manifest.json"]
    digest.check("convert broken files", facts)


def test_commands_that_cannot_run(command, tmp_path, digest) -> None:
    raw = plain_folder(tmp_path / "raw")
    empty, taken = tmp_path / "empty", tmp_path / "taken"
    empty.mkdir()
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    facts = {
        "no such folder": command("check", tmp_path / "nowhere"),
        "not a known layout": command("check", empty),
        "output holds other files": command("convert", raw, "--out", taken),
        "option of another source": command(
            "check", voc_tree(tmp_path / "voc"), "--unlabelled-value", 3
        ),
        "option of another mode": command(
            *("synthesize", raw, "--out", tmp_path / "out", "--mode", "points", "--width", 3)
        ),
        "option of another method": command(
            *("superpixels", raw, "--out", tmp_path / "out", "--method", "grid", "--scale", 3)
        ),
        "nothing to take away": command(
            "synthesize", raw, "--out", tmp_path / "out", "--mode", "degrade"
        ),
        "no sample": command("check", raw, "--sample", 0),
    }
    assert command("propagate", raw, "--out", tmp_path / "propagate")["status"] == 0
    facts["output of other settings"] = command(
        "propagate", raw, "--out", tmp_path / "propagate", "--beta", 7
    )
    facts["left"] = sorted(path.name for path in tmp_path.iterdir())
    digest.check("refused", facts)


# --------------------------------------------------- propagate, synthesize, superpixels

LABELS: dict[str, tuple[object, ...]] = {
    "propagate": (),
    "propagate where sure": ("--min-confidence", 0.9),
    "propagate weakly, val": ("--beta", 10, "--split", "val"),
    "synthesize": (),
    "synthesize thin, short, two": (
        *("--width", 1, "--length-ratio", 0.4, "--erosion", 1, "--jitter", 0.8),
        *("--max-strokes", 2, "--seed", 3),
    ),
    "synthesize no background": ("--no-background", "--min-area", 10, "--split", "val"),
    "synthesize points": ("--mode", "points"),
    "synthesize points per component": (
        *("--mode", "points", "--per", "component", "--count", 2, "--radius", 1, "--seed", 7),
    ),
    "synthesize degraded": ("--mode", "degrade", "--shrink", 0.5, "--drop", 0.3),
    "synthesize degraded to the centre": (
        *("--mode", "degrade", "--shrink", 0.8, "--anchor", "center", "--seed", 5),
    ),
    "superpixels": (),
    "superpixels of one compactness": ("--segments", 30, "--compactness", 10),
    "superpixels along edges": (
        *("--method", "felzenszwalb", "--scale", 50, "--min-size", 20, "--split", "train", "val"),
    ),
    "superpixels as a grid, all images": (
        *("--method", "grid", "--segments", 12, "--split", "predict"),
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_from_labels(name: str, command, tmp_path, digest) -> None:
    raw, out = plain_folder(tmp_path / "raw"), tmp_path / "out"
    facts = command(name.split()[0], raw, "--out", out, *LABELS[name])
    facts["files"] = contents(out, hide=tmp_path)
    (out / "img_6.png").unlink(missing_ok=True)
    (out / "img_1.png").unlink(missing_ok=True)
    facts["again"] = command(name.split()[0], raw, "--out", out, *LABELS[name])["printed"][0]
    digest.check(name, facts, **COUNTED)
    digest.check(f"{name}, pictures", pictures(out), **LOOKS)


@pytest.mark.parametrize("name", ["propagate", "synthesize", "superpixels"])
def test_broken_images_are_named(name: str, command, tmp_path, digest) -> None:
    raw, out = plain_folder(tmp_path / "raw"), tmp_path / "out"
    for folder in ("images", "masks"):
        break_file(raw / folder / "img_1.png")
    facts = command(name, raw, "--out", out)
    found = contents(out, hide=tmp_path)
    facts["files"] = sorted(found)
    facts["complete"] = [found["manifest.json"][key] for key in ("files", "complete")]
    digest.check(f"{name} broken images", facts)


# -------------------------------------------------------------------------------- check


def faulty(root: Path) -> Path:
    """One undecodable image, one id of no class, one shifted scribble, one empty."""
    plain_folder(root)
    break_file(root / "images" / "img_0.png")
    save(root / "scribbles" / "img_1.png", np.full((40, 48), 9, np.uint8))
    mask = np.array(Image.open(root / "masks" / "img_2.png"))
    save(root / "scribbles" / "img_2.png", scribble_of(np.roll(mask, 12, axis=1)))
    save(root / "scribbles" / "img_3.png", np.full((40, 48), 255, np.uint8))
    return root


def scribble_lost(root: Path) -> Path:
    plain_folder(root)
    (root / "scribbles" / "img_4.png").unlink()
    return root


CHECKED: dict[str, tuple[Callable[[Path], Path], tuple[object, ...]]] = {
    "clean": (plain_folder, ()),
    "faulty": (faulty, ("--split", "train", "val")),
    "a scribble lost": (scribble_lost, ()),
    "no background class": (camvid_folder, ()),
    "VOC": (voc_tree, ("--sample", 2)),
}


@pytest.mark.parametrize("name", CHECKED)
def test_check_with_report(name: str, command, tmp_path, digest) -> None:
    build, options = CHECKED[name]
    root = build(tmp_path / "raw")
    facts = command("check", root, *options, "--report", tmp_path / "report")
    facts["files"] = contents(tmp_path / "report", hide=tmp_path)
    facts["asked for JSON"] = len(command("check", root, *options, "--json")["printed"])
    digest.check(f"check {name}", facts, **COUNTED)
    digest.check(f"check {name}, pictures", pictures(tmp_path / "report"), **LOOKS)


def test_check_of_pseudo_labels_and_dense_scribbles(command, tmp_path, digest) -> None:
    root = plain_folder(tmp_path / "raw")
    command("propagate", root, "--out", tmp_path / "propagate")
    (tmp_path / "propagate" / "img_2.png").unlink()
    facts = {"pseudo-labels": command("check", root, "--pseudo-labels", tmp_path / "propagate")}
    for path in (root / "scribbles").iterdir():
        save(path, np.array(Image.open(root / "masks" / path.name)))
    facts["dense"] = command("check", root)
    facts["dense, allowed"] = command("check", root, "--allow-dense-scribbles")
    digest.check("check labels", facts)


# --------------------------------------------------------------------- predict a folder


class Brightness(nn.Module):
    """Dark, grey or bright by the first channel: no weights, and no pixel on a border."""

    def __init__(self) -> None:
        super().__init__()
        self.data_info = DataInfo(("dark", "grey", "bright"), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.inference = InferenceConfig()

    def predict_logits(self, image: torch.Tensor) -> torch.Tensor:
        return predict_logits(self._logits, image, self.inference)

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        centres = torch.tensor([0.2, 0.31, 0.42], dtype=torch.float64)[:, None, None]
        return -20 * (image[:, :1].double() - centres).abs()


def photos(root: Path) -> Path:
    """Pictures of several kinds, two of one name, one in a sub-folder, one broken."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("a.png", "a.bmp", "sub/b.png", "sub/deep/c.tif")):
        mask = rng.integers(0, 3, (5 + number, 7)).repeat(4, 0).repeat(4, 1)
        save(root / name, photo(number, mask))
    save(root / "grey.png", photo(9, np.eye(20, dtype=int))[..., 0])
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (root / "notes.txt").write_text("no image")
    return root


def test_predict_folder(tmp_path, digest, caplog) -> None:
    images, out = photos(tmp_path / "in"), tmp_path / "out"
    predictor = Predictor(Brightness(), device="cpu")
    facts: dict[str, Any] = {}
    for call, options in {
        "all": {"save_prob": True},
        "again": {"save_prob": True},
        "overwritten, labels only": {"overwrite": True, "overlay": False},
    }.items():
        caplog.clear()
        report = predict_folder(predictor, images, out, progress=False, **options)
        facts[call] = {
            "written": report.written,
            "skipped": report.skipped,
            "failed": [failure.image for failure in report.failed],
            "share": report.pixel_share,
            "output": clean_text(str(report.output), tmp_path),
            "files": contents(out, hide=tmp_path) if call == "all" else len(list(out.rglob("*.*"))),
        }
        if call == "all":
            digest.check("predict folder, pictures", pictures(out), **LOOKS)
    digest.check("predict folder", facts, **PROBABILITIES)


def test_predict_folder_with_test_time_options(tmp_path, digest) -> None:
    images = plain_folder(tmp_path / "in") / "images"
    options = InferenceConfig(scales=(1.0, 0.5), flip=True, window=24)
    predictor = Predictor(Brightness(), device="cpu", inference=options)
    names = [images / "img_3.png", images / "img_1.png"]
    report = predict_folder(predictor, names, tmp_path / "out", overlay=False, progress=False)
    facts = {"written": report.written, "files": contents(tmp_path / "out", hide=tmp_path)}
    digest.check("predict folder test-time options", facts)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of a module whose weights follow a rule, so that no generator decides them."""
    path = tmp_path_factory.mktemp("weights") / "model.ckpt"
    module = RegularizedModule(3, arch="unet", encoder=TINY_ENCODER, encoder_weights=None)
    with torch.no_grad():
        for parameter in module.parameters():
            steps = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.3 * torch.cos(1.7 * steps) + (1.0 if parameter.ndim == 1 else 0.0)
            parameter.copy_(values.reshape(parameter.shape))
    module.data_info = DataInfo(("background", "cell", "vessel"), source="FolderSource")
    trainer = quiet_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


PREDICTED: dict[str, tuple[str, ...]] = {
    "plain": (),
    "labels and probabilities": ("--overlay=false", "--save_prob=true"),
    "test-time options": ("--scales", "1.0", "0.5", "--flip=true", "--window=64"),
    "dense CRF": ("--crf=tel", "--overlay=false"),
}


@pytest.mark.parametrize("name", PREDICTED)
def test_predict_images(name: str, checkpoint, tmp_path, monkeypatch, digest) -> None:
    images, out = photos(tmp_path / "in"), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    words = ["predict", f"--ckpt_path={checkpoint}", "--device=cpu", *PREDICTED[name]]
    with pytest.raises(SystemExit) as caught:
        main([*words, f"--images={images}", f"--output={out}"])
    found = contents(out, hide=tmp_path, exact=False)
    report = found["report.json"]
    report["checkpoint"]["checkpoint"] = Path(report["checkpoint"]["checkpoint"]).name
    for key in ("pixels", "pixel_share"):  # that network arithmetic decides
        report[key] = sorted(report[key])
    facts = {
        "status": caught.value.code,
        "files": found,
        "beside": sorted(path.name for path in tmp_path.iterdir()),
    }
    digest.check(f"predict --images {name}", facts, **PROBABILITIES)
    digest.check(f"predict --images {name}, pixels", label_counts(out), **DECIDED)


def test_predict_images_without_output(checkpoint, tmp_path, monkeypatch, digest) -> None:
    photos(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["predict", "--ckpt_path", str(checkpoint), "--images", "in/a.png", "in/sub"])
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    facts = {"status": caught.value.code, "files": [f for f in files if not f.startswith("in/")]}
    digest.check("predict --images default folder", facts)
