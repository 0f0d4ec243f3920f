"""Readers of files of every format, and damaged copies of these files: for a process of its own."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers.tiny_folders import STEMS, photo, plain_folder, scribble_of, scribble_xml
from helpers.tiny_folders import blocks as stripes
from helpers.trees_coco import coco_tree
from helpers.trees_labels import LINES, annotation_xml, click, write_json, write_s4
from helpers.trees_medical import write_nifti
from PIL import Image

MUTATIONS = 300
SECONDS = 10.0
MIB = 256  # more memory than before
_NASTY = (
    *("9" * 5000, "-1", "1e999", "NaN", "[" * 3000, "{", "}", '"', "<", ">", "&amp;", "\0", "*a"),
    *("null", "true", "[]", "{}", "0", "65536", "img_0", "\ud7ff", "1e18", "0x", "!!python/name:a"),
)


def run(kind: str, folder: str) -> None:
    """Read damaged copies of a file; writes ``report.json`` with what went wrong."""
    from scribbleseg import ScribbleSegError

    root = Path(folder)
    path, read = FORMATS[kind](root)
    read(path)  # what is not damaged is read
    whole = path.read_bytes()
    rng = np.random.default_rng(sum(map(ord, kind)))
    text = path.suffix in (".xml", ".json", ".yaml")
    before = _peak_mib()
    faults, refused, slowest = [], 0, 0.0
    for number in range(MUTATIONS):
        data = _repaired(_damaged_text(whole, rng) if text else _damaged(whole, rng), path)
        path.write_bytes(data)
        (root / "now.txt").write_text(f"{number}")
        start = time.monotonic()
        try:
            read(path)
        except ScribbleSegError:
            refused += 1
        except BaseException as error:  # noqa: BLE001 (what is not ours is what is looked for)
            faults.append(f"{number}: {type(error).__name__}: {error}"[:300])
            (root / f"fault_{number}{path.suffix}").write_bytes(data)
        slowest = max(slowest, time.monotonic() - start)
    report = {"faults": faults, "refused": refused, "slowest": slowest}
    report["mib"] = _peak_mib() - before
    (root / "report.json").write_text(json.dumps(report))


def _peak_mib() -> int:
    """Largest memory of this process so far."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: unknown
        return 0
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) // 1024


# ---------------------------------------------------------------------------- damage


