import zipfile

import numpy as np
import pytest
from helpers.tiny_folders import scribble_xml

from scribbleseg import Label, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import list_zip, names_with_aliases, read_scribblesup
from scribbleseg.data.sources import read_layout

VOC_CLASSES = read_layout("voc").classes.names
IDS = names_with_aliases(VOC_CLASSES)
STROKES = [("plane", [(1, 2), (5, 6)]), ("Background", [(3, 3)]), ("tv", [(0, 0), (1, 1)])]


def strokes_in(path, entry=""):
    return Label(path, "strokes", entry, "scribble")


def test_tags_points_and_size(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(scribble_xml(STROKES))
    strokes = read_scribblesup(strokes_in(path), IDS, image_size=(40, 48))
    assert [stroke.label for stroke in strokes] == [1, 0, 20]
    np.testing.assert_array_equal(strokes[0].points, [(1, 2), (5, 6)])


def test_short_names_and_own_aliases():
    short = {"plane": "aeroplane", "bike": "bicycle", "table": "diningtable", "couch": "sofa"}
    short |= {"plant": "pottedplant", "monitor": "tvmonitor", "motorcycle": "motorbike"}
    assert {tag: VOC_CLASSES[IDS[tag]] for tag in short} == short
    assert names_with_aliases(("a", "b"), {"Beta": 1})["beta"] == 1


def test_zip_members_and_one_handle(tmp_path):
    archive = tmp_path / "scribbles.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("pascal_2012/2007_000032.xml", scribble_xml(STROKES))
    members = list_zip(archive)
    assert list(members) == ["2007_000032"]
    assert len(read_scribblesup(members["2007_000032"], IDS)) == 3
    for missing in (strokes_in(archive, "b.xml"), strokes_in(tmp_path / "b.xml")):
        with pytest.raises(ScribbleNotFoundError, match=r"D301 .*b\.xml does not exist"):
            read_scribblesup(missing, IDS)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]>'
    "<annotation>&y;</annotation>"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "D501 .*DTD"),
        ("<annotation>", "D202 .*well-formed"),
        (scribble_xml([("unicorn", [(1, 1)])]), "D401 .*'unicorn'"),
        (scribble_xml([]), "D104 .*0 polygons"),
        (scribble_xml(STROKES, (99, 48)), "D201 .*48x99.*48x40"),
        (scribble_xml(STROKES).replace("<width>48</width>", ""), "D202 .*size/width"),
        (
            scribble_xml(STROKES).replace(">48<", f">{'9' * 5000}<"),
            "D202 .*size/width.* is .9{40}.",
        ),
        (scribble_xml(STROKES).replace(">48<", ">\u00b2<"), "D202 .*size/width"),
        ("<a>" * 100_000, "D202"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "D202 .*well-formed"),
        (scribble_xml([("plane", [])]), "D202 .*0 points"),
        (scribble_xml(STROKES).replace("<X>1</X>", "<X>one</X>", 1), "D202 .*numeric"),
    ],
)
def test_faults_name_the_file(tmp_path, text, message):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(LabelFormatError, match=message) as error:
        read_scribblesup(strokes_in(path), IDS, image_size=(40, 48))
    assert "a.xml" in str(error.value)


def test_files_larger_than_64_mib_are_not_read(tmp_path):
    path, archive = tmp_path / "a.xml", tmp_path / "a.zip"
    path.write_text(scribble_xml(STROKES))
    with path.open("ab") as stream:
        stream.truncate(64 << 20)
    with pytest.raises(LabelFormatError, match=r"D202 .*a\.xml") as error:  # zeros, but read
        read_scribblesup(strokes_in(path), IDS)
    assert "64 MiB" not in str(error.value)
    with path.open("ab") as stream:
        stream.truncate((64 << 20) + 1)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as members:
        members.write(path, "a.xml")
    for place in (strokes_in(path), strokes_in(archive, "a.xml")):
        with pytest.raises(LabelFormatError, match=r"D501 .*a\.xml: .*more than 64 MiB"):
            read_scribblesup(place, IDS)


def test_broken_archives_are_named(tmp_path):
    archive = tmp_path / "scribbles.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(LabelFormatError, match=r"D202 .*scribbles\.zip: .*not a complete zip"):
        read_scribblesup(strokes_in(archive, "a.xml"), IDS)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as members:
        members.writestr("a.xml", scribble_xml(STROKES))
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[data.index(b"<annotation>") + 1] ^= 1  # its checksum no longer fits
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(LabelFormatError, match=r"D202 .*b\.zip: .*a\.xml"):
        read_scribblesup(strokes_in(tmp_path / "b.zip", "a.xml"), IDS)
    with pytest.raises(ScribbleNotFoundError, match=r"c\.xml does not exist in .*b\.zip"):
        read_scribblesup(strokes_in(tmp_path / "b.zip", "c.xml"), IDS)
    with pytest.raises(ScribbleNotFoundError, match=r"does not exist"):
        read_scribblesup(strokes_in(tmp_path / "a.xml"), IDS)
