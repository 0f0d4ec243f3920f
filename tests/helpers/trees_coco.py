"""Tiny trees of PASCAL Context, MS COCO and DensePose in the layouts of their releases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers.tiny_folders import VOC_STEMS, photo, save, scribble_xml, write_list

from scribbleseg.data.sources import COCO_CATEGORIES, read_layout

COCO_SIZE = (24, 32)

CONTEXT_CLASSES = read_layout("context").classes.names


def context_mask(number: int) -> np.ndarray:
    """Three stripes of classes 0, 7 and 59 in the coding with background, void at the top."""
    mask = np.zeros((20, 24), np.uint8)
    mask[:, 8:16], mask[:, 16:] = 7, 59
    mask = np.roll(mask, number * 8, axis=1)
    mask[:2] = 255
    return mask


def context_tree(root: Path, *, scribbles: str = "xml", labels: str = "png") -> Path:
    """``root/VOCdevkit/VOC2010``; five images, three of them ``train``."""
    base = root / "VOCdevkit" / "VOC2010"
    for number, stem in enumerate(VOC_STEMS):
        mask = context_mask(number)
        save(base / "JPEGImages" / f"{stem}.jpg", photo(number, mask % 8))
        if labels == "png":
            save(base / "SegmentationClassContext" / f"{stem}.png", mask, palette=number % 2 == 0)
        if scribbles == "xml":
            strokes = [
                (CONTEXT_CLASSES[mask[10, x]], [(x - 1, 10), (x + 1, 10)]) for x in (4, 12, 20)
            ]
            path = base / "pascal_context" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(scribble_xml(strokes, (20, 24)), encoding="utf-8")
        else:
            scribble = np.full_like(mask, 255)
            scribble[10] = mask[10]
            save(base / "pascal_context" / f"{stem}.png", scribble)
    lists = base / "ImageSets" / "SegmentationContext"
    write_list(lists / "train.txt", VOC_STEMS[:3])
    write_list(lists / "val.txt", VOC_STEMS[3:])
    return root


def context_mat_labels(root: Path) -> dict[str, np.ndarray]:
    """``trainval/STEM.mat`` with 459 ids and ``labels.txt``; returns the ids with background."""
    from scipy.io import savemat

    base = root / "VOCdevkit" / "VOC2010"
    # ids of the release are alphabetical over all 459 names
    names = sorted([*CONTEXT_CLASSES[1:], *(f"other {number}" for number in range(400))])
    ids = {name: number for number, name in enumerate(names, 1)}
    lines = "\n".join(f"{number}: {name}" for name, number in ids.items())
    (base / "labels.txt").write_text(lines + "\n", encoding="utf-8")
    (base / "trainval").mkdir()
    expected = {}
    for number, stem in enumerate(VOC_STEMS):
        mask = context_mask(number)
        mask[:2] = 0
        table = np.array([ids["other 7"], *(ids[name] for name in CONTEXT_CLASSES[1:])])
        savemat(base / "trainval" / f"{stem}.mat", {"LabelMap": table[mask].astype(np.uint16)})
        expected[stem] = mask
    return expected


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """Corners of a polygon in COCO's order."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def annotation(number: int, image: int, category: int, box: tuple[float, ...], **more) -> dict:
    """An object with a rectangular polygon; ``box`` is x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    return {
        "segmentation": [rectangle(*box)],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
        "image_id": image,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "category_id": category,
        "id": number,
        **more,
    }


def crowd_counts(rows: slice, columns: slice) -> list[int]:
    """Run lengths of a rectangle, column by column, starting with background."""
    mask = np.zeros(COCO_SIZE, np.uint8)
    mask[rows, columns] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return counts if flat[0] == 0 else [0, *counts]


def instances(split: str, year: int = 2014) -> dict:
    """Annotations of one split: train has images 9, 25 and 30, the last without object."""
    numbers = {"train": (25, 9, 30), "val": (42, 73)}[split]
    prefix = "" if year == 2017 else f"COCO_{split}{year}_"
    height, width = COCO_SIZE
    found = [
        # a large person over an earlier, small dog; a crowd of cars over both
        annotation(101, 9, 18, (4, 4, 10, 10)),
        annotation(102, 25, 90, (0, 0, 8, 8)),
        annotation(103, 9, 1, (2, 2, 20, 20)),
        annotation(
            104,
            9,
            3,
            (0, 16, 32, 24),
            iscrowd=1,
            segmentation={"size": [height, width], "counts": crowd_counts(np.s_[16:], np.s_[:])},
        ),
    ]
    if split == "val":
        found = [annotation(201, 42, 2, (1, 1, 9, 9)), annotation(202, 73, 4, (1, 1, 30, 20))]
    return {
        "info": {"description": "tiny, with an umlaut: ü", "year": year},
        "images": [
            {"id": n, "file_name": f"{prefix}{n:012d}.jpg", "height": height, "width": width}
            for n in numbers
        ],
        "licenses": [{"id": 1, "name": "none"}],
        "annotations": found,
        "categories": [
            {"supercategory": "thing", "id": n, "name": name} for n, name in COCO_CATEGORIES.items()
        ],
    }


def coco_tree(root: Path, *, year: int = 2014, scribbles: bool = True) -> Path:
    """``root/train2014``, ``val2014``, ``annotations`` and ``scribbles``."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = instances(split, year)
        path = root / "annotations" / f"instances_{split}{year}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        for item in content["images"]:
            plain = np.zeros(COCO_SIZE, np.uint8)
            save(root / f"{split}{year}" / item["file_name"], photo(item["id"], plain))
            if scribbles:
                scribble = np.full(COCO_SIZE, 255, np.uint8)
                scribble[12, 4:8] = 1
                save(root / "scribbles" / f"{Path(item['file_name']).stem}.png", scribble)
    return root


def densepose_tree(root: Path) -> Path:
    """Images of COCO, dense labels, points, and lists of three columns."""
    names = {
        "train2014": [f"COCO_train2014_{number:012d}" for number in (36, 49)],
        "val2014": ["COCO_val2014_000000000785"],
    }
    for folder, stems in names.items():
        for stem in stems:
            mask = np.repeat(np.arange(15, dtype=np.uint8), 2)[None].repeat(12, axis=0).copy()
            mask[:2] = 255
            points = np.full_like(mask, 255)
            points[6] = mask[6]
            save(root / "images" / folder / f"{stem}.jpg", photo(1, mask % 8))
            save(root / "segcls" / "densepose" / "gray" / f"{stem}.png", mask)
            save(root / "segcls" / "densepose_points" / "gray" / f"{stem}.png", points)
    for name, folder, labels in (
        ("panoptic_train2014_points_pmi0.1_256.txt", "train2014", "densepose_points"),
        ("panoptic_minival2014.txt", "val2014", "densepose"),
        ("panoptic_train2014_sub.txt", "train2014", "densepose"),
    ):
        label = f"segcls/{labels}/gray"
        lines = [f"images/{folder}/{s}.jpg {label}/{s}.png {label}/{s}.png" for s in names[folder]]
        write_list(root / "datasets" / "densepose" / name, lines)
    return root
