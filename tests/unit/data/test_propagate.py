from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_folders import STEMS, acdc_release, plain_folder, save, write_list
from helpers.trees_convert import labels_of
from PIL import Image

from scribbleseg import ConfigError, ScribbleNotFoundError
from scribbleseg.data import main, propagate_scribbles
from scribbleseg.data.sources import ACDCSource, FolderSource
from scribbleseg.functional import random_walker_labels

ACDC = Path(__file__).parents[4] / "shared" / "data" / "acdc"


@pytest.fixture
def root(tmp_path):
    return plain_folder(tmp_path / "data")


def propagate(root, out, **options):
    return propagate_scribbles(FolderSource(root), out, progress=False, **options)


def test_labels_are_those_of_the_random_walker(root, tmp_path):
    out, source = tmp_path / "out", FolderSource(root)
    # a mask that is read would fail
    for stem in STEMS:
        (root / "masks" / f"{stem}.png").write_bytes(b"broken")
    report = propagate(root, out)
    for record in source.records("train"):
        image, scribble = source.read_image(record), source.read_scribble(record)
        expected = random_walker_labels(image, scribble)
        np.testing.assert_array_equal(labels_of(out, record.image_id), expected)
    assert report.found["labels"][255] == 0
    assert report.found["labels"].sum() == report.found["scribbles"].sum() == 6 * 40 * 48
    assert len(report.format().splitlines()) < 30


def test_a_source_trains_on_the_folder(root, tmp_path):
    propagate(root, root / "propagated")
    source = FolderSource(root, label_type="pseudo", pseudo_label_dir="propagated")
    assert all((source.read_scribble(r) != 255).all() for r in source.records("train"))


def test_grey_images_count_as_one_channel(root, tmp_path):
    grey = {}
    for stem in STEMS[:6]:
        with Image.open(root / "images" / f"{stem}.png") as image:
            grey[stem] = np.array(image)[..., 0]
        save(root / "images" / f"{stem}.png", grey[stem])
    propagate(root, tmp_path / "out", beta=1000)
    source = FolderSource(root)
    for record in source.records("train"):
        expected = random_walker_labels(
            grey[record.image_id], source.read_scribble(record), beta=1000
        )
        np.testing.assert_array_equal(labels_of(tmp_path / "out", record.image_id), expected)


def test_released_acdc_slices(tmp_path):
    source = ACDCSource(acdc_release(tmp_path))
    report = propagate_scribbles(source, tmp_path / "out", progress=False)
    assert report.written == 4
    assert propagate_scribbles(source, tmp_path / "out", progress=False).kept == 4
    labels = labels_of(tmp_path / "out", "patient021_frame01_slice_1")
    assert labels.shape == (40, 48)
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_images_without_scribble_stay_unlabelled(root, tmp_path):
    save(root / "scribbles" / f"{STEMS[2]}.png", np.full((40, 48), 255, np.uint8))
    report = propagate(root, tmp_path / "out")
    assert report.found["empty"] == [STEMS[2]]
    assert (labels_of(tmp_path / "out", STEMS[2]) == 255).all()
    assert f"1 images have no scribble, so nothing is labelled on them (e.g. {STEMS[2]})" in (
        report.format()
    )


def test_labels_of_another_size_are_made_anew(root, tmp_path):
    propagate(root, tmp_path / "out")
    expected = labels_of(tmp_path / "out", STEMS[1])
    save(tmp_path / "out" / f"{STEMS[1]}.png", np.zeros((5, 5), np.uint8))
    assert propagate(root, tmp_path / "out").written == 1
    np.testing.assert_array_equal(labels_of(tmp_path / "out", STEMS[1]), expected)


def test_the_overview_shows_eight_images_of_several_classes(tmp_path):
    stems = tuple(f"img_{number:02}" for number in range(17))
    root, out = plain_folder(tmp_path / "data", stems=stems), tmp_path / "out"
    for stem in (stems[0], stems[5]):  # of one class: there is nothing to see
        save(root / "scribbles" / f"{stem}.png", np.full((40, 48), 1, np.uint8))
    report = propagate(root, out)
    picture = np.asarray(Image.open(report.overview))
    source = FolderSource(root)
    records = [r for r in source.records("train") if r.image_id not in (stems[0], stems[5])]
    assert len(records) == 11
    palette = source.palette.copy()
    palette[0] = 150
    for row, number in enumerate((0, 1, 3, 4, 6, 7, 9, 10)):
        image, scribble = source.read_image(records[number]), source.read_scribble(records[number])
        strokes = np.where((scribble == 255)[..., None], image, palette[scribble])
        labels = palette[labels_of(out, records[number].image_id)]
        # a tile is six times as large as its image; the caption covers its upper rows
        for column, expected in enumerate((image, strokes, (image.astype(int) + labels) / 2)):
            top, left = 26 + 244 * row, 292 * column
            tile = picture[top + 3 : top + 240 : 6, left + 3 : left + 288 : 6].astype(int)
            np.testing.assert_allclose(tile[10:], expected[10:], atol=1)
    assert picture.shape == (26 + 8 * 244, 3 * 292, 3)


def test_other_classes_need_another_folder(root, tmp_path):
    propagate(root, tmp_path / "out")
    write_list(root / "classes.txt", ["background", "vessel", "cell"])
    with pytest.raises(ConfigError, match=r"class_names: .*another folder"):
        propagate(root, tmp_path / "out")


class _Small(FolderSource):
    def read_scribble(self, record):
        return super().read_scribble(record)[:20]


def test_a_scribble_of_another_size_is_named_by_its_file(root, tmp_path):
    job = propagate_scribbles(_Small(root), tmp_path / "out", workers=0, progress=False)
    file = root / "scribbles" / f"{STEMS[0]}.png"
    assert job.failed[STEMS[0]].startswith(f"D201 {file}: scribble is ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beta", "-1"], "beta=-1.0"),
        (["--beta", "nan"], "beta=nan"),
        (["--min-confidence", "90"], "percentages"),
        (["--workers", "-1"], "workers=-1"),
        (["--source", "voc"], "JPEGImages"),
    ],
)
def test_mistakes_on_the_command_line(root, tmp_path, capsys, options, message):
    assert main(["propagate", str(root), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_missing_scribbles_are_found_before_the_work(root, tmp_path):
    (root / "scribbles" / f"{STEMS[0]}.png").unlink()
    (root / "scribbles" / f"{STEMS[7]}.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 6 scribbles .*img_0"):
        propagate(root, tmp_path / "out")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 2 images of split 'val' .*img_7"):
        propagate(root, tmp_path / "out", split="val")


def test_only_scribbles_are_propagated(root, tmp_path):
    with pytest.raises(ConfigError, match="label_type='mask'"):
        propagate_scribbles(FolderSource(root, label_type="mask"), tmp_path / "out")


@pytest.mark.skipif(not ACDC.is_dir(), reason="needs the ACDC slices")
def test_cardiac_slices(tmp_path):
    stems = [f"patient001_frame01_slice{number:02d}" for number in (2, 4)]
    source = FolderSource(ACDC, train_list=str(write_list(tmp_path / "few.txt", stems)))
    report = propagate_scribbles(source, tmp_path / "out", progress=False)
    assert report.found["labels"][255] == 0
    for record in source.records("train"):
        mask = source.read_mask(source.with_mask(record))
        labels = labels_of(tmp_path / "out", record.image_id)
        for label in range(4):
            both = ((mask == label) & (labels == label)).sum()
            dice = 2 * both / ((mask == label).sum() + (labels == label).sum())
            assert dice > 0.5, (record.image_id, label)
