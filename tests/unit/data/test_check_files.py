"""Pickles, archives that escape, entities and pipes below the folder of a data set (D501)."""

import os
import stat
import zipfile
from io import BytesIO
from tarfile import DIRTYPE, SYMTYPE, TarInfo
from tarfile import open as open_tar

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import plain_folder

from scribbleseg.data import check_source
from scribbleseg.data.sources import FolderSource


def unsafe(root):
    findings, _ = internal("check files").find_unsafe_files(root)
    return [(finding.severity, finding.message) for finding in findings]


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
    np.save(root / "plain.npy", np.zeros(3))
    np.savez(root / "plain.npz", a=np.zeros(3))
    (root / ".hidden").mkdir()
    for name in (".w.pth", ".hidden/w.pth"):
        (root / name).write_bytes(b"")
    assert unsafe(root) == []
    np.save(root / "scribbles" / "tags.npy", np.array({"img_0": 1}, dtype=object))
    np.savez(root / "masks" / "cams.npz", a=np.zeros(2), b=np.array([None]))
    (root / "masks" / "train.pth").write_bytes(b"")
    ((severity, message),) = unsafe(root)
    assert severity == "warning"
    for words in ("3 files hold pickled objects", "tags.npy", "cams.npz", "train.pth"):
        assert words in message
    assert [finding.code for finding in check_source(FolderSource(root)).findings] == ["D501"]
    assert not check_source(FolderSource(root), sample=4).findings


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.png", "leaves its folder with '..'"),
        ("a/../../evil.png", "leaves its folder with '..'"),
        ("..\\evil.png", "leaves its folder with '..'"),
        ("/etc/evil", "is an absolute path"),
        ("C:/evil", "is an absolute path"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_unsafe_archive_members(tmp_path, name, why, kind):
    path = tmp_path / f"scribbles.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/fine.png", "")
            archive.writestr(name, "")
    else:
        add_members(path, TarInfo("a/fine.png"), TarInfo(name))
    ((severity, message),) = unsafe(tmp_path)
    assert severity == "error"
    assert message.startswith(f"{path}: member {name!r} {why}, expected")


def test_links_in_archives(tmp_path):
    folder = TarInfo("a")
    folder.type = DIRTYPE
    add_members(tmp_path / "a.tar", folder, link_to("other.png"), link_to("../b/other.png"))
    (tmp_path / "broken.tar").write_text("no archive")
    (tmp_path / "broken.zip").write_text("no archive")
    assert unsafe(tmp_path) == []
    for target in ("../../etc", "/etc/passwd"):
        add_members(tmp_path / "a.tar", link_to(target))
        ((_, message),) = unsafe(tmp_path)
        assert "member 'a/link' is a link" in message
    (tmp_path / "a.tar").unlink()
    link = zipfile.ZipInfo("link")
    link.external_attr = stat.S_IFLNK << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(link, "other.png")
    ((_, message),) = unsafe(tmp_path)
    assert "member 'link' is a link" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_in_xml(tmp_path, encoding):
    (tmp_path / "fine.xml").write_text("<annotation/>")
    assert unsafe(tmp_path) == []
    bomb = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY x "ha">]><a>&x;</a>'
    (tmp_path / "bomb.xml").write_text(bomb, encoding=encoding)
    ((severity, message),) = unsafe(tmp_path)
    assert severity == "error"
    assert "bomb.xml: 1 XML files declare a DTD" in message


def test_pipes_are_named_and_nothing_is_read(tmp_path):
    root = plain_folder(tmp_path)
    for name in ("images/img_0.png", "scribbles.zip", "notes.xml", "a.npy"):
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)
    report = check_source(FolderSource(root))
    (finding,) = report.findings
    assert (finding.code, finding.severity) == ("D501", "error")
    assert "4 entries are pipes, sockets or devices" in finding.message
    assert str(root / "images" / "img_0.png") in finding.message
    assert report.statistics == {}


def test_links_to_nothing_or_to_themselves_do_no_harm(tmp_path):
    root = plain_folder(tmp_path)
    (root / "loop.xml").symlink_to(root / "loop.xml")
    (root / "lost.zip").symlink_to(root / "nowhere")
    (root / "again").symlink_to(root)
    assert not check_source(FolderSource(root)).findings
    (root / "images" / "img_0.png").unlink()
    (root / "images" / "img_0.png").symlink_to(root / "images" / "img_0.png")
    assert check_source(FolderSource(root)).errors
