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
    outside = save(root / "elsewhere.png", np.zeros((40, 48, 3), np.uint8))
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


# function, code of the finding, words of its text
FOLDER_FAULTS = [
    (unlabelled_code, "D101", [FIRST, "value 3 on 1,8", "0-2", "`unlabelled_value: 3`"]),
    (ids_from_one, "D101", [FIRST, "value 3 on 24 px", "ids count from 1", "0-2",
                            "`unlabelled_value: 0`"]),
    (id_of_another_list, "D101", [FIRST, "value 9 on 7 px", "another data set", "classes.yaml"]),
    (mask_code, "D101", ["masks/img_7.png", "value 11 on 1,440 px (75.0 %)", "`ignore: [11]`"]),
    (rgb_mask, "D103", ["masks/img_6.png", "holds 3 colours", "colour table", "`color`"]),
    (rgba_scribble, "D103", [FIRST, "holds 1 colours", "(200, 0, 0) on 1,920 px",
                              "export the labels as ids"]),
    (jpeg_scribble, "D103", ["scribbles/img_0.jpg", "JPEG", "compression", "as PNG"]),
    (empty_scribble, "D104", [FIRST, "1 of 6", "0 labelled pixels", "remove them from the list"]),
    (all_scribbles_empty, "D104", ["scribbles/img_", "6 of 6", "0 labelled pixels", "draw"]),
    (class_never_drawn, "D105", ["scribbles", "'vessel' (id 2)", "0 scribble pixels", "draw it"]),
    (zero_is_unlabelled, "D106", [FIRST, "6 of 6", "value 0 on", "`unlabelled_value: 0`",
                                  "`allow_dense_scribbles: true`"]),
    (shifted, "D107", ["scribbles/img_", "contradict the mask", "shifting it by (-",
                       "less than 1 %"]),
    (wrong_order, "D107", ["scribbles/img_", "(100.0 %)", "class order", "compare both files"]),
    (binary_masks, "D108", ["masks/img_6.png", "255 is on 2,", "'vessel' (id 2) on 0 px",
                            "ids of the classes instead of 255"]),
    (other_size, "D201", [FIRST, "24x20", "expected 48x40", "resized copy", "`resize_labels"]),
    (transposed, "D201", [FIRST, "40x48", "expected 48x40", "transposing"]),
    (exif_rotated, "D201", [FIRST, "48x40", "expected 40x48", "EXIF", "rotate the label"]),
    (truncated_jpeg, "D202", ["images/img_0.jpg", "truncated", "copy it again"]),
    (text_as_image, "D202", ["images/img_1.png", "not an image", "copy it again"]),
    (text_as_scribble, "D202", ["scribbles/img_1.png", "not an image", "copy it again"]),
    (deep_image, "D203", ["images/img_0.png", "1 images", "more than 8 bits", "mode: range"]),
    (deep_label, "D101", [FIRST, "value 65535 on 1,8", "`unlabelled_value: 65535`"]),
    (float_label, "D203", ["scribbles/img_0.tif", "0.5 on 1,920 px", "interpolated", "export ids"]),
    (missing_scribble, "D301", ["scribbles", "1 of 6 scribbles", "img_0", "`on_missing: skip`"]),
    (missing_image, "D301", ["images", "1 of 7 images", "img_99", "remove the names"]),
    (missing_list, "D301", ["val.txt", "does not exist", "one image name per line"]),
    (empty_list, "D301", ["val.txt", "0 names", "one image name per line"]),
    (labelled_but_in_no_list, "D301", ["2 of 8 labelled images", "img_4, img_5", "no list"]),
    (stem_in_both, "D302", ["images/img_0.png", "1 images are in 'train' and in 'val'", "remove"]),
    (same_pixels, "D302", ["images/img_7.png", "same pixels", "images/img_2.png", "remove one"]),
    (one_stem_twice, "D303", ["images", "1 stems", "img_0.jpg and img_0.png", "rename one"]),
    (listed_twice, "D303", ["val.txt", "'img_6'", "lines 1 and 3", "remove"]),
    (path_traversal, "D501", ["train.txt", "line 2", "'../../etc/passwd'", "plain names"]),
    (link_outside, "D501", ["images/img_0.png", "link leaves", "copy what it points to"]),
    (no_class_file, "D301", ["no class file", "classes.txt", "one class name a line"]),
    (duplicate_class, "D401", ["classes.txt", "'blood vessel' (id 2)", "id 1", "rename one"]),
    (too_many_classes, "D401", ["classes.txt", "256 classes", "8-bit", "merge"]),
    (gap_in_ids, "D401", ["classes.yaml", "ids go to 3", "[1, 2]", "`compact: true`"]),
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


# kind of scribbles, function, code, words
VOC_FAULTS = [
    ("png", grey_voc_mask, "D102", ["SegmentationClass/2008_000015.png", "value 220 on",
                                    "luminance", "original palette file"]),
    ("png", grey_voc_scribble, "D102", ["pascal_2012_scribble/2007_000032.png", "value 220 on",
                                        "luminance", "original palette file"]),
    ("xml", xml(scribble_xml([("unicorn", [(1, 1)])])), "D401", [XML, "'unicorn'", "`aliases`"]),
    ("xml", xml(scribble_xml([])), "D104", [XML, "0 polygons", "draw it"]),
    ("xml", xml(scribble_xml(STROKE, (99, 48))), "D201", [XML, "48x99", "48x40", "original image"]),
    ("xml", xml(BOMB), "D501", [XML, "DTD", "original release"]),
    ("xml", xml("<annotation><polygon>"), "D202", [XML, "not well-formed", "copy it again"]),
    ("xml", xml(scribble_xml(STROKE).replace("<width>48</width>", "")), "D202",
     [XML, "<size/width> is ''", "not a complete ScribbleSup file"]),
]  # fmt: skip
VOC_NAMES = ["grey_mask", "grey_scribble", "tag", "no_polygon", "size", "dtd", "broken", "no_size"]
