import h5py
import numpy as np
import pytest
from helpers.tiny_folders import SIZE, VOC_STEMS, save, voc_tree, write_list
from helpers.trees_labels import (
    CITIES,
    LABEL_IDS,
    LINES,
    as_ids,
    grey,
    middle_rows,
    s4_cityscapes,
    stripes,
    write_s4,
)

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data.sources import S4Source, read_s4
from scribbleseg.functional import Stroke, rasterize

STEM = "train/ulm/ulm_000000_000019"
DRAWN = [Stroke(0, LINES[0]), Stroke(13, LINES[1])]


def first(source):
    return source.records("train")[0]


def test_unlabelled_value_comes_from_the_h5(tmp_path):
    # 1 is "ego vehicle" for Cityscapes, never scored: any value may mean "not drawn"
    source = S4Source(s4_cityscapes(tmp_path / "a", background=99), dataset="cityscapes")
    expected = middle_rows(as_ids(stripes(LABEL_IDS)), 255)
    np.testing.assert_array_equal(source.read_scribble(first(source)), expected)
    bare = s4_cityscapes(tmp_path / "b", h5=False)
    source = S4Source(bare, dataset="cityscapes")
    with pytest.raises(LabelFormatError, match=r"D101 .*labelIds\.png.*set `unlabelled_value`"):
        source.read_scribble(first(source))
    source = S4Source(bare, dataset="cityscapes", unlabelled_value=0)
    np.testing.assert_array_equal(source.read_scribble(first(source)), expected)


def test_strokes_are_drawn_by_the_one_rasteriser(tmp_path):
    s4_cityscapes(tmp_path)
    for width in (3, 5):
        source = S4Source(tmp_path, dataset="cityscapes", scribble_width=width)
        record = first(source)
        assert record.scribble.path.suffix == ".h5"
        expected = rasterize(DRAWN, SIZE, width=width)
        np.testing.assert_array_equal(source.read_scribble(record), expected)
    thin = S4Source(tmp_path, dataset="cityscapes", scribble_width=1)
    assert (thin.read_scribble(first(thin)) == 0).sum() == 6


def test_strokes_for_shortened_scribbles(tmp_path):
    source = S4Source(s4_cityscapes(tmp_path), dataset="cityscapes", scribble_width=3)
    content = source.read_strokes(first(source))
    assert content.size == SIZE
    assert [stroke.label for stroke in content.strokes] == [0, 13]
    np.testing.assert_array_equal(content.strokes[1].points, LINES[1])
    assert content.width == 3
    assert source.read_strokes(source.records("val")[0]) is None
    pixels = S4Source(tmp_path, dataset="cityscapes")
    assert pixels.read_strokes(first(pixels)) is None  # what trains is the PNG


def test_strokes_of_void_are_left_out(tmp_path):
    root = s4_cityscapes(tmp_path)
    path = root / "scribbles/gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.h5"
    write_s4(path, LINES, (7, 4))
    source = S4Source(root, dataset="cityscapes", scribble_width=3)
    assert [s.label for s in source.read_strokes(first(source)).strokes] == [0]
    write_s4(path, LINES, (7, 77))
    with pytest.raises(LabelFormatError, match=r"D101 .*labelIds\.h5: value 77 on 1 strokes"):
        source.read_scribble(first(source))
    write_s4(path, np.zeros((0,)), ())
    assert (source.read_scribble(first(source)) == 255).all()


def test_a_class_must_not_mean_not_drawn(tmp_path):
    voc = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    for stem in VOC_STEMS[:3]:
        save(voc / "scribbles" / f"{stem}.png", grey(middle_rows(stripes((0, 2, 20)), 0)))
        write_s4(voc / "scribbles" / f"{stem}.h5", LINES, (0, 20), background=0)
    source = S4Source(tmp_path, dataset="pascal")
    with pytest.raises(
        LabelFormatError, match=r"D101 .*value 0 means unlabelled and class 'background'.*h5"
    ):
        source.read_scribble(first(source))
    accepted = S4Source(tmp_path, dataset="pascal", unlabelled_value=0)
    assert sorted(np.unique(accepted.read_scribble(first(accepted)))) == [2, 20, 255]
    strokes = S4Source(tmp_path, dataset="pascal", scribble_width=3)
    assert sorted(np.unique(strokes.read_scribble(first(strokes)))) == [0, 20, 255]


