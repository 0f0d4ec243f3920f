"""Tiny data sets on disk in the layouts that the sources read: seeded, at most 64×64 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from scribbleseg import voc_palette

STEMS = tuple(f"img_{number}" for number in range(8))
SIZE = (40, 48)
VOC_STEMS = ("2007_000032", "2007_000033", "2008_000008", "2008_000015", "2009_000001")


def blocks(number: int, num_classes: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Dense ids: vertical stripes, all classes in every image, started at a different class."""
    columns = np.arange(size[1]) * num_classes // size[1]
    return np.tile(((columns + number) % num_classes).astype(np.uint8), (size[0], 1))


def scribble_of(mask: np.ndarray) -> np.ndarray:
    """One horizontal stroke of two rows that keeps away from class borders."""
    scribble = np.full_like(mask, 255)
    row = mask.shape[0] // 2
    inside = (mask == np.roll(mask, 2, 1)) & (mask == np.roll(mask, -2, 1))
    scribble[row : row + 2] = np.where(inside, mask, 255)[row : row + 2]
    return scribble


def photo(number: int, mask: np.ndarray) -> np.ndarray:
    """Noisy colours that depend on the class, different in every image."""
    rng = np.random.default_rng(number)
    colours = np.array([40, 90, 140])[None, None] + 20 * (mask[..., None].astype(int) % 8)
    return (colours + rng.integers(0, 30, (*mask.shape, 3))).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, *, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(voc_palette().tobytes())
    image.save(path)
    return path


def write_list(path: Path, names: tuple[str, ...] | list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n", encoding="utf-8")
    return path


def plain_folder(
    root: Path,
    *,
    stems: tuple[str, ...] = STEMS,
    classes: tuple[str, ...] = ("background", "cell", "vessel"),
    lists: bool = True,
    masks: bool = True,
) -> Path:
    """``images/ scribbles/ masks/ classes.txt train.txt val.txt``; the last quarter is ``val``."""
    for number, stem in enumerate(stems):
        mask = blocks(number, len(classes))
        save(root / "images" / f"{stem}.png", photo(number, mask))
        save(root / "scribbles" / f"{stem}.png", scribble_of(mask))
        if masks:
            save(root / "masks" / f"{stem}.png", mask)
    write_list(root / "classes.txt", classes)
    if lists:
        held_out = len(stems) // 4
        write_list(root / "train.txt", stems[:-held_out])
        write_list(root / "val.txt", stems[-held_out:])
    return root


def camvid_folder(root: Path) -> Path:
    """A plain folder without background class, with void pixels in the masks."""
    plain_folder(root, stems=STEMS[:4], classes=("sky", "road", "car", "tree"))
    for stem in STEMS[:4]:
        mask = np.array(Image.open(root / "masks" / f"{stem}.png"))
        mask[:3] = 255
        save(root / "masks" / f"{stem}.png", mask)
    return root


def scribble_xml(
    strokes: list[tuple[str, list[tuple[int, int]]]], size: tuple[int, int] = SIZE
) -> str:
    """A ScribbleSup file: tag and points (x, y) of every polyline; ``size`` is (height, width)."""
    polygons = "".join(
        f"<polygon><tag>{tag}</tag>"
        + "".join(f"<point><X>{x}</X><Y>{y}</Y></point>" for x, y in points)
        + "</polygon>"
        for tag, points in strokes
    )
    return (
        "<annotation><filename>x.jpg</filename><size>"
        f"<width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
        f"<segmented>1</segmented>{polygons}</annotation>"
    )


def voc_tree(root: Path, *, scribbles: str = "png", aug_list: bool = True) -> Path:
    """``root/VOCdevkit/VOC2012`` with five images; scribbles as ``"png"``, ``"xml"`` or ``"both"``.

    The masks hold background, bicycle and tvmonitor; three images are ``train``, two ``val``.
    """
    voc = root / "VOCdevkit" / "VOC2012"
    ids = np.array([0, 2, 20], dtype=np.uint8)
    for number, stem in enumerate(VOC_STEMS):
        plain = blocks(number, 3)
        mask = ids[plain]
        save(voc / "JPEGImages" / f"{stem}.jpg", photo(number, plain))
        voided = mask.copy()
        voided[:2] = 255
        save(voc / "SegmentationClass" / f"{stem}.png", voided, palette=True)
        if scribbles in ("png", "both"):
            save(voc / "pascal_2012_scribble" / f"{stem}.png", scribble_of(mask))
        if scribbles in ("xml", "both"):
            path = voc / "pascal_2012" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            tags = {0: "background", 2: "bike", 20: "monitor"}
            strokes = [(tags[int(mask[20, x])], [(x - 2, 20), (x + 2, 20)]) for x in (7, 23, 40)]
            path.write_text(scribble_xml(strokes), encoding="utf-8")
    write_list(voc / "ImageSets" / "Segmentation" / "train.txt", VOC_STEMS[:2])
    write_list(voc / "ImageSets" / "Segmentation" / "val.txt", VOC_STEMS[3:])
    if aug_list:
        write_list(voc / "ImageSets" / "SegmentationAug" / "train.txt", VOC_STEMS[:3])
    return root


def acdc_release(root: Path, *, patients: tuple[int, ...] = (1, 2, 21, 100)) -> Path:
    """``ACDC_training_slices`` with slices 1 and 10 of each patient; 4 = unlabelled."""
    import h5py

    folder = root / "ACDC_training_slices"
    folder.mkdir(parents=True)
    for patient in patients:
        for number in (1, 10):
            mask = blocks(patient + number, 4)
            scribble = scribble_of(mask).astype(np.uint16)
            scribble[scribble == 255] = 4
            grey = photo(100 * patient + number, mask)[..., 0].astype(np.float32) / 255
            name = f"patient{patient:03d}_frame01_slice_{number}.h5"
            with h5py.File(folder / name, "w") as content:
                content["image"], content["label"], content["scribble"] = grey, mask, scribble
    return root


def acdc_plain(root: Path) -> Path:
    """The same as a plain folder: grey PNG, two patients, lists by patient."""
    stems = tuple(f"patient{p:03d}_frame01_slice{s:02d}" for p in (1, 5) for s in range(4))
    plain_folder(
        root,
        stems=stems,
        classes=("background", "right_ventricle", "myocardium", "left_ventricle"),
    )
    write_list(root / "train.txt", stems[:4])
    write_list(root / "val.txt", stems[4:])
    return root
