from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from scribbleseg import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional import (
    find_images,
    unique_names,
    walk_files,
    write_arrays,
    write_atomic,
    write_text,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    visible = ("b.png", "a.JPG", "sub/c.tif", "sub/deep/d.webp", "notes.txt")
    for name in (*visible, ".x.png", ".h/e.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _names(found) -> list[str]:
    return [str(relative) for _, relative in found]


def test_folder_is_searched_with_sub_folders(tree):
    found = find_images(tree)
    assert _names(found) == ["a.JPG", "b.png", "sub/c.tif", "sub/deep/d.webp"]
    assert all(path == tree / relative for path, relative in found)


def test_pattern_is_relative_to_its_fixed_part(tree, monkeypatch):
    assert _names(find_images(f"{tree}/sub/**/*")) == ["c.tif", "deep/d.webp"]
    monkeypatch.chdir(tree)
    assert _names(find_images("*.png")) == ["b.png"]
    assert _names(find_images("s*/*")) == ["sub/c.tif"]


def test_brackets_in_a_folder_name_are_no_pattern(tmp_path):
    (tmp_path / "run [1]").mkdir()
    (tmp_path / "run [1]" / "a.png").touch()
    assert _names(find_images(str(tmp_path / "run [1]"))) == ["a.png"]


def test_file_and_sequence(tree):
    assert _names(find_images(tree / "b.png")) == ["b.png"]
    listed = [tree / "sub/c.tif", tree / "a.JPG", tree / "gone.png", tree / "a.JPG"]
    assert _names(find_images(listed)) == ["sub/c.tif", "a.JPG", "gone.png"]
    assert _names(find_images([tree / "sub", tree / "b.png"])) == [
        "sub/c.tif",
        "sub/deep/d.webp",
        "b.png",
    ]


def test_excluded_folders_are_not_searched(tree):
    assert _names(find_images(tree, exclude=[tree / "sub", tree / "b.png"])) == ["a.JPG"]


def test_links_are_followed_inside_the_folder_and_refused_out_of_it(tree, tmp_path):
    (tree / "linked").symlink_to("sub/deep")
    (tree / "sub" / "deep" / "up").symlink_to("../../sub")  # a circle
    (tree / "gone.png").symlink_to("nothing.png")
    (tree / "other.txt").symlink_to(tmp_path / "secret.txt")  # nobody asks for texts
    inside = ["a.JPG", "b.png", "linked/d.webp", "linked/up/c.tif", "sub/c.tif", "sub/deep/d.webp"]
    assert _names(find_images(tree)) == list(walk_files(tree, (".jpg", ".png", ".tif", ".webp")))
    assert _names(find_images(tree)) == inside
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "s.png").touch()
    assert _names(find_images([tree, outside]))[-1] == "secret/s.png", "another root is a choice"
    for link, target, pattern in (("c.png", outside / "s.png", "c*"), ("folder", outside, "f*/*")):
        (tree / link).symlink_to(target)
        for images in (tree, [tree], f"{tree}/{pattern}"):
            with pytest.raises(LabelFormatError, match=rf"D501 .*{link}.*: link leaves the folder"):
                find_images(images)
        (tree / link).unlink()
    (tmp_path / "link").symlink_to(outside)
    assert _names(find_images(tmp_path / "link")) == ["s.png"], "the folder itself is a choice"


def test_nothing_found_says_what_counts(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    for images in (tmp_path / "empty", f"{tree}/*.gif", []):
        with pytest.raises(ScribbleNotFoundError, match=r"\.jpg, \.jpeg, \.png"):
            find_images(images)
    with pytest.raises(ScribbleNotFoundError, match="does not exist"):
        find_images(tmp_path / "missing")


def test_names_stay_different():
    files = ("a.jpg", "a.png", "a.jpg.png", "B.png", "b.tif", "v1.2.png")
    names = unique_names([PurePosixPath(file) for file in files])
    assert names == ["a.jpg", "a.png", "a.jpg.png", "B.png", "b.tif", "v1.2"]
    assert unique_names([PurePosixPath("x.png"), PurePosixPath("X.png")]) == ["x.png", "X.png"]


def test_failed_write_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "new" / "file.bin"
    write_atomic(path, lambda stream: stream.write(b"old"))

    def fail(stream):
        stream.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_arrays_load_without_pickle(tmp_path):
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    write_arrays(tmp_path / "a.npz", probs=values)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert stored.files == ["probs"]
        np.testing.assert_array_equal(stored["probs"], values)


def test_unchanged_text_is_not_written(tmp_path):
    path = tmp_path / "a.json"
    assert write_text(path, "Größe")
    before = path.stat().st_mtime_ns
    assert not write_text(path, "Größe")
    assert path.stat().st_mtime_ns == before
    assert path.read_text(encoding="utf-8") == "Größe"
