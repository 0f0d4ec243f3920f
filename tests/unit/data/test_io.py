import numpy as np
import pytest
from helpers.tiny_folders import save, write_list
from PIL import Image, ImageFile

from scribbleseg import LabelFormatError, ScribbleNotFoundError, voc_palette
from scribbleseg.data import (
    LABEL_SUFFIXES,
    encode_label,
    find_images,
    natural_key,
    read_classes,
    read_header,
    read_image,
    read_label,
    read_raw_label,
    read_split,
    require,
)

IDS = np.array([[0, 1, 15, 255], [20, 0, 1, 1]], dtype=np.uint8)


# ---------------------------------------------------------------------------- labels


@pytest.mark.parametrize("palette", [True, False])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_palette_and_grey_files_hold_ids(tmp_path, palette, suffix):
    path = save(tmp_path / f"a{suffix}", IDS, palette=palette)
    label = read_label(path, 21)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, IDS)


def test_sixteen_and_one_bit_files_hold_ids(tmp_path):
    np.testing.assert_array_equal(
        read_label(save(tmp_path / "a.png", IDS.astype(np.uint16)), 21), IDS
    )
    bits = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(read_label(save(tmp_path / "b.png", bits), 2), bits)


def test_four_bit_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 3], [7, 1]], np.uint8))
    image.putpalette(voc_palette(16).tobytes())
    image.save(tmp_path / "a.png", bits=4, transparency=0)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", 8), [[0, 3], [7, 1]])


def test_value_tables(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 3, 4], [11, 255, 1]], np.uint8))
    label = read_label(path, 4, unlabelled_value=4, ignore=[11])
    np.testing.assert_array_equal(label, [[0, 3, 255], [255, 255, 1]])
    remap = np.full(256, -1)
    remap[[0, 1, 3]] = [0, 1, 2]
    label = read_label(path, 3, unlabelled_value=4, ignore=[11], remap=remap)
    np.testing.assert_array_equal(label, [[0, 2, 255], [255, 255, 1]])
    with pytest.raises(LabelFormatError, match=r"D101 .*value 3 on 1 px"):
        read_label(path, 3, unlabelled_value=4, ignore=[11])


def test_zero_can_mean_unlabelled(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 1]], np.uint8))
    np.testing.assert_array_equal(read_label(path, 2, unlabelled_value=0), [[255, 1]])


def test_large_values_are_not_wrapped(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 256], [511, 1]], np.uint16))
    with pytest.raises(LabelFormatError, match=r"value 256 on 1 px"):
        read_label(path, 2)
    np.testing.assert_array_equal(read_label(path, 2, ignore=[256, 511]), [[0, 255], [255, 1]])


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


def test_colours_need_a_table(tmp_path):
    path = save(tmp_path / "a.png", voc_palette()[IDS])
    with pytest.raises(LabelFormatError, match=r"D103 .*mode RGB with 5 colours.*color"):
        read_label(path, 21)
    table = {tuple(int(v) for v in voc_palette()[i]): i for i in (0, 1, 15, 20, 255)}
    np.testing.assert_array_equal(read_label(path, 21, palette=table), IDS)
    del table[(128, 0, 0)]
    with pytest.raises(LabelFormatError, match=r"\(128, 0, 0\) on 3 px"):
        read_label(path, 21, palette=table)


def test_jpeg_float_broken_and_missing_labels(tmp_path):
    with pytest.raises(LabelFormatError, match=r"D103 .*JPEG"):
        read_label(save(tmp_path / "a.jpg", IDS), 21)
    (tmp_path / "a.jpg").rename(tmp_path / "b.png")
    with pytest.raises(LabelFormatError, match=r"D103 .*JPEG"):
        read_label(tmp_path / "b.png", 21)
    with pytest.raises(LabelFormatError, match=r"D203"):
        read_label(save(tmp_path / "f.tif", IDS.astype(np.float32)), 21)
    (tmp_path / "t.png").write_text("not an image")
    with pytest.raises(LabelFormatError, match=r"D202 .*t\.png"):
        read_label(tmp_path / "t.png", 21)
    with pytest.raises(ScribbleNotFoundError, match=r"n\.png does not exist"):
        read_label(tmp_path / "n.png", 21)


