"""Faults to plant in the tiny folders of :mod:`helpers.tiny_folders`, a function each."""

from __future__ import annotations

import numpy as np
from helpers.tiny_folders import STEMS, save, scribble_xml, write_list
from PIL import Image

from scribbleseg import voc_palette

FIRST = "scribbles/img_0.png"


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def each_scribble(root, change):
    for path in (root / "scribbles").iterdir():
        save(path, change(read(path)))


def unlabelled_code(root):
    each_scribble(root, lambda s: np.where(s == 255, 3, s).astype(np.uint8))


def id_of_another_list(root):
    scribble = read(root / FIRST)
    scribble[0, :7] = 9
    save(root / FIRST, scribble)


def mask_code(root):
    mask = read(root / "masks/img_7.png")
    mask[:30] = 11
    save(root / "masks/img_7.png", mask)


def rgb_mask(root):
    save(root / "masks/img_6.png", voc_palette()[read(root / "masks/img_6.png")])


def rgba_scribble(root):
    save(root / FIRST, np.full((40, 48, 4), (200, 0, 0, 255), np.uint8))


def jpeg_scribble(root):
    scribble = read(root / FIRST)
    (root / FIRST).unlink()
    save(root / "scribbles/img_0.jpg", scribble)


def empty_scribble(root):
    save(root / FIRST, np.full((40, 48), 255, np.uint8))


def all_scribbles_empty(root):
    each_scribble(root, lambda s: np.full_like(s, 255))


def class_never_drawn(root):
    each_scribble(root, lambda s: np.where(s == 2, 255, s).astype(np.uint8))


def zero_is_unlabelled(root):
    each_scribble(root, lambda s: np.where(s == 255, 0, s).astype(np.uint8))


def ids_from_one(root):
    each_scribble(root, lambda s: np.where(s == 255, 0, s + 1).astype(np.uint8))


def binary_masks(root):
    for path in (root / "masks").iterdir():
        save(path, np.where(read(path) > 0, 255, 0).astype(np.uint8))


def labelled_but_in_no_list(root):
    write_list(root / "train.txt", STEMS[:4])


def shifted(root):
    each_scribble(root, lambda s: np.pad(s, ((0, 0), (6, 0)), constant_values=255)[:, :-6])


def wrong_order(root):
    each_scribble(root, lambda s: np.where(s < 3, (s + 1) % 3, s).astype(np.uint8))


def other_size(root):
    save(root / FIRST, np.full((20, 24), 1, np.uint8))


def transposed(root):
    save(root / FIRST, read(root / FIRST).T.copy())


def exif_rotated(root):
    image = Image.fromarray(read(root / "images/img_0.png"))
    exif = image.getexif()
    exif[0x0112] = 6
    (root / "images/img_0.png").unlink()
    image.save(root / "images/img_0.jpg", exif=exif)


def truncated_jpeg(root):
    image = Image.fromarray(read(root / "images/img_0.png"))
    (root / "images/img_0.png").unlink()
    image.save(root / "images/img_0.jpg")
    data = (root / "images/img_0.jpg").read_bytes()
    (root / "images/img_0.jpg").write_bytes(data[: len(data) // 2])


def text_as_image(root):
    (root / "images/img_1.png").write_text("404: Not Found")


def text_as_scribble(root):
    (root / "scribbles/img_1.png").write_text("404: Not Found")


def deep_image(root):
    grey = read(root / "images/img_0.png")[..., 0].astype(np.uint16) * 16
    save(root / "images/img_0.png", grey)


def deep_label(root):
    label = read(root / FIRST).astype(np.uint16)
    label[label == 255] = 65535
    save(root / FIRST, label)


def float_label(root):
    (root / FIRST).unlink()
    save(root / "scribbles/img_0.tif", np.full((40, 48), 0.5, np.float32))


def missing_scribble(root):
    (root / FIRST).unlink()


def missing_image(root):
    write_list(root / "train.txt", [*STEMS[:6], "img_99"])


def missing_mask(root):
    (root / "masks/img_7.png").unlink()


def missing_list(root):
    (root / "val.txt").unlink()


def empty_list(root):
    (root / "val.txt").write_text("# nothing yet\n\n")


def stem_in_both(root):
    write_list(root / "val.txt", ["img_0", "img_7"])


def same_pixels(root):
    (root / "images/img_7.png").write_bytes((root / "images/img_2.png").read_bytes())


def one_stem_twice(root):
    save(root / "images/img_0.jpg", np.zeros((40, 48, 3), np.uint8))


def listed_twice(root):
    write_list(root / "val.txt", ["img_6", "img_7", "img_6"])


def path_traversal(root):
    write_list(root / "train.txt", ["img_0", "../../etc/passwd"])


def link_outside(root):
    outside = save(root.parent / "elsewhere.png", np.zeros((40, 48, 3), np.uint8))
    (root / "images/img_0.png").unlink()
    (root / "images/img_0.png").symlink_to(outside)


def no_class_file(root):
    (root / "classes.txt").unlink()


def duplicate_class(root):
    write_list(root / "classes.txt", ["background", "Blood-Vessel", "blood vessel"])


def too_many_classes(root):
    write_list(root / "classes.txt", [f"class {number}" for number in range(256)])


def gap_in_ids(root):
    (root / "classes.yaml").write_text("classes: [{id: 0, name: a}, {id: 3, name: b}]")


FOLDER_FAULTS = [
    unlabelled_code, ids_from_one, id_of_another_list, mask_code, rgb_mask, rgba_scribble,
    jpeg_scribble, empty_scribble, all_scribbles_empty, class_never_drawn, zero_is_unlabelled,
    shifted, wrong_order, binary_masks, other_size, transposed, exif_rotated, truncated_jpeg,
    text_as_image, text_as_scribble, deep_image, deep_label, float_label, missing_scribble,
    missing_image, missing_list, empty_list, labelled_but_in_no_list, stem_in_both, same_pixels,
    one_stem_twice, listed_twice, path_traversal, link_outside, no_class_file, duplicate_class,
    too_many_classes, gap_in_ids,
]  # fmt: skip


# --------------------------------------------------------------------------- VOC

VOC = "VOCdevkit/VOC2012/"
XML = VOC + "pascal_2012/2007_000032.xml"
STROKE = [("plane", [(4, 4), (9, 9)])]


def grey_voc_mask(root):
    path = root / VOC / "SegmentationClass/2008_000015.png"
    with Image.open(path) as image:
        image.convert("L").save(path)


def grey_voc_scribble(root):
    path = root / VOC / "pascal_2012_scribble/2007_000032.png"
    image = Image.fromarray(read(path))
    image.putpalette(voc_palette().tobytes())
    image.convert("L").save(path)


def xml(text):
    return lambda root: (root / XML).write_text(text)


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'


# kind of scribbles, function
VOC_FAULTS = {
    "grey_mask": ("png", grey_voc_mask),
    "grey_scribble": ("png", grey_voc_scribble),
    "tag": ("xml", xml(scribble_xml([("unicorn", [(1, 1)])]))),
    "no_polygon": ("xml", xml(scribble_xml([]))),
    "size": ("xml", xml(scribble_xml(STROKE, (99, 48)))),
    "dtd": ("xml", xml(BOMB)),
    "broken": ("xml", xml("<annotation><polygon>")),
    "no_size": ("xml", xml(scribble_xml(STROKE).replace("<width>48</width>", ""))),
}
