"""Image files of every depth, number of channels and orientation."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from helpers.tiny_folders import blocks, photo, plain_folder, save, scribble_of
from PIL import Image, ImageFile

from scribbleseg import LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.data import check_source, orient, read_header, read_image, read_pixels
from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import Intensity


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, shape).astype(dtype)


# ----------------------------------------------------------------------- files


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bands", [2, 4, 7])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_array_files_keep_their_channels(tmp_path, bands, first, suffix):
    image = noise(10, 12, bands)
    stored = image.transpose(2, 0, 1) if first else image
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, stored)
    else:
        config = "separate" if first else "contig"
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=config)
    np.testing.assert_array_equal(read_image(path, channels=bands), image)
    assert read_header(path, channels=bands).size == (10, 12)


def test_pages_of_a_tiff_are_channels_if_there_are_as_many(tmp_path, caplog):
    pages = noise(3, 10, 12)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pages.transpose(1, 2, 0))
    assert not caplog.text
    grey = read_image(tmp_path / "a.tif", channels=1)
    np.testing.assert_array_equal(grey[..., 0], pages[0])
    assert "has 3 frames or pages, only the first is used" in caplog.text
    with pytest.raises(LabelFormatError, match=r"D203 .*a\.tif: array of shape \(3, 10, 12\).*5"):
        read_image(tmp_path / "a.tif", channels=5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
@pytest.mark.parametrize("number", [2, 4])
def test_the_first_of_several_grey_pages_is_repeated_as_colours(tmp_path, caplog, dtype, number):
    pages = noise(number, 10, 12, dtype=dtype) * (1 if dtype == np.uint8 else 3)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    expected = Intensity().apply(pages[0][..., None])
    out = read_image(tmp_path / "a.tif", channels=3)
    assert (out.shape, out.dtype) == ((10, 12, 3), np.uint8)
    np.testing.assert_array_equal(out, np.repeat(expected, 3, axis=2))
    assert caplog.text.count(f"has {number} frames or pages, only the first is used") == 1
    assert read_header(tmp_path / "a.tif", channels=3).size == (10, 12)


def test_grey_arrays_are_repeated_and_deep_ones_scaled(tmp_path):
    values = noise(10, 12, dtype=np.float32) * 7
    np.save(tmp_path / "a.npy", values)
    tifffile.imwrite(tmp_path / "b.tif", values.astype(np.float64))
    expected = Intensity().apply(values[..., None])
    for name in ("a.npy", "b.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name, channels=1), expected)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.repeat(expected, 3, axis=2))
    window = Intensity("range", 0, 7 * 255)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.npy", channels=1, intensity=window)[..., 0], values / 7
    )


def test_axes_of_length_one_are_dropped(tmp_path):
    image = noise(10, 12, 4)
    for number, stored in enumerate(
        (image[None], image[None, None], image.transpose(2, 0, 1)[None])
    ):
        np.save(tmp_path / f"{number}.npy", stored)
        out = read_image(tmp_path / f"{number}.npy", channels=4)
        np.testing.assert_array_equal(out, image)
    for stored in (image[None, ..., 0], image[..., :1]):
        np.save(tmp_path / "grey.npy", stored)
        grey = read_image(tmp_path / "grey.npy", channels=1)
        np.testing.assert_array_equal(grey, image[..., :1])
    np.save(tmp_path / "both.npy", image[:4])  # the last axis wins where both fit
    np.testing.assert_array_equal(read_image(tmp_path / "both.npy", channels=4), image[:4])
    np.save(tmp_path / "row.npy", image[:1, :, 0])  # one row is no axis to drop
    assert read_image(tmp_path / "row.npy", channels=1).shape == (1, 12, 1)


def test_damaged_and_foreign_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", noise(10, 12, 5))
    with pytest.raises(LabelFormatError, match=r"D203 .*a\.npy: array of shape \(10, 12, 5\), exp"):
        read_image(tmp_path / "a.npy", channels=4)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:300])
    with pytest.raises(LabelFormatError, match=r"D202 .*b\.npy"):
        read_image(tmp_path / "b.npy", channels=5)
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(LabelFormatError, match=r"D501 .*c\.npy.*never loaded"):
        read_image(tmp_path / "c.npy", channels=5)
    (tmp_path / "d.tif").write_bytes(b"II*\0broken")
    with pytest.raises(LabelFormatError, match=r"D202 .*d\.tif"):
        read_image(tmp_path / "d.tif", channels=5)
    with pytest.raises(LabelFormatError, match=r"D202 .*d\.tif"):
        read_image(tmp_path / "d.tif")


def test_missing_package(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise(10, 12, 4), photometric="minisblack")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"a\.tif.*scribbleseg\[medical\]"):
        read_image(tmp_path / "a.tif", channels=4)


def test_alpha_is_dropped_with_one_warning_per_folder(tmp_path, caplog):
    image = noise(10, 12, 4)
    image[..., 3] = 255
    save(tmp_path / "opaque.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), image[..., :3])
    assert not caplog.text
    image[0, 0, 3] = 3
    for name in "ab":
        save(tmp_path / f"{name}.png", image)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), image[..., :3])
    assert caplog.text.count("transparency is dropped") == 1
    assert str(tmp_path) in caplog.text
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channels=4), image)


def test_colours_as_grey_and_the_other_way_round(tmp_path):
    image = noise(10, 12, 3)
    save(tmp_path / "a.png", image)
    grey = read_image(tmp_path / "a.png", channels=1)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(image).convert("L")))
    save(tmp_path / "b.png", image[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), image[..., [0, 0, 0]])
    with pytest.raises(LabelFormatError, match=r"D203 .*a\.png: has 3 channels .*RGB.*expected 4"):
        read_image(tmp_path / "a.png", channels=4)
    cv2.imwrite(str(tmp_path / "deep.png"), noise(10, 12, 3, dtype=np.uint16))
    for channels in (1, 4):
        message = rf"D203 .*deep\.png: has 3 .*16 bits, .*{channels};"
        with pytest.raises(LabelFormatError, match=message):
            read_image(tmp_path / "deep.png", channels=channels)


def test_first_frame_of_an_animation(tmp_path, caplog):
    frames = [Image.fromarray(noise(10, 12, 3)), Image.fromarray(255 - noise(10, 12, 3))]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise(10, 12, 3))
    assert "has 2 frames or pages" in caplog.text


def test_cmyk_is_converted(tmp_path):
    ink = Image.new("CMYK", (12, 10), (0, 255, 255, 0))
    ink.save(tmp_path / "a.jpg", quality=100)
    red = read_image(tmp_path / "a.jpg")[5, 5]
    np.testing.assert_allclose(red, (255, 0, 0), atol=3)


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_number_of_pixels_is_limited(tmp_path, monkeypatch, name):
    save(tmp_path / "a.png", noise(10, 12, 3))
    np.save(tmp_path / "a.npy", noise(10, 12, 3))
    with pytest.raises(
        LabelFormatError, match=rf"D202 .*{name}: 12x10 = 120 px, .*119; .*`max_image_pixels`"
    ):
        read_image(tmp_path / name, max_pixels=119)
    for limit in (100, 30):  # Pillow warns above its limit and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(LabelFormatError, match=r"D202 .*`max_image_pixels`"):
            read_image(tmp_path / name)
        assert read_image(tmp_path / name, max_pixels=120).shape == (10, 12, 3)
        assert limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120)  # the limit itself is allowed
    assert read_image(tmp_path / name).shape == (10, 12, 3)
    source = FolderSource(plain_folder(tmp_path / "set"), max_image_pixels=1000)
    with pytest.raises(LabelFormatError, match=r"48x40 = 1,920 px, more than 1,000"):
        source.read_image(source.records("train")[0])


# -------------------------------------------------------------------- EXIF


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_the_stored_frame_are_accepted_with_a_warning(tmp_path, caplog, orientation):
    plain_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(2):
        Image.fromarray(photo(number, blocks(number, 3))).save(
            tmp_path / "images" / f"img_{number}.png", exif=exif
        )
    source = FolderSource(tmp_path)
    records = source.records("train")
    with caplog.at_level(logging.WARNING):
        for number in range(2):
            scribble = source.read_scribble(records[number])
            expected = orient(scribble_of(blocks(number, 3)), orientation)
            np.testing.assert_array_equal(scribble, expected)
            assert scribble.shape == source.read_image(records[number]).shape[:2]
    assert caplog.text.count("D201") == 1
    for part in ("scribbles/img_0.png", "48x40", "40x48", "images/img_0.png"):
        assert part in caplog.text
    assert not check_source(source).errors
    # a label that already fits the rotated image stays
    save(tmp_path / "scribbles" / "img_0.png", scribble_of(blocks(0, 3)).T.copy())
    np.testing.assert_array_equal(source.read_scribble(records[0]), scribble_of(blocks(0, 3)).T)


def test_deep_colours_are_noticed_by_the_check(tmp_path) -> None:
    root = plain_folder(tmp_path)
    for path in (root / "images").iterdir():
        pixels = cv2.imread(str(path)).astype(np.uint16)
        cv2.imwrite(str(path), pixels * 16)
    assert "D203" in {finding.code for finding in check_source(FolderSource(root)).findings}


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.tif"])
def test_missing_images_are_named(tmp_path, name):
    for channels in (3, 4):
        for read in (read_header, read_image):
            with pytest.raises(ScribbleNotFoundError, match=rf"image .*{name} does not exist"):
                read(tmp_path / name, channels=channels)


@pytest.mark.parametrize("late", [False, True])
def test_orientation_of_a_png_is_found_before_and_after_its_pixels(tmp_path, late):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)).save(
        path, exif=exif
    )
    if late:
        data = path.read_bytes()
        start = data.index(b"eXIf") - 4
        size = int.from_bytes(data[start : start + 4], "big") + 12
        chunk, end = data[start : start + size], data.index(b"IEND") - 4
        assert start < data.index(b"IDAT")
        path.write_bytes(data[:start] + data[start + size : end] + chunk + data[end:])
    header = read_header(path)
    assert (header.size, header.raw_size, header.orientation) == ((30, 20), (20, 30), 6)
    assert read_image(path).shape[:2] == header.size


def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert read_header(path).size == (20, 30)


# ---------------------------------------------------- orientation of every kind of file


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png 8", "png 16", "png rgb 16", "tif 8", "tif 16", "tif rgb 16"])
def test_deep_images_are_turned_like_others(tmp_path, kind, orientation):
    name, *colours, depth = kind.split()
    dtype = {"8": np.uint8, "16": np.uint16}[depth]
    values = noise(4, 6, 3, dtype=dtype) if colours else noise(4, 6, dtype=dtype)
    path = tmp_path / f"a.{name}"
    if name == "tif":
        tag = [(0x0112, 3, 1, orientation, True)]
        photometric = "rgb" if colours else "minisblack"
        tifffile.imwrite(path, values, photometric=photometric, extratags=tag)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        if colours:
            cv2.imwrite(str(path), values[..., ::-1])
            data, chunk = path.read_bytes(), _exif_chunk(exif)
            path.write_bytes(data[:33] + chunk + data[33:])
        else:
            Image.fromarray(values).save(path, exif=exif)
    window = Intensity("range", 0, 255)
    pixels = read_image(path, channels=3 if colours else 1, intensity=window)
    expected = orient(values if colours else values[..., None], orientation)
    np.testing.assert_array_equal(pixels, expected)
    header = read_header(path, channels=3 if colours else 1)
    assert (header.size, header.raw_size) == (pixels.shape[:2], (4, 6))
    assert header.deep == (depth == "16")
    if not colours:
        np.testing.assert_array_equal(read_pixels(path).values, expected[..., 0])


def _exif_chunk(exif: Image.Exif) -> bytes:
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    check = zlib.crc32(b"eXIf" + content)
    return struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", check)


# --------------------------------------------------------------------- hostile files


def test_postscript_is_refused_without_starting_a_program(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    )
    for name in ("Popen", "run", "check_call"):
        monkeypatch.setattr(subprocess, name, lambda *_, **__: pytest.fail("started"))
    for read in (read_image, read_header, read_pixels):
        with pytest.raises(LabelFormatError, match=r"D202 .*a\.png"):
            read(tmp_path / "a.png")


def test_pipes_are_refused_at_once(tmp_path):
    for name in ("a.png", "b.tif", "c.npy"):
        os.mkfifo(tmp_path / name)
        for read in (read_image, read_header, read_pixels):
            with pytest.raises(LabelFormatError, match=r"D202 .*it is a folder or a pipe"):
                read(tmp_path / name)
    assert FolderSource(plain_folder(tmp_path / "set")).records("train")


def test_headers_that_promise_too_much_are_refused_before_memory_is_taken(tmp_path):
    header = b"\x93NUMPY\1\0" + struct.pack("<H", 118)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (60000, 60000), }"
    (tmp_path / "a.npy").write_bytes(header + text.ljust(117) + b"\n" + bytes(1000))
    tifffile.imwrite(tmp_path / "b.tif", noise(4, 6).astype(np.float64), metadata=None)
    data = bytearray((tmp_path / "b.tif").read_bytes())
    for tag in (256, 257):  # width and length
        place = (
            data.index(struct.pack("<HH", tag, 3))
            if struct.pack("<HH", tag, 3) in data
            else data.index(struct.pack("<HH", tag, 4))
        )
        data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, 60000)
    (tmp_path / "b.tif").write_bytes(data)
    tracemalloc.start()
    for name in ("a.npy", "b.tif"):
        with pytest.raises(LabelFormatError, match=rf"D202 .*{name[0]}\.{name[2:]}"):
            read_image(tmp_path / name, channels=1, max_pixels=1 << 40)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
