"""The report of a data check: one page, its numbers as JSON, and pictures."""

import json
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.tiny_folders import camvid_folder, plain_folder, save
from helpers.trees_convert import run_command, times
from PIL import Image

from scribbleseg import ConfigError, voc_palette
from scribbleseg.data import CheckReport, Finding, check_source, write_check_report
from scribbleseg.data.sources import FolderSource, SyntheticSource


class Page(HTMLParser):
    """Tags, attributes and text of a page, and whether each tag that opens is closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())

    def charts(self):
        """Texts of the charts, as a browser shows them."""
        (svg,) = (link for link in self.links if link.startswith("data:image/svg+xml;"))
        tree = ElementTree.fromstring(b64decode(svg.partition(",")[2]))
        return ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def written(source, folder, **options):
    report = check_source(source)
    return report, Page(write_check_report(source, report, folder, **options))


def test_report_is_one_self_contained_page(tmp_path):
    report, page = written(FolderSource(camvid_folder(tmp_path / "data")), tmp_path / "out")
    assert page.open == []
    assert not {"script", "link", "iframe"} & {*page.tags}
    kinds = sorted(re.split("[;,]", link)[0] for link in page.links)
    assert kinds == ["data:image/png", "data:image/svg+xml"]
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert {"road  25.0 | 25.0 %", "2-5  4", "0-127  4", "48x40  4"} <= {*page.charts()}


def test_names_are_neither_markup_nor_formulas_nor_escapes(tmp_path):
    names = ("background", "a$b_<i>x</i>$", "血管 & ce\x1b[31mll^{2}")
    root = plain_folder(tmp_path / "$d_<b>$", classes=names)
    (root / "images" / "img_5.png").write_text("404")
    _, page = written(FolderSource(root), tmp_path / "out", title=f"{root}\x9b")
    assert page.tags.count("b") == 1  # the code of the one finding
    assert not {"i", "b>"} & {*page.tags}
    assert not {"\x1b", "\x9b"} & {*page.words()}
    assert rf"{root}\x9b" in page.words()
    for number, name in enumerate(names):
        name = name.replace("\x1b", r"\x1b")
        assert f"{number} {name}" in page.words()
        assert any(text.startswith(f"{name}  ") for text in page.charts())


def pictures(folder):
    """Rows of the contact sheet with the image and the scribble on it."""
    with Image.open(folder / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    return [pixels[26 + 244 * row :][:240] for row in range((len(pixels) - 26) // 244)]


def test_files_with_findings_come_first_on_the_sheet(tmp_path):
    root = plain_folder(tmp_path / "data", stems=tuple(f"img_{number}" for number in range(12)))
    for number, grey in ((0, 60), (10, 90)):
        save(root / "images" / f"img_{number}.png", np.full((40, 48, 3), grey, np.uint8))
    save(root / "scribbles" / "img_0.png", np.full((40, 48), 255, np.uint8))  # a warning
    save(root / "scribbles" / "img_4.png", np.full((40, 48), 3, np.uint8))
    (root / "images" / "img_5.png").write_text("404")
    source = FolderSource(root)
    report = check_source(source)
    # the error counts of a file that has both
    report.findings.append(Finding("D104", "warning", "few", f"{root}/scribbles/img_4.png"))
    write_check_report(source, report, tmp_path / "out")
    rows = pictures(tmp_path / "out")
    assert len(rows) == 8
    # img_4 has no scribble that could be drawn, img_5 no pixels at all
    drawn = [bool((row[30:, :288] != row[30:, 324:612]).any()) for row in rows]
    assert drawn == 3 * [False] + 5 * [True]
    assert (rows[1][30:, :288] == 200).all()
    assert (rows[2][30:, :288] == 60).all()
    assert (rows[7][30:, :288] == 90).all()  # the others are spread over both splits


def test_thin_strokes_are_seen_on_reduced_pictures(tmp_path):
    root = plain_folder(tmp_path / "data")
    grey, scribble = np.full((880, 1200, 3), 128, np.uint8), np.full((880, 1200), 255, np.uint8)
    scribble[[101, 302, 503, 704], :] = 1
    for number in range(8):
        for folder, pixels in (("images", grey), ("scribbles", scribble)):
            save(root / folder / f"img_{number}.png", pixels)
    (root / "masks").rename(tmp_path / "masks")
    written(FolderSource(root), tmp_path / "out")
    row = pictures(tmp_path / "out")[0][:, 500]
    red = np.flatnonzero(abs(row - voc_palette()[1]).max(-1) < 70)
    assert {round(place / 240 * 880) // 100 for place in red} >= {1, 3, 5, 7}


@pytest.mark.parametrize("errors", [200, 201])
def test_a_page_lists_two_hundred_errors(tmp_path, errors):
    report = CheckReport([Finding("D101", "error", f"a{n}.png: 3") for n in range(errors)])
    page = Page(write_check_report(SyntheticSource(), report, tmp_path / "out"))
    assert page.words().count("D101 error") == 200
    assert ("and 1 more, see report.json" in page.words()) is (errors == 201)


def test_report_of_a_folder_that_cannot_be_listed(tmp_path):
    root = plain_folder(tmp_path / "data")
    (root / "val.txt").unlink()
    (root / "train.txt").write_text("nothing_of_this\n")
    _, page = written(FolderSource(root), tmp_path / "out")
    assert not (tmp_path / "out" / "contact_sheet.png").exists()
    assert "D301" in page.words()


def test_report_of_a_source_without_files(tmp_path):
    source = SyntheticSource(num_train=3, num_val=1, size=32)
    written(source, tmp_path / "out")
    assert len(pictures(tmp_path / "out")) == 4
    with pytest.raises(ConfigError, match=r"report\.html is a file, expected a folder"):
        written(source, tmp_path / "out" / "report.html")


def test_command_changes_no_file_of_the_data(tmp_path, capsys):
    root = plain_folder(tmp_path / "data")
    before = times(root)
    assert run_command("check", root, "--report", tmp_path / "out") == 0
    assert f"report: {tmp_path / 'out' / 'report.html'}" in capsys.readouterr().out
    assert times(root) == before
