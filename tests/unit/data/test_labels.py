"""Label files: ids of every number type, colours, palettes, transparency, and their faults."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from helpers.tiny_folders import save
from PIL import Image

from scribbleseg import LabelFormatError, Record, ScribbleNotFoundError, voc_palette
from scribbleseg.data import (
    LabelCoding,
    encode_label,
    read_classes,
    read_label,
    require,
    whole_numbers,
)

IDS = np.array([[0, 1, 15, 255], [20, 0, 1, 1]], dtype=np.uint8)
BLACK, RED, GREEN, BLUE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def painted(values, colours) -> np.ndarray:
    """RGB of a small map of keys."""
    return np.array([[colours[value] for value in row] for row in values], np.uint8)


# --------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("palette", [True, False])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_palette_and_grey_files_hold_ids(tmp_path, palette, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".webp":
        Image.fromarray(np.repeat(IDS[..., None], 3, axis=2)).save(path, lossless=True)
    else:
        save(path, IDS, palette=palette)
    label = read_label(path, 21)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, IDS)


def test_sixteen_and_one_bit_files_hold_ids(tmp_path):
    path = save(tmp_path / "a.png", IDS.astype(np.uint16))
    np.testing.assert_array_equal(read_label(path, 21), IDS)
    bits = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(read_label(save(tmp_path / "b.png", bits), 2), bits)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_holds_ids(tmp_path, bits):
    ids = np.arange(8, dtype=np.uint8).reshape(2, 4) % (1 << bits)
    rows = np.packbits(np.unpackbits(ids[..., None], axis=2)[..., -bits:].reshape(2, -1), axis=1)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ):
        check = zlib.crc32(kind + data)
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
    (tmp_path / "a.png").write_bytes(content)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", 16), ids)


def test_four_bit_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 3], [7, 1]], np.uint8))
    image.putpalette(voc_palette(16).tobytes())
    image.save(tmp_path / "a.png", bits=4, transparency=0)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", 8), [[0, 3], [7, 1]])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_every_number_type_holds_ids(tmp_path, dtype, compression):
    ids, path = np.array([[0, 1, 2], [2, 1, 100]]), tmp_path / "a.tif"
    tifffile.imwrite(path, ids.astype(dtype), compression=compression)
    np.testing.assert_array_equal(read_label(path, 101), ids)
    if dtype[0] != "u":  # minus one can mean unlabelled
        tifffile.imwrite(path, (ids - 1).astype(dtype), compression=compression)
        expected = np.where(ids == 0, 255, ids - 1)
        np.testing.assert_array_equal(read_label(path, LabelCoding(101, ignore=(-1,))), expected)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_tiff_labels_are_never_inverted(tmp_path, photometric, dtype):
    ids = np.array([[0, 1, 1], [0, 0, 1]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", ids, photometric=photometric)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif", 2), ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_of_several_pages_are_refused(tmp_path, dtype):
    pages = np.zeros((2, 5, 6), dtype)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    with pytest.raises(LabelFormatError, match=r"D203 .*a\.tif: holds .*expected one page"):
        read_label(tmp_path / "a.tif", 2)


def test_equal_channels_are_ids(tmp_path):
    path = save(tmp_path / "a.png", np.repeat(IDS[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_label(path, 21), IDS)
    # also where the classes have colours, unless these are the colours of the file
    coding = LabelCoding(21, colours={RED: 1})
    np.testing.assert_array_equal(read_label(path, coding), IDS)


def test_values_of_a_file_are_mapped(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 3, 4], [11, 255, 1]], np.uint8))
    label = read_label(path, LabelCoding(4, ignore=(4, 11)))
    np.testing.assert_array_equal(label, [[0, 3, 255], [255, 255, 1]])
    coding = LabelCoding(3, ids={0: 0, 1: 1, 3: 2}, ignore=(4, 11))
    np.testing.assert_array_equal(read_label(path, coding), [[0, 2, 255], [255, 255, 1]])
    with pytest.raises(LabelFormatError, match=r"D101 .*value 3 on 1 px.*expected classes 0-2"):
        read_label(path, LabelCoding(3, ignore=(4, 11)))
    with pytest.raises(LabelFormatError, match=r"D101 .*value 11 on 1 px.*the ids 0, 1, 3 of 3"):
        read_label(path, LabelCoding(3, ids={0: 0, 1: 1, 3: 2}, ignore=(4,)))
    path = save(tmp_path / "a.png", np.array([[0, 1]], np.uint8))
    np.testing.assert_array_equal(read_label(path, LabelCoding(2, ignore=(0,))), [[255, 1]])


def test_large_values_are_not_wrapped(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 256], [511, 1]], np.uint16))
    with pytest.raises(LabelFormatError, match=r"value 256 on 1 px"):
        read_label(path, 2)
    coding = LabelCoding(2, ignore=(256, 511))
    np.testing.assert_array_equal(read_label(path, coding), [[0, 255], [255, 1]])
    coding = LabelCoding(2, ids={1000: 0, 65000: 1})
    values = np.array([[1000, 65000, 255]], np.uint16)
    np.testing.assert_array_equal(encode_label(values, coding, "a.png"), [[0, 1, 255]])


def test_numbers_near_whole_ones_are_ids(tmp_path):
    values = np.array([[0, 1.00099, 1.9990001]], np.float64)
    assert whole_numbers(values, "a").tolist() == [[0, 1, 2]]
    assert whole_numbers(np.array([True, False]), "a").tolist() == [1, 0]
    assert whole_numbers(np.empty(0, np.float32), "a").size == 0
    for wrong in (0.5, 1.0011, np.nan, np.inf, 1e12):
        with pytest.raises(LabelFormatError, match=r"D203 a\.nii: .*no ids, e\.g\. .* on 1 px"):
            whole_numbers(np.array([0.0, wrong]), "a.nii")
    with pytest.raises(LabelFormatError, match=r"D203 a: holds complex64"):
        whole_numbers(np.zeros(2, np.complex64), "a")
    probabilities = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    tifffile.imwrite(tmp_path / "p.tif", probabilities)
    with pytest.raises(LabelFormatError, match=r"D203 .*p\.tif: .*interpolated"):
        read_label(tmp_path / "p.tif", 2)


# ----------------------------------------------------------------------------- colours


def test_colours_need_a_table(tmp_path):
    path = save(tmp_path / "a.png", voc_palette()[IDS])
    with pytest.raises(LabelFormatError, match=r"D103 .*holds 5 colours \(.*on 3 px.*a `color`"):
        read_label(path, 21)
    table = {tuple(int(v) for v in voc_palette()[i]): i for i in (0, 1, 15, 20, 255)}
    np.testing.assert_array_equal(read_label(path, LabelCoding(21, colours=table)), IDS)


def test_the_most_frequent_unknown_colour_is_named(tmp_path):
    drawn = painted([[1, 2, 0], [0, 0, 0], [3, 3, 0]], {0: BLACK, 1: RED, 2: BLUE, 3: GREEN})
    path = save(tmp_path / "a.png", drawn)
    with pytest.raises(LabelFormatError) as error:
        read_label(path, LabelCoding(2, colours={BLUE: 0, RED: 1}))
    for part in ("2 colours are not", "(0, 0, 0) on 5 px, (0, 255, 0) on 2 px"):
        assert part in str(error.value)
    assert "If [0, 0, 0] means unlabelled, set `unlabelled_color: [0, 0, 0]`" in str(error.value)
    coding = LabelCoding(3, colours={BLUE: 0, RED: 1, GREEN: 2, BLACK: 255})
    expected = [[1, 0, 255], [255, 255, 255], [2, 2, 255]]
    np.testing.assert_array_equal(read_label(path, coding), expected)


def test_colours_of_other_ids_are_mapped_once(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        "classes:\n- {id: 12, name: wall, color: [0, 255, 0]}\n"
        "- {id: 31, name: sky, color: [255, 0, 0]}\ncompact: true\nignore: [0, 1]\n"
    )
    coding = read_classes(tmp_path).coding()
    path = save(tmp_path / "a.png", painted([[0, 1, 1]], (GREEN, RED)))
    np.testing.assert_array_equal(read_label(path, coding), [[0, 1, 1]])
    path = save(tmp_path / "b.png", np.array([[12, 31, 1, 255]], np.uint8))
    np.testing.assert_array_equal(read_label(path, coding), [[0, 1, 255, 255]])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_palettes_of_any_order_are_read_by_colour(tmp_path, order):
    colours = (BLACK, RED, GREEN)
    coding = LabelCoding(3, colours={colour: index for index, colour in enumerate(colours)})
    ids = np.array([[0, 1, 2, 2], [2, 1, 0, 0]], np.uint8)
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[ids])
    image.putpalette([part for index in order for part in colours[index]])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", coding), ids)


def test_palettes_that_fit_neither_way_are_refused(tmp_path):
    coding = LabelCoding(3, colours={BLACK: 0, RED: 1, GREEN: 2})
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([*GREEN, *RED, 9, 9, 9])
    image.save(tmp_path / "a.png")
    with pytest.raises(
        LabelFormatError,
        match=r"\[9, 9, 9\] at index 2 on 1 px.*set `unlabelled_color: \[9, 9, 9\]`",
    ):
        read_label(tmp_path / "a.png", coding)
    # a palette that says nothing else than the ids, with a foreign colour for one of them
    image.putpalette([*BLACK, *RED, 9, 9, 9])
    image.save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_label(tmp_path / "b.png", coding), [[0, 1, 2]])
    # a palette of grey tones: indices
    image.putpalette([value for tone in (50, 100, 150) for value in (tone,) * 3])
    image.save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_label(tmp_path / "c.png", coding), [[0, 1, 2]])


def test_transparent_pixels_are_unlabelled(tmp_path):
    colours = painted([[0, 1, 0, 1]], (BLACK, RED))
    alpha = np.array([[255, 255, 0, 0]], np.uint8)
    path = save(tmp_path / "a.png", np.dstack([colours, alpha]))
    coding = LabelCoding(2, colours={BLACK: 0, RED: 1})
    np.testing.assert_array_equal(read_label(path, coding), [[0, 1, 255, 255]])
    ids = np.dstack([np.array([[1, 2, 0, 7]], np.uint8)] * 3 + [alpha])
    np.testing.assert_array_equal(read_label(save(tmp_path / "b.png", ids), 3), [[1, 2, 255, 255]])
    grey = Image.fromarray(np.dstack([np.array([[1, 2, 0, 7]], np.uint8), alpha]))
    grey.save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_label(tmp_path / "c.png", 3), [[1, 2, 255, 255]])
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([*BLACK, *RED, *BLACK])
    image.save(tmp_path / "d.png", transparency=bytes([255, 255, 0]))
    np.testing.assert_array_equal(read_label(tmp_path / "d.png", coding), [[0, 1, 255]])


def test_colours_of_sixteen_bits_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.ones((3, 4, 3), np.uint16))
    with pytest.raises(LabelFormatError, match=r"D103 .*a\.png: holds colours of 16 bits"):
        read_label(tmp_path / "a.png", 2)


# ------------------------------------------------------------------------------ faults


def test_unlabelled_code_is_named(tmp_path):
    ids = np.full((10, 10), 4, np.uint8)
    ids[0] = 1
    with pytest.raises(LabelFormatError) as error:
        read_label(save(tmp_path / "a.png", ids), 4)
    for part in ("D101", "a.png", "value 4 on 90 px (90.0 %)", "0-3", "unlabelled_value: 4"):
        assert part in str(error.value)


def test_luminance_is_recognised_but_plain_ids_are_not_called_so(tmp_path):
    image = Image.fromarray(IDS)
    image.putpalette(voc_palette().tobytes())
    image.convert("L").save(tmp_path / "grey.png")
    with pytest.raises(LabelFormatError, match=r"D102 .*luminance"):
        read_label(tmp_path / "grey.png", 21)
    with pytest.raises(LabelFormatError, match=r"D101"):
        read_label(save(tmp_path / "a.png", np.array([[0, 11]], np.uint8)), 11)
    # the grey tones of many classes are most values there are
    with pytest.raises(LabelFormatError, match="D101"):
        read_label(save(tmp_path / "a.png", np.full((4, 4), 200, np.uint8)), 150)


def test_which_cause_is_named_for_values_out_of_range():
    def complaint(values, classes=3):
        with pytest.raises(LabelFormatError) as error:
            encode_label(np.array([values], np.int32), LabelCoding(classes), "a.png")
        return str(error.value)

    assert "negative ids" in complaint([-2, -2, 0, 5])
    assert "set `unlabelled_value: -1`" in complaint([-1, 0, 0, 1])
    assert "set `unlabelled_value: 3`" in complaint([3, 0, 1, 1, 1, 2])
    assert "set `unlabelled_value: 0` in dataset.yaml" in complaint([3, 0, 0, 0, 0, 1, 2])
    assert "set `unlabelled_value: 200`" in complaint([200, 200, 200, 0, 1])
    assert "list 201 classes" in complaint([200, 200, 0, 1])
    many = complaint([*range(20, 27), 24, 24])
    assert many.startswith("D101 a.png: value 24 on 3 px (33.3 %), value 20 on 1 px (11.1 %)")
    assert "value 23" in many
    assert "value 25" not in many
    assert "and 2 further values, expected classes 0-2 and 255" in many


def test_lossy_broken_and_missing_files(tmp_path):
    with pytest.raises(LabelFormatError, match=r"D103 .*JPEG"):
        read_label(save(tmp_path / "a.jpg", IDS), 21)
    (tmp_path / "a.jpg").rename(tmp_path / "b.png")
    with pytest.raises(LabelFormatError, match=r"D103 .*JPEG"):
        read_label(tmp_path / "b.png", 21)
    (tmp_path / "t.png").write_text("not an image")
    with pytest.raises(LabelFormatError, match=r"D202 .*t\.png"):
        read_label(tmp_path / "t.png", 21)
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*n\.png does not exist"):
        read_label(tmp_path / "n.png", 21)
    for name in ("t.tif", "e.tif"):
        (tmp_path / name).write_bytes(b"II*\0broken" if name == "t.tif" else b"")
        with pytest.raises(LabelFormatError, match=rf"D202 .*{name[0]}\.tif"):
            read_label(tmp_path / name, 2)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"a\.png: labels must be of two dimensions"):
        encode_label(np.zeros((2, 2, 1), np.uint8), LabelCoding(2), "a.png")
    with pytest.raises(ValueError, match=r"num_classes must be in 1\.\.255, got 256"):
        LabelCoding(256)
    with pytest.raises(ScribbleNotFoundError, match=r"D301 img_1: this sample has no mask"):
        require(None, "mask", Record("img_1"))
