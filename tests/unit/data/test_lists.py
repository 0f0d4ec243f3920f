"""Split files and listings of folders."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers.tiny_folders import save, write_list

from scribbleseg import LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import LABEL_SUFFIXES, find_images, read_split

# ---------------------------------------------------------------------------- split files


@pytest.mark.parametrize(
    ("text", "stems"),
    [
        (b"\xef\xbb\xbfa\r\nb\r\n\r\n# c\r\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"/JPEGImages/a.jpg /SegmentationClassAug/a.png\n", ["a"]),
        (b"/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png\n", ["x"]),
        (b"JPEGImages/a.jpg scribble/a.png seg/a.png\n", ["a"]),
        (b"a\tb\n", ["a"]),
        (b"my photo 1\nmy photo 2.JPG\n", ["my photo 1", "my photo 2"]),
        (b"images/site_a/scan.v2.png\n", ["site_a/scan.v2"]),
        (b"./a.tif\n", ["a"]),
        ("größe\n".encode(), ["größe"]),
        ("gro\u0308\u00dfe\n".encode(), ["größe"]),
        (b"image,label\na.png,x.png\nb.png,y.png\n", ["a", "b"]),
        (b'filename\n"my, photo.jpg"\nother\n', ["my, photo", "other"]),
        (b"a,1\nb,2\n", ["a", "b"]),
        (b"\xef\xbb\xbfImage_ID\r\nsite/a\r\n", ["site/a"]),
    ],
)
def test_read_split(tmp_path, text, stems):
    path = tmp_path / ("train.csv" if b"," in text or b"_ID" in text else "train.txt")
    path.write_bytes(text)
    assert read_split(path) == stems


@pytest.mark.parametrize("name", ["../x", "a/../../x", "C:/x", "a\\x", "a\0x"])
def test_unsafe_names_are_refused(tmp_path, name):
    write_list(tmp_path / "train.txt", ["ok", name])
    with pytest.raises(LabelFormatError, match=r"D501 .*train\.txt: line 2"):
        read_split(tmp_path / "train.txt")


def test_split_file_faults(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    for name in ("none.txt", "pipe.txt", "folder.txt"):
        with pytest.raises(ScribbleNotFoundError, match=rf"D301 .*{name}: split file does not"):
            read_split(tmp_path / name)
    with pytest.raises(ScribbleNotFoundError, match=r"lists no image"):
        read_split(write_list(tmp_path / "a.txt", ["# only a comment"]))
    with pytest.raises(LabelFormatError, match=r"D303 .*'a' is listed twice, in lines 1 and 3"):
        read_split(write_list(tmp_path / "b.txt", ["a", "b", "a.png"]))
    with pytest.raises(LabelFormatError, match=r"D501 .*line 1 names no file: 'images/'"):
        read_split(write_list(tmp_path / "d.txt", ["images/"]))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelFormatError, match=r"D202 .*UTF-8"):
        read_split(tmp_path / "c.txt")


# ---------------------------------------------------------------------------- folders


def test_find_images_by_stem(tmp_path):
    pixels = np.zeros((2, 2), np.uint8)
    for name in ("b.JPG", "a.png", "sub/a.png", "sub/deep/c.tif", ".hidden.png"):
        save(tmp_path / name, pixels)
    (tmp_path / "notes.txt").touch()
    assert list(find_images(tmp_path)) == ["a", "b", "sub/a", "sub/deep/c"]


def test_find_images_faults(tmp_path):
    pixels = np.zeros((2, 2), np.uint8)
    save(tmp_path / "x" / "a.png", pixels)
    save(tmp_path / "x" / "a.jpg", pixels)
    with pytest.raises(LabelFormatError, match=r"D303 .*a\.jpg and a\.png"):
        find_images(tmp_path / "x")
    found = find_images(tmp_path / "x", suffixes=LABEL_SUFFIXES, unique=False)
    assert found["a"].suffix == ".png"
    with pytest.raises(ScribbleNotFoundError, match=r"D301"):
        find_images(tmp_path / "none")


def test_links_must_stay_inside(tmp_path):
    outside = save(tmp_path / "secret.png", np.zeros((2, 2), np.uint8))
    inside = save(tmp_path / "images" / "a.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "images" / "b.png").symlink_to(inside)
    assert list(find_images(tmp_path / "images")) == ["a", "b"]
    (tmp_path / "images" / "c.png").symlink_to(outside)
    with pytest.raises(LabelFormatError, match=r"D501 .*c\.png: link leaves"):
        find_images(tmp_path / "images")
    assert list(find_images(tmp_path / "images", within=tmp_path)) == ["a", "b", "c"]
    # the folder itself is the user's choice
    (tmp_path / "linked").symlink_to(tmp_path / "images" / "..", target_is_directory=True)
    assert "secret" in find_images(tmp_path / "linked")


def test_links_to_folders_inside_are_followed_and_loops_end(tmp_path):
    pixels = np.zeros((2, 2), np.uint8)
    save(tmp_path / "set" / "images" / "a.png", pixels)
    save(tmp_path / "set" / "images" / "deep" / "b.png", pixels)
    (tmp_path / "set" / "images" / "linked").symlink_to("deep")
    (tmp_path / "set" / "images" / "deep" / "up").symlink_to("..")
    (tmp_path / "set" / "images" / "gone").symlink_to("nothing")
    found = list(find_images(tmp_path / "set" / "images"))
    assert found == ["a", "deep/b", "linked/b"]
    save(tmp_path / "elsewhere" / "c.png", pixels)
    (tmp_path / "set" / "images" / "p2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LabelFormatError, match=r"D501 .*images/p2: link leaves the folder"):
        find_images(tmp_path / "set" / "images")


def test_decomposed_letters_of_files_are_composed(tmp_path):
    save(tmp_path / "gro\u0308\u00dfe.png", np.zeros((2, 2), np.uint8))
    assert list(find_images(tmp_path)) == ["gr\u00f6\u00dfe"]


def test_repeated_names_are_kept_where_they_are_allowed(tmp_path, caplog):
    path = write_list(tmp_path / "train.txt", ["a", "b", "a.png", "a"])
    assert read_split(path, repeats=True) == ["a", "b", "a", "a"]
    assert "lists 2 names 4 times" in caplog.text