def test_raw_labels_are_not_checked(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 77]], np.uint8))
    assert read_raw_label(path).tolist() == [[0, 77]]


def test_arrays_that_are_no_labels_are_refused():
    for raw in (np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2), np.float32)):
        with pytest.raises(ValueError, match=r"a\.png: labels must be a 2-D integer array"):
            encode_label(raw, 2, path="a.png")
    with pytest.raises(ValueError, match=r"256 or 65536 entries, got 3"):
        encode_label(np.zeros((2, 2), np.uint8), 2, path="a.png", remap=np.arange(3))


def test_which_cause_is_named_for_values_out_of_range():
    def complaint(values, classes=3):
        with pytest.raises(LabelFormatError) as error:
            encode_label(np.array([values], np.int32), classes, path="a.png")
        return str(error.value)

    assert "negative ids" in complaint([-1, -1, 0, 5])
    assert "set `unlabelled_value: 3`" in complaint([3, 0, 0, 0, 1, 2])
    assert "set `unlabelled_value: 200`" in complaint([200, 200, 200, 0, 1])
    assert "list 201 classes" in complaint([200, 200, 0, 1])
    many = complaint([*range(20, 27), 24, 24])
    assert many.startswith("D101 a.png: value 24 on 3 px (33.3 %), value 20 on 1 px (11.1 %)")
    assert "value 23" in many
    assert "value 25" not in many
    assert "and 2 further values, expected classes 0-2 and 255" in many


def test_a_table_of_small_values_still_takes_larger_files():
    raw = np.array([[0, 1, 7, 255, 300]], np.uint16)
    out = encode_label(raw, 2, path="a.png", ignore=[7, 300])
    assert out.tolist() == [[0, 1, 255, 255, 255]]
    with pytest.raises(LabelFormatError, match=r"D101 .*value 300 on 1 px"):
        encode_label(raw, 2, path="a.png", ignore=[7])
    out = encode_label(np.array([[4, 9]], np.uint8), 2, path="a.png", ignore=[-3, 4, 9])
    assert out.tolist() == [[255, 255]]
    with pytest.raises(LabelFormatError, match=r"D101 .*value 253"):
        encode_label(np.array([[253]], np.uint8), 2, path="a.png", ignore=[-3])


def test_num_classes_is_checked():
    with pytest.raises(ValueError, match=r"num_classes"):
        encode_label(IDS, 256, path="x")


def test_require():
    with pytest.raises(ScribbleNotFoundError, match=r"img_1: this sample has no mask"):
        require(None, "mask", "img_1")


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.tif"])
def test_missing_images_are_named(tmp_path, name):
    for channels in (3, 4):
        for read in (read_header, read_image):
            with pytest.raises(ScribbleNotFoundError, match=rf"image .*{name} does not exist"):
                read(tmp_path / name, channels=channels)


def test_header_reports_the_oriented_size(tmp_path):
    image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    header = read_header(tmp_path / "a.jpg")
    assert (header.size, header.raw_size) == ((30, 20), (20, 30))
    assert read_image(tmp_path / "a.jpg").shape == (30, 20, 3)


# ---------------------------------------------------------------------------- split files


@pytest.mark.parametrize(
    ("text", "stems"),
    [
        (b"\xef\xbb\xbfa\r\nb\r\n\r\n# c\r\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"/JPEGImages/a.jpg /SegmentationClassAug/a.png\n", ["a"]),
        (b"/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png\n", ["x"]),
        (b"JPEGImages/a.jpg scribble/a.png seg/a.png\n", ["a"]),
        (b"a\tb\n", ["a"]),
        (b"my photo 1\nmy photo 2.JPG\n", ["my photo 1", "my photo 2"]),
        (b"images/site_a/scan.v2.png\n", ["site_a/scan.v2"]),
        (b"./a.tif\n", ["a"]),
        ("größe\n".encode(), ["größe"]),
    ],
)
def test_read_split(tmp_path, text, stems):
    (tmp_path / "train.txt").write_bytes(text)
    assert read_split(tmp_path / "train.txt") == stems


@pytest.mark.parametrize("name", ["../x", "a/../../x", "C:/x", "a\\x", "a\0x"])
def test_unsafe_names_are_refused(tmp_path, name):
    write_list(tmp_path / "train.txt", ["ok", name])
    with pytest.raises(LabelFormatError, match=r"D501 .*train\.txt: line 2"):
        read_split(tmp_path / "train.txt")


def test_split_file_faults(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"D301"):
        read_split(tmp_path / "none.txt")
    with pytest.raises(ScribbleNotFoundError, match=r"lists no image"):
        read_split(write_list(tmp_path / "a.txt", ["# only a comment"]))
    with pytest.raises(LabelFormatError, match=r"D303 .*lines 1 and 3"):
        read_split(write_list(tmp_path / "b.txt", ["a", "b", "a.png"]))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelFormatError, match=r"D202 .*UTF-8"):
        read_split(tmp_path / "c.txt")


