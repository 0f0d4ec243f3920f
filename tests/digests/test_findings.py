"""Findings of the data check for every planted fault: code and severity, exit status, and text.

Codes and severities are a promise; texts have entries of their own, since they may be improved.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.digests import Digests
from helpers.planted_faults import FOLDER_FAULTS, VOC_FAULTS, missing_mask
from helpers.tiny_folders import STEMS, blocks, plain_folder, save, scribble_of, voc_tree

import scribbleseg.data
from scribbleseg import DataInfo, ScribbleSegError
from scribbleseg.data import Finding, check_source, leaked_images, main, name_digest
from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import check_manifest, parent_facts, write_label, write_manifest
from scribbleseg.methods import RegularizedModule

CLASSES = ("background", "cell", "vessel")
FAULTS: dict[str, Callable[[Path], list[Any] | None]] = {}


def fault(plant: Callable[[Path], list[Any] | None]) -> Callable[[Path], list[Any] | None]:
    """Plant something in a clean plain folder; further words of the command, if any."""
    FAULTS[plant.__name__] = lambda root: plant(plain_folder(root))
    return plant


for plant in FOLDER_FAULTS:
    fault(plant)
fault(missing_mask)  # logged, and no finding
for title, (kind, spoil) in VOC_FAULTS.items():
    # functions of a loop see its last values, but for defaults
    FAULTS[f"voc_{title}"] = lambda root, kind=kind, spoil=spoil: spoil(
        voc_tree(root, scribbles=kind)
    )


@fault
def clean(root: Path) -> None:
    """Nothing."""


@fault
def a_few_pixels_contradict(root: Path) -> None:
    path = root / "scribbles" / "img_0.png"
    mask = blocks(0, 3)
    scribble = scribble_of(mask)
    scribble[10, 4:16] = (mask[10, 4:16] + 1) % 3
    save(path, scribble)


@fault
def one_dense_scribble(root: Path) -> None:
    save(root / "scribbles" / "img_0.png", blocks(0, 3))


@fault
def pickles(root: Path) -> None:
    np.save(root / "tags.npy", np.array({"img_0": 1}, dtype=object))
    (root / "weights.pth").write_bytes(b"")


@fault
def archive_that_escapes(root: Path) -> None:
    with zipfile.ZipFile(root / "scribbles.zip", "w") as archive:
        archive.writestr("../evil.png", "")


@fault
def archive_of_absolute_paths(root: Path) -> None:
    with zipfile.ZipFile(root / "scribbles.zip", "w") as archive:
        archive.writestr("/etc/evil", "")


@fault
def entities(root: Path) -> None:
    (root / "bomb.xml").write_text('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha">]><a/>')


@fault
def empty_line_in_the_classes(root: Path) -> None:
    (root / "classes.txt").write_text("background\n\ncell\n")


@fault
def spacing_that_is_no_json(root: Path) -> None:
    (root / "spacing.json").write_text("{")


@fault
def spacing_of_two_numbers(root: Path) -> None:
    (root / "spacing.json").write_text('{"img_0": [1, 2]}')


@fault
def list_that_is_no_text(root: Path) -> None:
    (root / "train.txt").write_bytes(b"\xff\xfe\xfa")


@fault
def no_images(root: Path) -> list[Any]:
    (root / "images").rename(root / "pictures")
    return ["--source", "folder"]


def checkpoint_of(*names: str) -> Callable[[Path], list[Any]]:
    """Weights of other classes."""

    def plant(root: Path) -> list[Any]:
        plain_folder(root)
        path = root.parent / "model.ckpt"
        torch.save({"scribbleseg": {"data": {"class_names": names}}, "state_dict": {}}, path)
        return ["--checkpoint", path]

    return plant


FAULTS["checkpoint_in_another_order"] = checkpoint_of("background", "vessel", "cell")
FAULTS["checkpoint_of_fewer_classes"] = checkpoint_of("background", "cell")
FAULTS["checkpoint_spelt_otherwise"] = checkpoint_of("Background", "cell", "vessel")
FAULTS["checkpoint_of_the_same_classes"] = checkpoint_of(*CLASSES)


def pseudo_labels(spoil: Callable[[Path], Any], **manifest: Any) -> Callable[[Path], list[Any]]:
    """Labels of an earlier stage in which something is wrong."""

    def plant(root: Path) -> list[Any]:
        plain_folder(root)
        folder = root.parent / "pseudo"
        for stem in STEMS[:6]:
            write_label(folder / f"{stem}.png", np.zeros((40, 48), np.uint8))
        write_manifest(folder, **{"class_names": CLASSES, "files": 6, **manifest})
        spoil(folder)
        return ["--pseudo-labels", folder]

    return plant


def label(stem: str, value: int, height: int, width: int) -> Callable[[Path], Any]:
    """A label of one value."""
    pixels = np.full((height, width), value, np.uint8)
    return lambda folder: write_label(folder / f"{stem}.png", pixels)


FAULTS |= {
    "pseudo_labels": pseudo_labels(lambda folder: None),
    "pseudo_labels_of_other_classes": pseudo_labels(
        lambda folder: None, class_names=("background", "vessel", "cell")
    ),
    "pseudo_labels_not_complete": pseudo_labels(lambda folder: None, complete=False),
    "pseudo_labels_without_manifest": pseudo_labels(lambda f: (f / "manifest.json").unlink()),
    "pseudo_labels_broken_manifest": pseudo_labels(lambda f: (f / "manifest.json").write_text("{")),
    "pseudo_labels_without_names": pseudo_labels(
        lambda f: (f / "manifest.json").write_text('{"class_names": 3}')
    ),
    "pseudo_labels_one_missing": pseudo_labels(lambda f: (f / "img_2.png").unlink()),
    "pseudo_labels_one_foreign": pseudo_labels(label("street", 0, 40, 48)),
    "pseudo_labels_one_small": pseudo_labels(label("img_3", 0, 20, 24)),
    "pseudo_labels_wrong_id": pseudo_labels(label("img_3", 7, 40, 48)),
    "pseudo_labels_text": pseudo_labels(lambda f: (f / "img_3.png").write_text("404")),
    "pseudo_labels_nowhere": lambda root: (
        plain_folder(root) and ["--pseudo-labels", root.parent / "none"]
    ),
}


def without_paths(text: str, folder: Path) -> str:
    """Text of a finding as it is in any folder, with any version of what decodes files."""
    text = text.replace(str(folder), "…")
    for words in ("cannot be decoded", "cannot be read", "is not valid JSON", "well-formed XML"):
        text = re.sub(rf"({words}) \(.*?\)(?=;|,|$)", r"\1 (why)", text)
    return text.strip()


@pytest.mark.parametrize("name", FAULTS)
def test_finding_of_a_planted_fault(name: str, digest, tmp_path, capsys) -> None:
    """As ``python -m scribbleseg.data check ROOT --json`` tells it."""
    words = FAULTS[name](tmp_path / "data") or []
    words = words if isinstance(words, list) else []
    status = main(["check", str(tmp_path / "data"), "--json", *map(str, words)])
    printed = capsys.readouterr()
    if status == 2:
        codes = re.findall(r"D\d{3}", printed.err)
        found = [(f"{code} refused", printed.err) for code in codes]
    else:
        findings = json.loads(printed.out)["findings"]
        found = [(f"{f['code']} {f['severity']}", f["message"]) for f in findings]
    record(digest, name, found, tmp_path, status=status)


def record(
    digest: Digests, name: str, found: list[tuple[str, str]], folder: Path, **facts: Any
) -> None:
    """Compare codes with severities, and apart from them the first texts of each."""
    counts = Counter(code for code, _ in found)
    digest.check(name, {**facts, "findings": [f"{n} × {code}" for code, n in counts.items()]})
    texts: dict[str, list[str]] = {}
    for code, text in found:
        texts.setdefault(code, []).append(without_paths(text, folder))
    digest.check(f"text: {name}", {code: several[:2] for code, several in texts.items()})


# ------------------------------------------------------------------ outside of the command


def stale_labels(root: Path) -> None:
    """Labels made from seeds that have been made anew."""
    seeds = root / "seeds"
    write_manifest(seeds, class_names=CLASSES, files=0, made_by={"threshold": 0.25})
    write_manifest(root / "labels", class_names=CLASSES, files=0, **parent_facts(seeds=seeds))
    write_manifest(seeds, class_names=CLASSES, files=0, made_by={"threshold": 0.4})
    check_manifest(root / "labels", CLASSES)


def labels_not_complete(root: Path) -> None:
    """An interrupted command left them."""
    write_manifest(root / "labels", class_names=CLASSES, files=3, complete=False)
    check_manifest(root / "labels", CLASSES, complete=True)


def labels_of_other_classes(root: Path) -> None:
    """Ids would mean other classes."""
    write_manifest(root / "labels", class_names=CLASSES[::-1], files=3)
    check_manifest(root / "labels", CLASSES)


def unsafe_image_name(root: Path) -> None:
    """A name that leads out of the folder, in a manifest as in a list."""
    (root / "train.txt").write_text("/etc/passwd\n")
    FolderSource(root).records("train")


def weights_for(root: Path, **facts: Any) -> None:
    """Load a checkpoint of other data."""
    info = {"class_names": CLASSES, "source": "FolderSource", "in_channels": 3}
    module = RegularizedModule(3, encoder=TINY_ENCODER, encoder_weights=None)
    module.data_info = DataInfo(**info)
    stored = DataInfo(**{**info, **facts}).to_dict()
    module.on_load_checkpoint({"scribbleseg": {"data": stored, "inference": {}}})


def weights_of_other_classes(root: Path) -> None:
    """Before the first step."""
    weights_for(root, class_names=("background", "vessel", "cell"))


def weights_of_other_channels(root: Path) -> None:
    """Before the first step."""
    weights_for(root, in_channels=1)


def groups_in_two_splits(root: Path) -> list[Finding]:
    """Slices of a patient in training and validation."""
    return check_source(FolderSource(root, group_regex="img")).findings


def images_seen_by_the_weights(root: Path) -> list[Finding]:
    """A start trained on images that are to be scored."""
    return leaked_images({"model.ckpt": {name_digest("img_6")}}, ["img_6", "img_7"])


ELSEWHERE = (
    stale_labels,
    labels_not_complete,
    labels_of_other_classes,
    unsafe_image_name,
    weights_of_other_classes,
    weights_of_other_channels,
    groups_in_two_splits,
    images_seen_by_the_weights,
)


@pytest.mark.parametrize("plant", ELSEWHERE, ids=lambda plant: plant.__name__)
def test_finding_outside_of_the_command(plant, digest, tmp_path) -> None:
    """What loading, training and later stages say."""
    root = plain_folder(tmp_path / "data")
    try:
        found = [(f"{f.code} {f.severity}", str(f)) for f in plant(root)]
    except ScribbleSegError as error:
        found = [(f"{type(error).__name__} {str(error)[:4]}", str(error))]
    record(digest, plant.__name__, found, tmp_path)


def test_every_code_has_a_fault(digest) -> None:
    """Of those that the page on findings lists."""
    page = Path(scribbleseg.data.__file__).with_name("README.md").read_text(encoding="utf-8")
    recorded = json.loads(digest.path.read_text(encoding="utf-8"))
    codes = json.dumps([facts for name, facts in recorded.items() if "text: " not in name])
    assert {*re.findall(r"\| (D\d{3}) ", page)} <= {*re.findall(r"D\d{3}", codes)}