def test_own_lists(tmp_path):
    s4_cityscapes(tmp_path)
    write_list(tmp_path / "some.txt", ["ulm/ulm_000001_000019_leftImg8bit.png"])
    source = S4Source(tmp_path, dataset="cityscapes", train_list="some.txt")
    assert [r.image_id for r in source.records("train")] == ["train/ulm/ulm_000001_000019"]


def test_coloured_pngs_are_refused(tmp_path):
    source = S4Source(s4_cityscapes(tmp_path), dataset="cityscapes")
    pixels = grey(middle_rows(stripes(LABEL_IDS), 0))
    pixels[3, 4:6, 2] = 7
    save(first(source).scribble.path, pixels)
    with pytest.raises(LabelFormatError, match=r"D103 .*\.png: holds 5 colours \(\(0, 0, 7\)"):
        source.read_scribble(first(source))


def test_content_of_an_h5(tmp_path):
    content = read_s4(write_s4(tmp_path / "a.h5", LINES, (7, 26)))
    assert (content.size, content.unlabelled_value) == (SIZE, 0)
    assert content.values.tolist() == [7, 26]
    np.testing.assert_array_equal(content.lines, LINES)
    assert read_s4(write_s4(tmp_path / "b.h5", LINES, (7, 26), background=None))[3] is None


def change(path, **replaced):
    with h5py.File(path, "a") as content:
        for key, value in replaced.items():
            del content[key]
            if value is not None:
                content[key] = value


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"scribble": None}, r"D202 .*a\.h5: holds no scribble,"),
        ({"scribble": np.zeros((2, 5, 3))}, r"D202 .*a\.h5: scribble \(2, 5, 3\)"),
        ({"scribble": np.full((2, 5, 2), np.nan)}, r"D202 .*expected finite"),
        ({"scribble_values": np.array([[1, 1, 1], [1, 2, 3]])}, r"D103 .*\[1, 2, 3\]"),
        ({"config": b"{"}, r"D202 .*a\.h5: config is not a JSON object"),
        ({"config": b"[]"}, r"D202 .*a\.h5: config is not a JSON object"),
        ({"config": b'{"background_px_value": [1, 2, 3]}'}, r"D202 .*\[1, 2, 3\]"),
    ],
)
def test_faulty_h5(tmp_path, replaced, message):
    path = write_s4(tmp_path / "a.h5", LINES, (7, 26))
    change(path, **replaced)
    with pytest.raises(LabelFormatError, match=message):
        read_s4(path)


def test_data_sets_that_promise_too_much(tmp_path):
    path = write_s4(tmp_path / "a.h5", LINES, (7, 26))
    with h5py.File(path, "a") as content:
        del content["scribble_values"]
        content.create_dataset("scribble_values", (1 << 28, 3), "i4", chunks=(64, 3))
    with pytest.raises(LabelFormatError, match=r"D202 .*a\.h5: its header promises 3,221,225,472"):
        read_s4(path)


def test_broken_and_missing_h5(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no")
    with pytest.raises(LabelFormatError, match=r"D202 .*a\.h5: .*it is not a complete HDF5 file"):
        read_s4(tmp_path / "a.h5")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*b\.h5 does not exist"):
        read_s4(tmp_path / "b.h5")


def test_faults(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset='coco'"):
        S4Source(tmp_path, dataset="coco")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no leftImg8bit here"):
        S4Source(tmp_path, dataset="cityscapes")
    root = s4_cityscapes(tmp_path)
    with pytest.raises(ConfigError, match=r"scribble_width=0: expected a positive number"):
        S4Source(root, dataset="cityscapes", scribble_width=0)
    path = root / f"scribbles/gtFine/train/ulm/{CITIES[0]}_gtFine_labelIds.h5"
    write_s4(path, LINES, (7, 26), size=(20, 24))
    source = S4Source(root, dataset="cityscapes", scribble_width=3)
    with pytest.raises(LabelFormatError, match=r"D201 .*24x20.*48x40"):
        source.read_scribble(first(source))
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no list of split 'test'"):
        source.records("test")
    path.unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 2 scribbles .*\(\.h5\)"):
        S4Source(root, dataset="cityscapes", scribble_width=3).records("train")