# ---------------------------------------------------------------------------- class files


def test_classes_txt(tmp_path):
    write_list(tmp_path / "classes.txt", ["_background_", "cat", "dog"])
    table = read_classes(tmp_path)
    assert table.names == ("_background_", "cat", "dog")
    assert (table.background, table.remap) == (0, None)
    write_list(tmp_path / "classes.txt", ["sky", "road"])
    assert read_classes(tmp_path).background is None


def test_labelme_list(tmp_path):
    write_list(tmp_path / "labels.txt", ["__ignore__", "_background_", "cat"])
    assert read_classes(tmp_path).names == ("_background_", "cat")


def test_classes_yaml(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        "classes:\n- {id: 0, name: back, color: [1, 2, 3]}\n"
        "- {id: 7, name: Cat, color: '#0a0b0c', aliases: [kitty]}\n"
        "ignore: [4, 255]\nunlabelled_value: 9\nbackground: 0\ncompact: true\n"
    )
    table = read_classes(tmp_path)
    assert table.names == ("back", "Cat")
    assert table.colours == {(1, 2, 3): 0, (10, 11, 12): 1}
    assert table.palette[1].tolist() == [10, 11, 12]
    assert (table.ignore, table.unlabelled_value, table.background) == ((4,), 9, 0)
    assert (table.aliases["kitty"], table.aliases["cat"]) == (1, 1)
    assert (table.remap[0], table.remap[7], table.remap[1]) == (0, 1, -1)


def test_classes_json_list_and_null_background(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": ["background", "x"], "background": null}')
    assert read_classes(tmp_path).background is None
    (tmp_path / "classes.json").write_text('["background", "x"]')
    table = read_classes(tmp_path)
    assert (table.names, table.background) == (("background", "x"), 0)


def test_an_ignored_class_has_an_id_and_no_name(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        "classes: [{id: 3, name: b}, {id: 9, name: __ignore__}, {id: 1, name: a}]\n"
        "ignore: 4\ncompact: true\nbackground: 3\n"
    )
    table = read_classes(tmp_path)
    assert (table.names, table.ignore, table.background) == (("a", "b"), (4, 9), 1)
    assert (table.remap[1], table.remap[3], table.remap[9]) == (0, 1, -1)


def test_the_first_class_file_counts(tmp_path):
    for place, name in enumerate(("labels.txt", "classes.txt", "classes.json", "classes.yaml")):
        text = {"txt": "a\nb{}\n", "json": '["a", "b{}"]', "yaml": "[a, b{}]"}
        (tmp_path / name).write_text(text[name.rsplit(".", 1)[1]].format(place))
    order = []
    while any(tmp_path.iterdir()):
        order.append(read_classes(tmp_path).names[1])
        path = next(p for p in tmp_path.iterdir() if read_classes(p).names[1] == order[-1])
        path.unlink()
    assert order == ["b3", "b2", "b1", "b0"]
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*write classes\.txt"):
        read_classes(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "a\nb\na\n", "used twice"),
        ("classes.txt", "dining-table\nDining Table\n", "used twice"),
        ("classes.txt", "a\n\nb\n", "line 2 is empty"),
        ("classes.txt", "\n".join(map(str, range(256))), "256 classes, expected 2..255"),
        ("classes.txt", "a\n", "1 classes"),
        ("classes.yaml", "classes: [{id: 0, name: a}, {id: 2, name: b}]", "compact: true"),
        ("classes.yaml", "classes: [{id: 0, name: a}, {id: 0, name: b}]", "used twice"),
        ("classes.yaml", "classes: [a, b]\nbackground: 5", "background 5"),
        ("classes.yaml", "classes: [a, b]\nignored: 5", "unknown keys"),
        ("classes.yaml", "classes: [{name: a, color: red}, b]", "color 'red'"),
        ("classes.yaml", "classes: [a, b]\nunlabelled_value: x", "unlabelled_value is 'x'"),
        ("classes.yaml", "just text", "expected `classes:`"),
        ("classes.yaml", "classes: [a, 3]", "entry 1 is 3, expected a name"),
        ("classes.yaml", "classes: [a, {id: 1}]", r"entry 1 is \{'id': 1\}"),
        ("classes.yaml", "classes: [a, {name: b, hue: 3}]", r"\['hue'\] in the class 'b'"),
        (
            "classes.yaml",
            "classes: [{name: a, color: '#010203'}, {name: b, color: [1, 2, 3]}]",
            r"color \(1, 2, 3\) is used twice",
        ),
        ("classes.yaml", "classes: [{name: a, color: [0, 0, 256]}, b]", r"color \[0, 0, 256\]"),
        (
            "classes.yaml",
            "classes: [{id: -1, name: a}, {id: 0, name: b}]\ncompact: true",
            r"0\.\.65535, got -1\.\.0",
        ),
        (
            "classes.yaml",
            "classes: [{id: 0, name: a}, {id: 65536, name: b}]\ncompact: true",
            r"0\.\.65535, got 0\.\.65536",
        ),
        ("classes.yaml", "classes: [a, b]\nunlabelled_value: true", "unlabelled_value is True"),
        ("classes.yaml", "classes: [", "D202"),
        ("classes.json", "{", "D202"),
    ],
)
def test_class_file_faults(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelFormatError, match=message) as error:
        read_classes(tmp_path)
    assert name in str(error.value)


