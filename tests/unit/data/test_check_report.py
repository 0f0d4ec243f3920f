import json
import re
import zipfile
from html.parser import HTMLParser
from io import BytesIO
from tarfile import DIRTYPE, SYMTYPE, TarInfo
from tarfile import open as open_tar

import numpy as np
import pytest
import torch
from helpers.internals import internal
from helpers.tiny_folders import STEMS, camvid_folder, plain_folder, save
from helpers.trees_convert import run_command, times
from PIL import Image

from scribbleseg import CheckpointError, ConfigError, ScribbleNotFoundError, voc_palette
from scribbleseg.data import (
    Finding,
    bar_chart,
    check_checkpoint,
    check_pseudo_labels,
    check_source,
    class_chart,
    class_difference,
    draw_sheet,
    find_unsafe_files,
    measure_loading,
    write_check_report,
)
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import write_label, write_manifest


class Page(HTMLParser):
    """Tags of a page, and whether each that opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


# ---------------------------------------------------------------------------- report


def test_report_is_one_self_contained_page(tmp_path):
    source = FolderSource(camvid_folder(tmp_path / "data"))
    report = check_source(source)
    path = write_check_report(source, report, tmp_path / "out", title="a <b>&")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert [link[:22] for link in page.links] == ["data:image/jpeg;base64"]
    text = " ".join(page.text)
    assert "a <b>&" in text
    assert "Nothing was found." in text
    assert {"sky", "road", "car", "tree"} <= set(re.findall(r"[a-z]+", text))
    assert page.tags.count("svg") == 4
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.mode == "RGB"
        assert sheet.width == 4 * 310 + 10


def test_flagged_files_come_first_on_the_sheet(tmp_path):
    root = plain_folder(tmp_path / "data")
    save(root / "scribbles" / "img_4.png", np.full((40, 48), 3, np.uint8))
    (root / "images" / "img_5.png").write_text("404")
    source = FolderSource(root)
    report = check_source(source)
    write_check_report(source, report, tmp_path / "out")
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    framed = (abs(pixels - (201, 42, 42)).sum(-1) == 0)[8 : 8 + 226]
    columns = [framed[:, 8 + 310 * n : 314 + 310 * n].sum() > 500 for n in range(4)]
    assert columns == [True, True, False, False]
    text = (tmp_path / "out" / "report.html").read_text()
    assert "D101 error" in text
    assert "value 3 on 1,920 px" in text
    assert "D202 error" in text


def test_errors_come_before_warnings_on_the_sheet(tmp_path):
    source = FolderSource(plain_folder(tmp_path / "data"))
    findings = [
        Finding("D104", "warning", "few", str(source.records("train")[1].scribble)),
        Finding("D101", "error", "ids", str(source.records("train")[4].image)),
        Finding("D101", "error", "hidden by the first", str(source.records("train")[1].scribble)),
    ]
    sheet = draw_sheet(source, findings, splits=("train",)).astype(int)
    for number, colour in enumerate([(201, 42, 42), (224, 138, 30)]):
        frame = sheet[7:10, 10 + 310 * number : 310 + 310 * number]
        assert (abs(frame - colour).sum(-1) == 0).mean() > 0.5
    rest = sheet[7:10, 630:]
    assert (rest == 255).all()


def test_thin_strokes_are_seen_on_reduced_pictures(tmp_path):
    root = plain_folder(tmp_path / "data", stems=STEMS[:4])
    grey, scribble = np.full((880, 1200, 3), 128, np.uint8), np.full((880, 1200), 255, np.uint8)
    rows = (101, 302, 503, 704)  # of four neighbouring rows the sheet shows one
    scribble[rows, :] = 1
    save(root / "images" / "img_0.png", grey)
    save(root / "scribbles" / "img_0.png", scribble)
    sheet = draw_sheet(FolderSource(root), [], splits=("train",))
    colour = np.round(0.1 * 128 + 0.9 * np.array(voc_palette()[1]))
    tile = sheet[10:230, 10:310].astype(int)
    drawn = np.flatnonzero((abs(tile[:, 150] - colour) <= 1).all(-1))
    assert all(abs(drawn - row / 4).min() < 1 for row in rows)
    assert len(drawn) <= 2 * len(rows)
    scribble[:] = 1  # filled areas are left alone
    scribble[100:104] = 255
    save(root / "scribbles" / "img_0.png", scribble)
    tile = draw_sheet(FolderSource(root), [], splits=("train",))[10:230, 10:310].astype(int)
    drawn = (abs(tile[:, 150] - colour) <= 1).all(-1)
    assert np.flatnonzero(~drawn).tolist() == [25]


def test_a_report_lists_twenty_findings_of_a_kind(tmp_path):
    stems = tuple(f"img_{number:02d}" for number in range(32))
    root = plain_folder(tmp_path / "data", stems=stems)
    for stem in stems[:21]:
        save(root / "scribbles" / f"{stem}.png", np.full((40, 48), 3, np.uint8))
    source = FolderSource(root)
    path = write_check_report(source, check_source(source, splits=("train",)), tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    assert text.count("D101 error") == 20
    assert "D101: and 1 more, see report.json." in text


def test_report_of_a_folder_that_cannot_be_listed(tmp_path):
    root = plain_folder(tmp_path / "data")
    (root / "val.txt").unlink()
    (root / "train.txt").write_text("nothing_of_this\n")
    source = FolderSource(root)
    write_check_report(source, check_source(source), tmp_path / "out")
    assert not (tmp_path / "out" / "contact_sheet.png").exists()
    assert "D301" in (tmp_path / "out" / "report.html").read_text()


def test_report_of_a_source_without_files(tmp_path):
    source = SyntheticSource(num_train=3, num_val=1, size=32)
    write_check_report(source, check_source(source), tmp_path / "out")
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (264, 4 * 310 + 10, 3)
    for left in range(10, 4 * 310, 310):  # pictures of 32 pixels a side fill the height
        assert pixels[10:230, left + 40 : left + 260].std() > 20


def test_report_folder_must_be_a_folder(tmp_path):
    source = SyntheticSource(num_train=1, num_val=1, size=32)
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        write_check_report(source, check_source(source), tmp_path / "out")


def test_command_writes_the_report(tmp_path, capsys):
    root = plain_folder(tmp_path / "data")
    before = times(root)
    assert run_command("check", root, "--report", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert f"report: {tmp_path / 'out' / 'report.html'}" in out
    assert "strokes per image" in out
    assert "of one worker for an epoch of 6 images" in out
    assert "Reading" in (tmp_path / "out" / "report.html").read_text()
    assert times(root) == before


def test_interruption_is_status_130(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(internal("check command"), "check_source", stop)
    assert run_command("check", plain_folder(tmp_path / "data")) == 130
    assert "interrupted" in capsys.readouterr().err


def test_charts():
    assert bar_chart({}) == bar_chart({"a": 0}) == ""
    assert bar_chart({"a<": 4, "b": 2}).count("<rect") == 2
    assert "a&lt;" in bar_chart({"a<": 4})
    rows = [{"name": f"c{n}", "scribble_px": n, "mask_px": 0} for n in range(60)]
    chart = class_chart(rows, ["#000000"] * 60)
    assert chart.count("<rect") == 40
    assert ">c59<" in chart
    assert ">c1<" not in chart


# ---------------------------------------------------------------------------- statistics


def test_strokes_are_in_the_statistics(tmp_path):
    statistics = check_source(FolderSource(plain_folder(tmp_path))).statistics
    train = statistics["splits"]["train"]
    # one bar of two rows per class, cut where the stripes meet
    assert train["strokes_per_image"] == pytest.approx(3, abs=0.5)
    assert train["stroke_width"] == pytest.approx(2, abs=0.3)
    assert statistics["classes"][1]["stroke_width"] == pytest.approx(2, abs=0.3)
    assert train["longer_side_histogram"] == {"0-127": 6}
    assert train["coverage_histogram"]["2-5"] == 6


def test_masks_as_labels_have_no_strokes(tmp_path):
    source = FolderSource(plain_folder(tmp_path), label_type="mask")
    assert check_source(source, splits=("train",)).statistics["all"]["stroke_width"] is None


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(tmp_path, channels):
    class Many(SyntheticSource):
        in_channels = channels

        def read_image(self, record):
            image = super().read_image(record)
            return np.concatenate([image] * 2, 2)[..., :channels]

    source = Many(num_train=3, num_val=1, size=32)
    report = check_source(source, splits=("train",))
    images = np.concatenate(
        [source.read_image(r).reshape(-1, channels) for r in source.records("train")]
    )
    train = report.statistics["splits"]["train"]
    assert train["mean"] == pytest.approx(images.mean(0) / 255)
    assert train["std"] == pytest.approx(images.std(0) / 255)
    write_check_report(source, report, tmp_path / "out", splits=("train",))


def test_loading_is_measured(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    loading = measure_loading(source, source.records("train"))
    assert (loading["images"], loading["measured"]) == (6, 6)
    assert loading["ms_per_sample"] > 0
    assert loading["epoch_seconds"] == pytest.approx(6 * loading["ms_per_sample"] / 1000)
    assert loading["sample_mib"] == 40 * 48 * (3 * 4 + 8 + 1) / 2**20
    assert loading["worker_mib"] == pytest.approx(17 * loading["sample_mib"])
    assert measure_loading(source, []) is None


# ---------------------------------------------------------------------------- D402


def checkpoint(path, names):
    torch.save({"scribbleseg": {"data": {"class_names": tuple(names)}}, "state_dict": {}}, path)
    return path


@pytest.mark.parametrize(("number", "more"), [(5, ""), (6, " and 1 more"), (9, " and 4 more")])
def test_five_names_of_other_classes_are_listed(number, more):
    theirs = [*"ab", *(f"name_{i}" for i in range(number))]
    listed = ", ".join(f"'name_{i}' (id {i + 2})" for i in range(5))
    words = f"{number + 2} classes in the model, 2 in the data; only in the model: {listed}{more}"
    assert class_difference(theirs, ["a", "b"], owner="model") == words


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("background", "vessel", "cell"), ["same 3 names in another order", "id 1: checkpoint "
                                            "'vessel', data 'cell'"]),
        (("background", "cell"), ["2 classes in the checkpoint, 3 in the data", "only in the data: "
                                  "'vessel' (id 2)"]),
        (("background", "cell", "nerve"), ["only in the checkpoint: 'nerve' (id 2)",
                                           "only in the data: 'vessel' (id 2)"]),
        (("Background", "cell", "vessel"), ["1 names are spelt otherwise"]),
    ],
)  # fmt: skip
def test_classes_of_a_checkpoint(tmp_path, capsys, names, words):
    root = plain_folder(tmp_path / "data")
    file = checkpoint(tmp_path / "m.ckpt", names)
    (finding,) = check_checkpoint(FolderSource(root), file)
    assert (finding.code, finding.severity, finding.file) == ("D402", "error", str(file))
    for word in [str(file), "use the class file of its training data", *words]:
        assert word in finding.message
    assert run_command("check", root, "--checkpoint", file) == 1
    assert "D402" in capsys.readouterr().out


def test_fitting_and_unreadable_checkpoints(tmp_path, capsys):
    root = plain_folder(tmp_path / "data")
    source = FolderSource(root)
    file = checkpoint(tmp_path / "m.ckpt", source.class_names)
    assert check_checkpoint(source, file) == []
    assert run_command("check", root, "--checkpoint", file) == 0
    with pytest.raises(CheckpointError, match=r"none\.ckpt does not exist"):
        check_checkpoint(source, tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("404")
    with pytest.raises(CheckpointError, match=r"text\.ckpt cannot be read as a checkpoint"):
        check_checkpoint(source, tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt does not say its classes"):
        check_checkpoint(source, tmp_path / "other.ckpt")
    assert run_command("check", root, "--checkpoint", tmp_path / "none.ckpt") == 2


def test_class_difference_is_empty_only_for_equal_lists():
    assert class_difference(("a", "b"), ["a", "b"], owner="x") == ""
    long = class_difference([f"a{n}" for n in range(9)], [f"b{n}" for n in range(9)], owner="x")
    assert "and 4 more" in long


# ---------------------------------------------------------------------------- D501


def unsafe(root):
    return [(f.severity, f.message) for f in find_unsafe_files(root)]


def add_members(path, *infos):
    with open_tar(path, "w") as packed:
        for info in infos:
            packed.addfile(info, BytesIO(b""))


def link_to(target):
    info = TarInfo("a/link")
    info.type, info.linkname = SYMTYPE, target
    return info


def test_pickles_are_warned_of(tmp_path):
    root = plain_folder(tmp_path)
    assert unsafe(root) == []
    np.save(root / "plain.npy", np.zeros(3))
    np.savez(root / "plain.npz", a=np.zeros(3))
    assert unsafe(root) == []
    np.save(root / "scribbles" / "tags.npy", np.array({"img_0": 1}, dtype=object))
    np.savez(root / "masks" / "cams.npz", a=np.zeros(2), b=np.array([None]))
    (root / "masks" / "train.pth").write_bytes(b"")
    ((severity, message),) = unsafe(root)
    assert severity == "warning"
    assert "3 files hold pickled objects" in message
    for name in ("tags.npy", "cams.npz", "train.pth"):
        assert name in message
    report = check_source(FolderSource(root))
    assert [(f.code, f.severity) for f in report.findings] == [("D501", "warning")]
    assert not check_source(FolderSource(root), sample=4).findings


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.png", r"leaves its folder with '..'"),
        ("a/../../evil.png", r"leaves its folder with '..'"),
        ("..\\evil.png", r"leaves its folder with '..'"),
        ("/etc/evil", "absolute"),
        ("C:/evil", "absolute"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unsafe_archive_members(tmp_path, name, why, kind):
    root = plain_folder(tmp_path)
    path = root / f"scribbles.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/fine.png", "")
            archive.writestr(name, "")
    else:
        add_members(path, TarInfo("a/fine.png"), TarInfo(name))
    ((severity, message),) = unsafe(root)
    assert severity == "error"
    assert str(path) in message
    assert why in message
    assert "delete it" in message


def test_links_in_archives(tmp_path):
    add_members(tmp_path / "a.tar", link_to("other.png"), link_to("../b/other.png"))
    folder = TarInfo("a")
    folder.type = DIRTYPE
    add_members(tmp_path / "b.tar", folder)
    assert unsafe(tmp_path) == []
    for target in ("../../etc", "/etc/passwd"):
        add_members(tmp_path / "a.tar", link_to(target))
        ((_, message),) = unsafe(tmp_path)
        assert "member 'a/link' is a link" in message
    (tmp_path / "a.tar").write_text("no archive")
    (tmp_path / "b.zip").write_text("no archive")
    assert unsafe(tmp_path) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_in_xml(tmp_path, encoding):
    (tmp_path / "fine.xml").write_text("<annotation/>")
    assert unsafe(tmp_path) == []
    bomb = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY x "ha">]><a>&x;</a>'
    (tmp_path / "bomb.xml").write_text(bomb, encoding=encoding)
    ((severity, message),) = unsafe(tmp_path)
    assert severity == "error"
    assert "bomb.xml: 1 XML files declare a DTD" in message


# ---------------------------------------------------------------------------- D601


def pseudo_folder(folder, source, *, names=None, complete=True):
    records = source.records("train")
    for record in records:
        write_label(folder / f"{record.image_id}.png", np.zeros((40, 48), np.uint8))
    write_manifest(
        folder,
        class_names=names or source.class_names,
        files=len(records),
        complete=complete,
        split="train",
    )
    return folder


@pytest.fixture
def source(tmp_path):
    return FolderSource(plain_folder(tmp_path / "data"))


def test_fitting_pseudo_labels(tmp_path, source, capsys):
    folder = pseudo_folder(tmp_path / "pl", source)
    save(folder / "overview.png", np.zeros((4, 4, 3), np.uint8))
    write_label(folder / "img_7.png", np.zeros((40, 48), np.uint8))  # an image of val
    assert check_pseudo_labels(source, folder) == []
    assert run_command("check", source.root, "--pseudo-labels", folder) == 0
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*none: folder of pseudo-labels"):
        check_pseudo_labels(source, tmp_path / "none")


def other_classes(folder, source):
    pseudo_folder(folder, source, names=["background", "vessel", "cell"])


def not_complete(folder, source):
    pseudo_folder(folder, source, complete=False)


def no_manifest(folder, source):
    (folder / "manifest.json").unlink()


def broken_manifest(folder, source):
    (folder / "manifest.json").write_text("{")


def no_names(folder, source):
    (folder / "manifest.json").write_text('{"class_names": 3}')


def missing_label(folder, source):
    (folder / "img_2.png").unlink()


def foreign_label(folder, source):
    write_label(folder / "street.png", np.zeros((40, 48), np.uint8))


def small_label(folder, source):
    write_label(folder / "img_3.png", np.zeros((20, 24), np.uint8))


def wrong_id(folder, source):
    write_label(folder / "img_3.png", np.full((40, 48), 7, np.uint8))


def text_label(folder, source):
    (folder / "img_3.png").write_text("404")


@pytest.mark.parametrize(
    ("plant", "code", "severity", "words"),
    [
        (other_classes, "D601", "error", ["manifest.json", "same 3 names in another order"]),
        (not_complete, "D601", "error", ["manifest.json", "complete: false after 6 files"]),
        (no_manifest, "D601", "warning", ["manifest.json", "does not exist"]),
        (broken_manifest, "D202", "error", ["manifest.json", "not valid JSON"]),
        (no_names, "D601", "error", ["manifest.json", "`class_names` is 3, expected a list"]),
        (missing_label, "D601", "error", ["1 of 6 images of split 'train'", "img_2"]),
        (foreign_label, "D601", "warning", ["street.png", "1 labels belong to no image"]),
        (small_label, "D601", "error", ["img_3.png", "label is 24x20", "its image is 48x40"]),
        (wrong_id, "D101", "error", ["img_3.png", "value 7 on 1,920 px"]),
        (text_label, "D202", "error", ["img_3.png", "cannot be decoded"]),
    ],
)
def test_pseudo_labels_that_do_not_fit(tmp_path, source, plant, code, severity, words):
    folder = pseudo_folder(tmp_path / "pl", source)
    plant(folder, source)
    (finding,) = check_pseudo_labels(source, folder)
    assert (finding.code, finding.severity) == (code, severity)
    for word in [str(folder), *words]:
        assert word in finding.message
    status = run_command("check", source.root, "--pseudo-labels", folder)
    assert status == (1 if severity == "error" else 0)
