import zipfile

import numpy as np
import pytest
from helpers.tiny_folders import scribble_xml

from scribbleseg import LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import class_ids, list_zip, read_scribblesup
from scribbleseg.data.sources import VOC_CLASSES

IDS = class_ids(VOC_CLASSES)
STROKES = [("plane", [(1, 2), (5, 6)]), ("Background", [(3, 3)]), ("tv", [(0, 0), (1, 1)])]


def test_tags_points_and_size(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(scribble_xml(STROKES))
    content = read_scribblesup(path, IDS, image_size=(40, 48))
    assert content.size == (40, 48)
    assert [stroke.label for stroke in content.strokes] == [1, 0, 20]
    np.testing.assert_array_equal(content.strokes[0].points, [(1, 2), (5, 6)])


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("plane", "aeroplane"),
        ("bike", "bicycle"),
        ("table", "diningtable"),
        ("plant", "pottedplant"),
        ("monitor", "tvmonitor"),
        ("motorcycle", "motorbike"),
        ("couch", "sofa"),
    ],
)
def test_short_names(tag, name):
    assert IDS[tag] == VOC_CLASSES.index(name)


def test_own_aliases():
    assert class_ids(("a", "b"), {"Beta": 1})["beta"] == 1


def test_zip_members_and_one_handle(tmp_path):
    archive = tmp_path / "scribbles.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("pascal_2012/2007_000032.xml", scribble_xml(STROKES))
    members = list_zip(archive)
    assert list(members) == ["2007_000032"]
    assert len(read_scribblesup(members["2007_000032"], IDS).strokes) == 3
    with pytest.raises(ScribbleNotFoundError, match=r"b\.xml does not exist"):
        read_scribblesup(archive / "b.xml", IDS)


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
        (scribble_xml([("plane", [])]), "D202 .*0 points"),
        (scribble_xml(STROKES).replace("<X>1</X>", "<X>one</X>", 1), "D202 .*numeric"),
    ],
)
def test_faults_name_the_file(tmp_path, text, message):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(LabelFormatError, match=message) as error:
        read_scribblesup(path, IDS, image_size=(40, 48))
    assert "a.xml" in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"does not exist"):
        read_scribblesup(tmp_path / "a.xml", IDS)