# ---------------------------------------------------------------------------- folders


def test_find_images_by_stem(tmp_path):
    pixels = np.zeros((2, 2), np.uint8)
    for name in ("b.JPG", "a.png", "sub/a.png", "sub/deep/c.tif", ".hidden.png"):
        save(tmp_path / name, pixels)
    (tmp_path / "notes.txt").touch()
    assert list(find_images(tmp_path)) == ["a", "b", "sub/a", "sub/deep/c"]


def test_find_images_faults(tmp_path):
    pixels = np.zeros((2, 2), np.uint8)
    save(tmp_path / "x" / "a.png", pixels)
    save(tmp_path / "x" / "a.jpg", pixels)
    with pytest.raises(LabelFormatError, match=r"D303 .*a\.jpg and a\.png"):
        find_images(tmp_path / "x")
    found = find_images(tmp_path / "x", suffixes=LABEL_SUFFIXES, unique=False)
    assert found["a"].suffix == ".png"
    with pytest.raises(ScribbleNotFoundError, match=r"D301"):
        find_images(tmp_path / "none")


def test_links_must_stay_inside(tmp_path):
    outside = save(tmp_path / "secret.png", np.zeros((2, 2), np.uint8))
    inside = save(tmp_path / "images" / "a.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "images" / "b.png").symlink_to(inside)
    assert list(find_images(tmp_path / "images")) == ["a", "b"]
    (tmp_path / "images" / "c.png").symlink_to(outside)
    with pytest.raises(LabelFormatError, match=r"D501 .*c\.png: link leaves"):
        find_images(tmp_path / "images")
    # the folder itself is the user's choice
    (tmp_path / "linked").symlink_to(tmp_path / "images" / "..", target_is_directory=True)
    assert "secret" in find_images(tmp_path / "linked")


def test_natural_key():
    names = ["s_10", "s_2", "s_1", "t"]
    assert sorted(names, key=natural_key) == ["s_1", "s_2", "s_10", "t"]
    names = ["a", "b1", "1b", "10", "9", "a_", "a0", "a00", ""]
    expected = ["", "1b", "9", "10", "a", "a0", "a00", "a_", "b1"]
    assert sorted(names, key=natural_key) == expected


def test_grey_tones_of_many_classes_prove_nothing(tmp_path) -> None:
    path = tmp_path / "label.png"
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(path)
    with pytest.raises(LabelFormatError, match="D101"):
        read_label(path, 150)


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