def _damaged(data: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place, length = int(rng.integers(0, len(content))), int(rng.integers(1, 9))
        way = int(rng.integers(0, 6))
        if way == 0:
            content[place : place + length] = rng.bytes(length)
        elif way == 1:
            content[place] ^= 1 << int(rng.integers(0, 8))
        elif way == 2:
            content[place : place + length] = b"\xff" * length
        elif way == 3:
            content[place : place + length] = bytes(length)
        elif way == 4:
            del content[place : place + 4 * length]
        elif len(content) > 64 and rng.random() < 0.5:
            del content[max(64, place) :]
        # small headers hold what matters most
        early = int(rng.integers(0, min(len(content), 400)))
        content[early] = int(rng.integers(0, 256))
    return bytes(content)


def _damaged_text(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.2:
        return _damaged(data, rng)
    text = data.decode()
    for _ in range(int(rng.integers(1, 4))):
        tokens = list(re.finditer(r"[\w.-]+|[^\w\s]", text))
        token = tokens[int(rng.integers(0, len(tokens)))]
        nasty = _NASTY[int(rng.integers(0, len(_NASTY)))]
        text = text[: token.start()] + nasty + text[token.end() :]
    return text.encode(errors="replace")


def _repaired(data: bytes, path: Path) -> bytes:
    """Check sums that fit the damage, so that it reaches the readers behind them."""
    if path.suffix == ".png":
        out, place = bytearray(data[:8]), 8
        while place + 12 <= len(data):
            (length,) = struct.unpack(">I", data[place : place + 4])
            body = data[place + 4 : place + 8 + length]
            out += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
            place += 12 + length
        return bytes(out)
    if path.suffix == ".npz":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("img_0.npy", data[60:])
            archive.writestr("img_1.npy", data[60:])
        return packed.getvalue() if zlib.crc32(data) % 2 else data
    return data


# ---------------------------------------------------------------------------- formats

Reader = tuple[Path, Callable[[Path], object]]


def _pixels(root: Path, suffix: str) -> Reader:
    from scribbleseg.data import read_header, read_image, read_label

    path = root / f"a{suffix}"
    label = scribble_of(stripes(0, 3))
    image = Image.fromarray(label)
    image.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    image.save(path, compression="tiff_deflate" if suffix == ".tif" else None)

    def read(path: Path) -> None:
        try:
            read_header(path)
            read_image(path)
        finally:
            read_label(path, 3)

    return path, read


def _xml(root: Path) -> Reader:
    from scribbleseg.data.sources import FolderSource

    plain_folder(root / "set")
    path = root / "set" / "scribbles" / "img_0.xml"
    path.with_suffix(".png").unlink()
    path.write_text(scribble_xml([("cell", [(5, 5), (9, 5)]), ("vessel", [(20, 30)])]))
    return path, lambda _: _first(FolderSource(root / "set"))


def _annotation(root: Path) -> Reader:
    from scribbleseg.data import WeakLabels
    from scribbleseg.data.sources import FolderSource

    plain_folder(root / "set")
    for stem in STEMS:
        path = root / "set" / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(annotation_xml([("cell", (3, 2, 12, 21), False, ("head",))]))
    weak = WeakLabels(box_fill="center")
    path = root / "set" / "Annotations" / "img_0.xml"
    return path, lambda _: _first(FolderSource(root / "set", label_type="box", weak_labels=weak))


def _json(root: Path, label_type: str) -> Reader:
    from scribbleseg.data.sources import FolderSource

    plain_folder(root / "set")
    contents = {
        "point": ("points.json", [click(5, 6, 1), click(30, 20, "Vessel", 2)]),
        "box": ("boxes.json", [{"box": [4, 5, 14, 25], "cls": "cell"}]),
        "tag": ("class_labels.json", ["cell", 2]),
    }
    name, entries = contents[label_type]
    path = write_json(root / "set" / name, dict.fromkeys(STEMS, entries))
    return path, lambda _: _first(FolderSource(root / "set", label_type=label_type))


def _yaml(root: Path) -> Reader:
    from scribbleseg.data.sources import FolderSource

    plain_folder(root / "set")
    (root / "set" / "classes.txt").unlink()
    path = root / "set" / "classes.yaml"
    path.write_text(
        "classes:\n- {id: 0, name: background, color: [0, 0, 0], aliases: [bg]}\n"
        "- {id: 1, name: cell}\n- {id: 2, name: vessel, color: '#00ff00'}\n"
        "ignore: [7]\nunlabelled_value: 9\nunlabelled_color: [1, 2, 3]\nflip_pairs: [[cell, 2]]\n"
    )
    return path, lambda _: _first(FolderSource(root / "set"))


def _options(root: Path) -> Reader:
    from scribbleseg.data.sources import FolderSource

    plain_folder(root / "set")
    path = root / "set" / "dataset.yaml"
    path.write_text(
        "unlabelled_value: 9\nchannels: 3\nintensity: {mode: range, low: 0, high: 200}\n"
        "group_regex: 'img_(.)'\nrgb_channels: [2, 1, 0]\non_missing: skip\nimage_dir: images\n"
    )
    return path, lambda _: _first(FolderSource(root / "set"))


def _npz(root: Path) -> Reader:
    from scribbleseg.data import WeakLabels
    from scribbleseg.data.sources import FolderSource

    plain_folder(root / "set")
    path = root / "set" / "labels.npz"
    np.savez(path, **{stem: np.array([0, 1, 1], np.uint8) for stem in STEMS})
    weak = WeakLabels(class_labels="labels.npz")
    return path, lambda _: _first(FolderSource(root / "set", label_type="tag", weak_labels=weak))


def _npy(root: Path) -> Reader:
    from scribbleseg.data import read_header, read_image

    path = root / "a.npy"
    np.save(path, photo(0, stripes(0, 3)).astype(np.float32))

    def read(path: Path) -> None:
        read_header(path)
        read_image(path)

    return path, read


def _acdc(root: Path) -> Reader:
    import h5py

    from scribbleseg import Label, Record
    from scribbleseg.data.sources import ACDCSource

    path = root / "patient001_frame01_slice_1.h5"
    with h5py.File(path, "w") as content:
        mask = stripes(0, 4)
        content["image"] = photo(0, mask)[..., 0].astype(np.float32) / 255
        content["label"] = mask
        content.create_dataset("scribble", data=scribble_of(mask), compression="gzip")
    source = ACDCSource(root)

    def read(path: Path) -> None:
        labels = (Label(path, "map", entry, "mask") for entry in ("scribble", "label"))
        record = Record("patient001_frame01_slice_1", path, *labels)
        try:
            source.read_image(record)
        finally:
            source.read_mask(record)
            source.read_scribble(record)

    return path, read


def _s4(root: Path) -> Reader:
    from scribbleseg.data import read_superpixels
    from scribbleseg.data.sources import read_s4

    path = write_s4(root / "a.h5", LINES, (7, 26))
    import h5py

    with h5py.File(path, "a") as content:
        content["superpixels"] = np.ones((6, 5), np.int32)

    def read(path: Path) -> None:
        try:
            read_s4(path)
        finally:
            read_superpixels(path)

    return path, read


def _nifti(root: Path, suffix: str) -> Reader:
    from scribbleseg.data import read_stack, read_stack_header, whole_numbers
    from scribbleseg.functional import Intensity

    path = write_nifti(root / f"a{suffix}", np.arange(480, dtype=np.int16).reshape(4, 10, 12))

    def read(path: Path) -> None:
        header = read_stack_header(path)
        stack = read_stack(path, 2)
        assert stack.shape == header.shape(2)
        Intensity().apply(stack[..., None], name=str(path))
        whole_numbers(stack, path)

    return path, read


def _mat(root: Path) -> Reader:
    from scipy.io import savemat

    from scribbleseg.data import read_mat

    path = root / "a.mat"
    savemat(path, {"GTcls": {"Segmentation": stripes(0, 3)}}, do_compression=False)
    return path, lambda path: read_mat(path, ("GTcls.Segmentation",), "labels")


def _instances(root: Path) -> Reader:
    from scribbleseg.data.sources import COCOSource

    coco_tree(root / "set")
    path = root / "set" / "annotations" / "instances_train2014.json"

    def read(path: Path) -> None:
        source = COCOSource(root / "set", crowd="ignore", overlap="area")
        for record in source.records("train"):
            source.boxes(record)
            source.read_mask(source.with_mask(record))

    return path, read


def _first(source) -> None:
    record = source.records("train")[0]
    source.read_image(record)
    source.read_scribble(record)
    source.class_labels(record)
    source.read_mask(source.records("val")[0])


FORMATS: dict[str, Callable[[Path], Reader]] = {
    "png": lambda root: _pixels(root, ".png"),
    "tiff": lambda root: _pixels(root, ".tif"),
    "strokes": _xml,
    "annotation": _annotation,
    "points": lambda root: _json(root, "point"),
    "boxes": lambda root: _json(root, "box"),
    "image-level labels": lambda root: _json(root, "tag"),
    "classes": _yaml,
    "options": _options,
    "npz": _npz,
    "npy": _npy,
    "slices": _acdc,
    "lines": _s4,
    "nifti": lambda root: _nifti(root, ".nii"),
    "packed nifti": lambda root: _nifti(root, ".nii.gz"),
    "matlab": _mat,
    "instances": _instances,
}

os.environ.setdefault("OMP_NUM_THREADS", "1")
