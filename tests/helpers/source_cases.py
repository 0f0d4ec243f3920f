"""Every source on a tiny tree of its own: name to a function that writes the tree and opens it."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from helpers.tiny_folders import (
    STEMS,
    VOC_STEMS,
    acdc_plain,
    acdc_release,
    blocks,
    camvid_folder,
    photo,
    plain_folder,
    save,
    scribble_of,
    scribble_xml,
    voc_tree,
    write_list,
)
from helpers.trees_coco import coco_tree, context_mat_labels, context_tree, densepose_tree
from helpers.trees_labels import (
    LINES,
    block_tree,
    camvid_tree,
    click,
    grey,
    middle_rows,
    s4_cityscapes,
    stripes,
    write_annotation,
    write_json,
    write_s4,
)
from helpers.trees_medical import (
    channel_folder,
    nnunet_pictures,
    nnunet_volumes,
    raw_acdc,
    volume_image,
    volume_labels,
    volume_scribbles,
    write_nifti,
)
from PIL import Image

from scribbleseg.data.sources import (
    ACDCSource,
    COCOSource,
    FolderSource,
    LayoutSource,
    NiftiSource,
    NnUNetSource,
    PascalContextSource,
    S4Source,
    SyntheticSource,
    VOCSource,
)
from scribbleseg.functional import Intensity, write_label

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scribbleseg.data import ScribbleSource


def camvid_source(root: Path, **options: Any) -> LayoutSource:
    return LayoutSource(root, "camvid", **options)


def densepose_source(root: Path, **options: Any) -> LayoutSource:
    return LayoutSource(root, "densepose", **options)


def block_source(root: Path, *, dataset: str = "", block: int = 10, **options: Any) -> LayoutSource:
    name = dataset or ("ade20k" if "ade20k" in root.name.casefold() else "cityscapes")
    folder = f"train/sparse_label/block{block}"
    return LayoutSource(root, f"{name}_blocks", scribbles=folder, **options)


class Case:
    """A tree with some options, read by a source with others."""

    def __init__(self, source: Any, tree: Any, /, options: dict | None = None, **of_tree: Any):
        self.source, self.tree, self.options, self.of_tree = source, tree, options or {}, of_tree

    def __call__(self, root: Path) -> ScribbleSource:
        return self.source(self.tree(root, **self.of_tree), **self.options)


case = Case


def told_apart(tree: Callable[..., Path]) -> Callable[..., Path]:
    """The tree, but no label PNG like another: they lack classes, and one pixel is their own."""

    def changed(root: Path, **options: Any) -> Path:
        tree(root, **options)
        places: dict[Path, int] = {}
        for path in sorted(root.rglob("*.png")):
            with Image.open(path) as image:
                label = None if image.mode not in "LP" else np.array(image)
            if label is None:
                continue
            number = places[path.parent] = places.get(path.parent, -1) + 1
            ids = [value for value in np.unique(label) if value != 255]
            if number % 2:
                label[label == ids[-1]] = 255
            if number % 3 == 2:
                label[label == ids[1]] = 255
            label[-1, number] = 0 if label[-1, number] == 255 else 255
            save(path, label)
        return root

    return changed


# --------------------------------------------------------------------------- plain folders


def _strokes(root: Path) -> Path:
    """Stroke files in place of label PNGs, two names and one alias; the first image has both."""
    plain_folder(root)
    text = "classes: [background, {name: cell, aliases: [zelle]}, vessel]\n"
    (root / "classes.yaml").write_text(text, encoding="utf-8")
    for number, stem in enumerate(STEMS):
        if number:
            (root / "scribbles" / f"{stem}.png").unlink()
        strokes = [("Zelle", [(5, 5 + number), (19, 9)]), ("background", [(30, 30)])]
        path = root / "scribbles" / f"{stem}.xml"
        path.write_text(scribble_xml([*strokes, ("vessel", [(3, 33), (20, 39)])]))
    return root


def _coded(root: Path) -> Path:
    """File values with gaps, a value that is ignored, one that means "not drawn"."""
    plain_folder(root)
    values = np.full(256, 255, np.uint8)
    values[:3] = 10, 20, 40
    for stem in STEMS:
        number = STEMS.index(stem)
        mask = values[blocks(number, 3)]
        mask[:3] = 99
        drawn = values[scribble_of(blocks(number, 3))]
        save(root / "masks" / f"{stem}.png", mask)
        save(root / "scribbles" / f"{stem}.png", np.where(drawn == 255, 7, drawn).astype(np.uint8))
    (root / "classes.yaml").write_text(
        "classes: [{id: 10, name: background}, {id: 20, name: left cell}, "
        "{id: 40, name: right cell, color: '#0a0b0c'}]\n"
        "compact: true\nignore: [99]\nunlabelled_value: 7\nflip_pairs: [[left cell, right cell]]\n"
    )
    return root


def _coloured(root: Path) -> Path:
    """Labels as RGB pictures with the colours of the class file."""
    plain_folder(root)
    colours = np.full((256, 3), (224, 224, 192), np.uint8)
    colours[:3] = (1, 2, 3), (10, 11, 12), (200, 0, 90)
    for number, stem in enumerate(STEMS):
        mask = blocks(number, 3)
        save(root / "masks" / f"{stem}.png", colours[mask])
        save(root / "scribbles" / f"{stem}.png", colours[scribble_of(mask)])
    listed = (
        {"name": name, "color": colours[label].tolist()}
        for label, name in enumerate(("background", "cell", "vessel"))
    )
    write_json(root / "classes.json", {"classes": list(listed)})
    return root


def _own_names(root: Path) -> Path:
    """Folders and lists with names of their own, sub-folders, groups and distances of voxels."""
    stems = tuple(f"site {site}/p{patient}_{n}" for site in "ab" for patient in "12" for n in "34")
    plain_folder(root, stems=stems)
    for old, new in (("images", "pictures"), ("scribbles", "strokes"), ("masks", "dense")):
        (root / old).rename(root / new)
    (root / "train.txt").rename(root / "some.txt")
    write_list(root / "test.txt", stems[2:4])
    write_json(root / "spacing.json", {"a/p1": [9, 1.5, 1.25], stems[3]: [5, 2, 2]})
    options = {
        "image_dir": "pictures",
        "scribble_dir": "strokes",
        "mask_dir": "dense",
        "train_list": "some.txt",
        "group_regex": "site (./p.)",
    }
    (root / "dataset.yaml").write_text(json.dumps(options), encoding="utf-8")
    return root


def _unlisted(root: Path) -> Path:
    stems = tuple(f"p{patient}_s{number}" for patient in range(4) for number in range(2))
    return plain_folder(root, stems=stems, lists=False)


def _turned(root: Path) -> Path:
    """JPEG photos that lie on their side and say so; labels as they are looked at, or as stored."""
    plain_folder(root)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, stem in enumerate(STEMS):
        path = root / "images" / f"{stem}.png"
        with Image.open(path) as image:
            stored = image.transpose(Image.Transpose.ROTATE_90)
        path.unlink()
        stored.save(path.with_suffix(".jpg"), exif=turned)
        if number % 2:
            for folder in ("scribbles", "masks"):
                label = root / folder / f"{stem}.png"
                with Image.open(label) as image:
                    image.transpose(Image.Transpose.ROTATE_90).save(label)
    return root


def _gaps(root: Path) -> Path:
    """Two training images lack their scribble; one label has half the size of its image."""
    plain_folder(root)
    for stem in STEMS[:2]:
        (root / "scribbles" / f"{stem}.png").unlink()
    for folder, stem in (("scribbles", STEMS[2]), ("masks", STEMS[7])):
        label = blocks(int(stem[-1]), 3)[::2, ::2]
        save(root / folder / f"{stem}.png", scribble_of(label) if folder[0] == "s" else label)
    return root


# --------------------------------------------------------------------------- VOC and Context


def _voc_zip(root: Path) -> Path:
    voc = voc_tree(root, scribbles="xml") / "VOCdevkit" / "VOC2012"
    with zipfile.ZipFile(voc / "scribbles.zip", "w") as archive:
        for path in sorted((voc / "pascal_2012").iterdir()):
            archive.write(path, f"pascal_2012/{path.name}")
    return root


def _voc_with_sbd(root: Path) -> Path:
    """No list of train_aug: it is derived from the lists of SBD, which adds an image.

    SBD has a mask of one image of VOC too.
    """
    from scipy.io import savemat

    voc = voc_tree(root, aug_list=False) / "VOCdevkit" / "VOC2012"
    sbd, added = root / "benchmark_RELEASE" / "dataset", "2010_000009"
    mask = np.zeros((40, 48), np.uint8)
    mask[:, 20:] = 7
    save(sbd / "img" / f"{added}.jpg", photo(9, mask))
    (sbd / "cls").mkdir()
    for stem in (added, VOC_STEMS[0]):
        savemat(sbd / "cls" / f"{stem}.mat", {"GTcls": {"Segmentation": mask}})
    save(voc / "pascal_2012_scribble" / f"{added}.png", scribble_of(mask))
    write_list(sbd / "train.txt", [added, VOC_STEMS[0]])
    write_list(sbd / "val.txt", [VOC_STEMS[2], VOC_STEMS[4]])
    return root


def _context_mat(root: Path) -> Path:
    context_mat_labels(context_tree(root, labels="none"))
    return root


# --------------------------------------------------------------------------- volumes


def _separate_volumes(root: Path) -> Path:
    """Images, dense labels and scribbles of cases in folders of their own, with lists."""
    for number in range(3):
        masks, name = volume_labels(number, 3), f"w_{number}.nii.gz"
        write_nifti(root / "imagesTr" / name, volume_image(number, masks))
        write_nifti(root / "labelsTr" / name, masks)
        write_nifti(root / "scribblesTr" / name, volume_scribbles(masks, 0))
    write_list(root / "train.txt", ["w_2", "w_0.nii.gz"])
    write_list(root / "val.txt", ["w_1"])
    return root


_SEPARATE = {
    "class_names": ["other", "liver", "spleen"],
    "image_dir": "imagesTr",
    "mask_dir": "labelsTr",
    "mask_suffix": ".nii.gz",
    "scribble_dir": "scribblesTr",
    "scribble_suffix": ".nii.gz",
    "unlabelled_value": 0,
    "channels": 3,
    "intensity": Intensity("range", 0, 510),
}


def _dense_volumes(root: Path) -> Path:
    """Dense labels, a scribble file beside each, stored folds, and a test case."""
    nnunet_volumes(root, cases=3, channels=1, sparse=False, ending=".nii")
    for number in range(3):
        scribbles = volume_scribbles(volume_labels(number, 3), 9)
        write_nifti(root / "strokes" / f"case_{number:02d}.nii", scribbles)
    folds = [{"train": ["case_02"], "val": ["case_00", "case_01"]}]
    write_json(root / "splits_final.json", folds)
    masks = volume_labels(7, 3)
    write_nifti(root / "imagesTs" / "new_0000.nii", volume_image(7, masks))
    write_nifti(root / "labelsTs" / "new.nii", masks)
    return root


def _grey_files(root: Path) -> Path:
    """One grey file per channel."""
    nnunet_pictures(root)
    for number in range(6):
        colours = photo(number, blocks(number, 3))
        for channel in range(3):
            save(root / "imagesTr" / f"img{number}_000{channel}.png", colours[..., channel])
    return root


# --------------------------------------------------------------------------- blocks and s4


def _named(tree: Callable[..., Path], name: str):
    """A tree whose folder name says what it is."""
    return lambda root, **options: tree(root / name, **options)


def _s4_voc(root: Path) -> Path:
    voc = voc_tree(root) / "VOCdevkit" / "VOC2012"
    for stem in VOC_STEMS[:3]:
        drawn = middle_rows(stripes((0, 2, 20)), 255)
        save(voc / "scribbles" / f"{stem}.png", grey(drawn))
        write_s4(voc / "scribbles" / f"{stem}.h5", LINES, (0, 20), background=255)
    return root


def _s4_ade20k(root: Path) -> Path:
    mask = stripes((0, 1, 150))
    for folder, name in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        save(root / "images" / folder / f"{name}.jpg", photo(1, mask))
        save(root / "annotations" / folder / f"{name}.png", mask)
    drawn = root / "scribbles" / "training"
    save(drawn / "ADE_train_1.png", grey(middle_rows(mask, 0)))
    write_s4(drawn / "ADE_train_1.h5", LINES, (1, 150))
    return root


def _s4_kitti(root: Path) -> Path:
    mask = stripes((7, 26, 37, 0))  # 37 is an addition of KITTI-360 that is not scored
    labels = root / "data_2d_semantics" / "train"
    for split, drive in (("train", "2013_05_28_drive_0000_sync"), ("val", "2013_05_28_drive_0002")):
        for name in ("0000000250", "0000000251"):
            image = f"data_2d_raw/{drive}/image_00/data_rect/{name}.png"
            save(root / image, photo(int(name), mask))
            save(labels / drive / "image_00" / "semantic" / f"{name}.png", mask)
            scribble = labels / drive / "image_00" / "scribble" / f"{name}.png"
            save(scribble, grey(middle_rows(mask, 0)))
            write_s4(scribble.with_suffix(".h5"), LINES, (7, 26))
        semantic = f"data_2d_semantics/train/{drive}/image_00/semantic/0000000250.png"
        pair = f"data_2d_raw/{drive}/image_00/data_rect/0000000250.png {semantic}"
        write_list(labels / f"2013_05_28_drive_{split}_frames.txt", [pair])
    return root


_ADE = {"values": (0, 1, 150, 255), "unlabelled": 0}
_CITY = {"dataset": "cityscapes"}

CASES: dict[str, Any] = {
    "folder/plain": case(FolderSource, told_apart(plain_folder)),
    "folder/no background": case(FolderSource, told_apart(camvid_folder)),
    "folder/no masks": case(FolderSource, plain_folder, masks=False),
    "folder/no lists": case(FolderSource, _unlisted, {"group_regex": r"p\d+"}),
    "folder/strokes": case(FolderSource, _strokes),
    "folder/coded": case(FolderSource, _coded),
    "folder/coloured": case(FolderSource, _coloured),
    "folder/zero not drawn": case(FolderSource, plain_folder, {"unlabelled_value": 0}),
    "folder/own names": case(FolderSource, _own_names),
    "folder/turned photos": case(FolderSource, _turned),
    "folder/gaps skipped": case(FolderSource, _gaps, {"on_missing": "skip", "resize_labels": True}),
    "folder/gaps unlabelled": case(
        FolderSource, _gaps, {"on_missing": "unlabelled", "resize_labels": True}
    ),
    "folder/deep grey": case(FolderSource, channel_folder, kind="deep"),
    "folder/deep grey, range": case(
        FolderSource,
        channel_folder,
        {"intensity": Intensity("range", 9000, 50_000), "channels": 3},
        kind="deep",
    ),
    "folder/four bands": case(FolderSource, channel_folder, kind="bands"),
    "voc/png": case(VOCSource, told_apart(voc_tree)),
    "voc/xml": case(VOCSource, voc_tree, scribbles="xml"),
    "voc/xml, pillow": case(
        VOCSource,
        voc_tree,
        {"scribble_width": 5, "renderer": "pillow", "coordinate_offset": 1},
        scribbles="xml",
    ),
    "voc/both": case(VOCSource, voc_tree, scribbles="both"),
    "voc/both, xml chosen": case(
        VOCSource, voc_tree, {"scribbles": "pascal_2012"}, scribbles="both"
    ),
    "voc/zip": case(VOCSource, _voc_zip, {"scribbles": "scribbles.zip"}),
    "voc/no aug list": case(VOCSource, voc_tree, aug_list=False),
    "voc/train list": case(VOCSource, voc_tree, {"train_list": "train"}, aug_list=False),
    "voc/sbd": case(VOCSource, _voc_with_sbd),
    "context/60 xml": case(PascalContextSource, context_tree),
    "context/60 png": case(PascalContextSource, told_apart(context_tree), scribbles="png"),
    "context/59 xml": case(PascalContextSource, context_tree, {"num_classes": 59}),
    "context/59 png": case(
        PascalContextSource, told_apart(context_tree), {"num_classes": 59}, scribbles="png"
    ),
    "context/60 mat": case(PascalContextSource, _context_mat),
    "context/59 mat": case(PascalContextSource, _context_mat, {"num_classes": 59}),
    "coco/2014": case(COCOSource, coco_tree),
    "coco/2017": case(COCOSource, coco_tree, year=2017),
    "coco/custom": case(COCOSource, coco_tree, {"crowd": "ignore", "overlap": "area"}),
    "coco/annotated only": case(COCOSource, coco_tree, {"keep_unannotated": False}),
    "densepose": case(densepose_source, told_apart(densepose_tree)),
    "acdc/release": case(ACDCSource, acdc_release),
    "acdc/release, fold 2": case(ACDCSource, acdc_release, {"fold": 2}),
    "acdc/plain": case(ACDCSource, told_apart(acdc_plain)),
    "nifti/acdc": case(NiftiSource, raw_acdc, {"unlabelled_value": 4}),
    "nifti/fold 3, from left to right": case(
        NiftiSource, raw_acdc, {"unlabelled_value": 4, "fold": 3, "slice_axis": 0}, patients=5
    ),
    "nifti/separate": case(NiftiSource, _separate_volumes, _SEPARATE),
    "nnunet/sparse": case(NnUNetSource, nnunet_volumes),
    "nnunet/dense": case(
        NnUNetSource, _dense_volumes, {"scribble_dir": "strokes", "unlabelled_value": 9}
    ),
    "nnunet/pictures": case(NnUNetSource, told_apart(nnunet_pictures)),
    "nnunet/grey files": case(NnUNetSource, _grey_files),
    "camvid": case(camvid_source, told_apart(camvid_tree), {"group_regex": "^([^_]+)_"}),
    "camvid/no lists": case(camvid_source, camvid_tree, lists=False),
    "blocks/10": case(block_source, _named(block_tree, "cityscapes")),
    "blocks/20": case(block_source, _named(block_tree, "cityscapes"), {"block": 20}),
    "blocks/50": case(block_source, block_tree, {"block": 50, **_CITY}),
    "blocks/train ids": case(block_source, block_tree, _CITY, values=(0, 13, 255, 8)),
    "blocks/ade20k": case(block_source, _named(block_tree, "ADE20K"), **_ADE),
    "s4/cityscapes": case(S4Source, s4_cityscapes, _CITY),
    "s4/cityscapes, h5": case(S4Source, s4_cityscapes, {"scribble_width": 3, **_CITY}),
    "s4/cityscapes, wide": case(
        S4Source, s4_cityscapes, {"scribble_width": 6, "renderer": "pillow", **_CITY}
    ),
    "s4/pascal": case(S4Source, _s4_voc, {"dataset": "pascal"}),
    "s4/ade20k": case(S4Source, _s4_ade20k, {"dataset": "ade20k"}),
    "s4/kitti360": case(S4Source, _s4_kitti, {"dataset": "kitti360"}),
    "synthetic": lambda root: SyntheticSource(num_train=4, num_val=2, size=48),
    "synthetic/nine classes": lambda root: SyntheticSource(
        num_train=3, num_val=2, size=64, num_classes=9, seed=5, scribble_width=2
    ),
}
"""What the sources read; several further options of each."""


# --------------------------------------------------------------------------- kinds of labels

_XML = {"scribbles": "scribbles.zip", "scribble_width": 2, "coordinate_offset": 1}
_READERS = {
    "folder": CASES["folder/plain"],
    "voc": CASES["voc/png"],
    "voc xml": case(VOCSource, _voc_zip, _XML),
    "context 60": CASES["context/60 xml"],
    "context 59": CASES["context/59 xml"],
    "coco": CASES["coco/2014"],
    "densepose": CASES["densepose"],
    "acdc release": CASES["acdc/release"],
    "acdc plain": CASES["acdc/plain"],
    "nifti": CASES["nifti/acdc"],
    "nnunet volumes": CASES["nnunet/sparse"],
    "nnunet dense": CASES["nnunet/dense"],
    "nnunet pictures": CASES["nnunet/pictures"],
    "camvid": case(camvid_source, told_apart(camvid_tree)),
    "blocks": case(block_source, block_tree, _CITY),
    "s4 cityscapes": CASES["s4/cityscapes"],
    "s4 pascal": CASES["s4/pascal"],
}

READERS = tuple(_READERS)
"""One tree of every layout, for :func:`labelled_source`."""


def labelled_source(root: Path, reader: str, label_type: str, **options: Any) -> ScribbleSource:
    """A source of this layout that trains on labels of one kind; the tree has all kinds.

    Two clicks, two boxes and a pseudo-label of every training image; its tags are made from what
    the source takes by default.

    Args:
        root: Folder of the tree; written if it is empty.
        reader: One of :data:`READERS`.
        label_type: Kind of labels.
        options: Further options of the source.
    """
    chosen = _READERS[reader]
    if not any(root.iterdir()):
        write_weak_labels(chosen(root))
    if label_type == "pseudo":
        options["pseudo_label_dir"] = "pseudo"
    return chosen.source(root, label_type=label_type, **chosen.options, **options)


def write_weak_labels(source: ScribbleSource) -> None:
    """``points.json boxes.json background_points.json pseudo/`` for the training images."""
    last, clicks, below, boxes = source.num_classes - 1, {}, {}, {}
    records = source.records("train")
    for number, record in enumerate(records):
        stem = record.image_id
        height, width = source.read_image(record).shape[:2]
        x, y = width - 8 - number % 4, height - 6
        clicks[stem] = [click(5, 4 + number % 8, 1), click(x, y, source.class_names[last], 2)]
        below[stem] = [{"x": 7, "y": 4}]
        boxes[stem] = [{"box": [1, 1.5, 13, 9 + number % 3], "cls": 1}]
        if number % 2 == 0:
            boxes[stem].append({"box": [x - 6, 2, x + 1.5, y], "cls": last})
        pseudo = blocks(number, min(source.num_classes, 5), (height, width))
        pseudo[:3] = 255
        pseudo[-1, number] = 255
        write_label(source.root / "pseudo" / f"{stem}.png", pseudo)
    write_json(source.root / "points.json", clicks)
    write_json(source.root / "boxes.json", boxes)
    if source.background is not None:
        write_json(source.root / "background_points.json", below)


def click_files(root: Path) -> Path:
    """A plain folder whose clicks are a file per image: JSON, CSV and label PNGs."""
    plain_folder(root)
    for number, stem in enumerate(STEMS[:6]):
        path = root / "points" / f"{stem}.json"
        if number < 2:
            write_json(path, [click(5, 6 + number, 1), click(30.4, 20.6, "Vessel", 3)])
        elif number < 4:
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".csv").write_text("x,y,cls\n5,6,1\n30.0,20,vessel\n")
        else:
            raster = np.full((40, 48), 255, np.uint8)
            raster[3, number : number + 3] = 2
            save(path.with_suffix(".png"), raster)
    return root


def devkit_boxes(root: Path) -> Path:
    """VOC with ``Annotations/``: parts of persons, a difficult object."""
    voc = voc_tree(root) / "VOCdevkit" / "VOC2012"
    for number, stem in enumerate(VOC_STEMS):
        objects = [
            ("person", (3, 2, 12 + number, 21), False, ("head", "hand")),
            ("tvmonitor", (30, 30, 48, 40), True, ()),
            ("head", (1, 1, 5, 5), False, ()),
        ]
        write_annotation(voc / "Annotations" / f"{stem}.xml", objects)
    return root


def tag_table(root: Path) -> Path:
    """A plain folder with tags by name, ``class_labels.json``, and as vectors, ``tags.npz``."""
    plain_folder(root)
    write_json(root / "class_labels.json", {s: ["Cell", 2][: 1 + int(s[-1]) % 2] for s in STEMS})
    np.savez(root / "tags.npz", **{s: np.array([int(s[-1]) % 2, 1], "f4") for s in STEMS})
    return root
