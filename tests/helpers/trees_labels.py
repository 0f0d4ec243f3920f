"""Tiny trees of clicks, boxes, tags, CamVid, Scribbles for All and block labels, as released."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers.tiny_folders import SIZE, photo, save, write_list


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def click(x, y, cls, rank=1):
    return {"x": x, "y": y, "cls": cls, "rank": rank}


def annotation_xml(objects, size=SIZE) -> str:
    """A devkit file; objects are (name, (xmin, ymin, xmax, ymax), difficult, part names)."""
    parts = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{int(hard)}</difficult>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        + "".join(
            f"<part><name>{part}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>2</ymax></bndbox></part>"
            for part in inner
        )
        + "</object>"
        for name, (x0, y0, x1, y1), hard, inner in objects
    )
    return (
        "<annotation><folder>VOC2012</folder><size>"
        f"<width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
        f"<segmented>1</segmented>{parts}</annotation>"
    )


def write_annotation(path: Path, objects) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(annotation_xml(objects), encoding="utf-8")
    return path


def stripes(values, size=SIZE, start=0) -> np.ndarray:
    """Vertical stripes of file values."""
    columns = np.arange(size[1]) * len(values) // size[1]
    row = np.array(values, np.uint8)[(columns + start) % len(values)]
    return np.tile(row, (size[0], 1))


def middle_rows(mask: np.ndarray, unlabelled: int) -> np.ndarray:
    """Two labelled rows of a mask."""
    label = np.full_like(mask, unlabelled)
    label[20:22] = mask[20:22]
    return label


# --------------------------------------------------------------------------- CamVid

CAMVID_STEMS = {
    "train": ("0001TP_006690", "0006R0_f00930", "0016E5_00390"),
    "val": ("0016E5_07959",),
    "test": ("0001TP_008550", "Seq05VD_f00000"),
}


def camvid_tree(root: Path, *, scribbles: bool = True, lists: bool = True) -> Path:
    """``train trainannot … train.txt`` of the SegNet tutorial; stripes of sky, road, car, 11."""
    for number, (split, stems) in enumerate(CAMVID_STEMS.items()):
        for index, stem in enumerate(stems):
            mask = stripes((0, 3, 8, 11), start=number)
            save(root / split / f"{stem}.png", photo(len(stem) + 7 * number + index, mask))
            save(root / f"{split}annot" / f"{stem}.png", mask)
            if scribbles and split == "train":
                save(root / "scribbles" / f"{stem}.png", middle_rows(mask, 255))
        if lists:
            base = f"/SegNet/CamVid/{split}"
            pairs = [f"{base}/{stem}.png {base}annot/{stem}.png" for stem in stems]
            write_list(root / f"{split}.txt", pairs)
    return root


# ------------------------------------------------------------------- blocks and s4

CITIES = ("ulm_000000_000019", "ulm_000001_000019", "bonn_000000_000019")
LABEL_IDS = (7, 26, 0, 21)  # road, car, unlabelled, vegetation
TRAIN_IDS = (0, 13, 255, 8)


def as_ids(values: np.ndarray) -> np.ndarray:
    """What labelIds mean, computed by hand: 7 -> 0, 26 -> 13, 21 -> 8, others 255."""
    table = np.full(256, 255, np.uint8)
    table[[7, 26, 21]] = 0, 13, 8
    return table[values]


def block_tree(root: Path, *, values=LABEL_IDS, unlabelled: int = 255) -> Path:
    """``{train,val}/{image,label}`` and ``train/sparse_label/block10`` without roles in names."""
    for number, stem in enumerate(CITIES):
        split = "train" if number < 2 else "val"
        mask = stripes(values, start=number)
        save(root / split / "image" / f"{stem}.png", photo(number, mask))
        save(root / split / "label" / f"{stem}.png", mask)
        if split == "train":
            for block in (10, 20, 50):
                label = np.full_like(mask, unlabelled)
                rows = block * mask.shape[0] // 100
                label[:rows] = mask[:rows]
                save(root / split / "sparse_label" / f"block{block}" / f"{stem}.png", label)
    return root


def grey(values: np.ndarray) -> np.ndarray:
    """Three equal channels."""
    return np.repeat(values[..., None], 3, axis=2)


def write_s4(path: Path, lines, values, *, size=SIZE, background=0, **config) -> Path:
    """The four data sets of an s4 file; every line has the same number of points."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    noted = {"line_thickness": 3, "scribble_scale": 0.9, **config}
    if background is not None:
        noted["background_px_value"] = [background] * 3
    with h5py.File(path, "w") as content:
        content["scribble"] = np.array(lines, np.float64)
        content["scribble_values"] = np.repeat(np.array(values, np.int32)[:, None], 3, axis=1)
        content["image_dims"] = np.array([*size, 3])
        content["config"] = json.dumps(noted).encode()
    return path


LINES = (((4.0, 21.0), (9.0, 21.0)), ((16.0, 21.0), (20.0, 21.0)))


def s4_cityscapes(root: Path, *, png: bool = True, h5: bool = True, background: int = 0) -> Path:
    """``leftImg8bit gtFine scribbles/gtFine/train``: strokes of road and car in every image."""
    for number, stem in enumerate(CITIES):
        split, city = "train" if number < 2 else "val", stem.split("_", 1)[0]
        mask = stripes(LABEL_IDS)
        save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", photo(number, mask))
        labels = root / "gtFine" / split / city
        save(labels / f"{stem}_gtFine_labelIds.png", mask)
        save(labels / f"{stem}_gtFine_instanceIds.png", mask.astype(np.uint16) * 1000)
        save(labels / f"{stem}_gtFine_color.png", grey(mask))
        if split == "train":
            place = root / "scribbles" / "gtFine" / split / city / f"{stem}_gtFine_labelIds"
            if png:
                save(place.with_name(f"{place.name}.png"), grey(middle_rows(mask, background)))
            if h5:
                write_s4(place.with_name(f"{place.name}.h5"), LINES, (7, 26), background=background)
    return root
