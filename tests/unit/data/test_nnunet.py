import json

import numpy as np
import pytest
from helpers.tiny_folders import blocks, photo, save, scribble_of
from helpers.trees_medical import (
    SLICES,
    nnunet_pictures,
    nnunet_volumes,
    volume_image,
    volume_labels,
    volume_scribbles,
    write_nifti,
)

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import check_source
from scribbleseg.data.sources import NnUNetSource


def facts_with(root, **changes):
    path = root / "dataset.json"
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))


def test_sparse_volumes_are_scribbles(tmp_path):
    source = NnUNetSource(nnunet_volumes(tmp_path))
    assert NnUNetSource.matches(tmp_path)
    assert source.class_names == ("background", "liver", "spleen")
    assert (source.in_channels, source.background) == (2, 0)
    train, val = source.records("train"), source.records("val")
    assert len(train) + len(val) == 6 * SLICES[0]
    assert all(record.mask is None for record in (*train, *val))
    record = source.records("predict")[2]
    assert (record.image_id, record.group) == ("case_00_slice002", "case_00")
    assert record.spacing == pytest.approx((8.0, 1.25, 1.5))
    record = next(r for r in (*train, *val) if r.image_id == "case_00_slice002")
    image = source.read_image(record)
    assert (image.shape, image.dtype) == ((20, 24, 2), np.uint8)
    for channel in range(2):
        values = volume_image(channel, volume_labels(0, 3)).astype(np.float32)
        low, high = np.percentile(values, (0.5, 99.5))
        expected = np.clip((values[2] - low) / (high - low), 0, 1) * 255
        assert np.abs(image[..., channel] - expected).max() <= 0.51
    np.testing.assert_array_equal(
        source.read_scribble(record), volume_scribbles(volume_labels(0, 3))[2]
    )
    assert not check_source(source).errors


def test_folds_are_those_of_nnunet(tmp_path):
    nnunet_volumes(tmp_path, cases=12, channels=1)
    folds = [
        {record.group for record in NnUNetSource(tmp_path, fold=fold).records("val")}
        for fold in range(5)
    ]
    # scikit-learn: KFold(5, shuffle=True, random_state=12345).split(12 cases)
    numbers = [{0, 3, 8}, {7, 10, 11}, {6, 9}, {1, 4}, {2, 5}]
    assert folds == [{f"case_{number:02d}" for number in fold} for fold in numbers]


def test_stored_folds_win(tmp_path):
    nnunet_volumes(tmp_path, cases=3, channels=1)
    path = tmp_path / "splits_final.json"
    path.write_text('[{"train": ["case_02"], "val": ["case_00", "case_01"]}]')
    source = NnUNetSource(tmp_path)
    assert {record.group for record in source.records("train")} == {"case_02"}
    assert {record.group for record in source.records("val")} == {"case_00", "case_01"}
    with pytest.raises(ConfigError, match=r"fold=1: .*splits_final\.json has no such fold"):
        NnUNetSource(tmp_path, fold=1).records("train")
    path.write_text('[{"train": ["case_07"], "val": []}]')
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*lists 1 cases .*case_07"):
        NnUNetSource(tmp_path).records("train")
    path.write_text("[")
    with pytest.raises(LabelFormatError, match=r"D202 .*splits_final\.json"):
        NnUNetSource(tmp_path).records("train")
    path.unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"3 cases, at least 5"):
        NnUNetSource(tmp_path).records("train")


def test_dense_labels_train_the_upper_bound(tmp_path):
    nnunet_volumes(tmp_path, sparse=False, channels=1, ending=".nii")
    source = NnUNetSource(tmp_path, label_type="mask")
    record = source.records("train")[0]
    number = int(record.group[-2:])
    np.testing.assert_array_equal(source.read_scribble(record), volume_labels(number, 3)[0])
    val = source.records("val")[0]
    np.testing.assert_array_equal(source.read_mask(val), volume_labels(int(val.group[-2:]), 3)[0])
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*scribbles .*scribblesTr"):
        NnUNetSource(tmp_path).records("train")
    for number in range(6):
        scribbles = volume_scribbles(volume_labels(number, 3), 9)
        write_nifti(tmp_path / "strokes" / f"case_{number:02d}.nii", scribbles)
    source = NnUNetSource(tmp_path, scribble_dir="strokes", unlabelled_value=9)
    record = source.records("train")[1]
    expected = volume_scribbles(volume_labels(int(record.group[-2:]), 3))[1]
    np.testing.assert_array_equal(source.read_scribble(record), expected)
    assert source.records("val")[0].mask is not None


def test_pictures_with_three_channels_in_one_file(tmp_path):
    source = NnUNetSource(nnunet_pictures(tmp_path))
    assert source.in_channels == 3
    val = source.records("val")[0]
    assert val.group == val.image_id
    assert val.spacing is None
    number = int(val.image_id[-1])
    np.testing.assert_array_equal(source.read_image(val), photo(number, blocks(number, 3)))
    np.testing.assert_array_equal(source.read_mask(val), blocks(number, 3))
    np.testing.assert_array_equal(source.read_scribble(val), scribble_of(blocks(number, 3)))
    report = check_source(source)
    assert not report.errors
    assert report.statistics["all"]["disagreement_percent"] == 0


def test_one_grey_file_per_channel(tmp_path):
    nnunet_pictures(tmp_path)
    for number in range(6):
        colours = photo(number, blocks(number, 3))
        for channel in range(3):
            save(tmp_path / "imagesTr" / f"img{number}_000{channel}.png", colours[..., channel])
    source = NnUNetSource(tmp_path)
    record = source.records("train")[0]
    number = int(record.image_id[-1])
    np.testing.assert_array_equal(source.read_image(record), photo(number, blocks(number, 3)))
    save(tmp_path / "imagesTr" / f"img{number}_0002.png", colours[:-3, :, 0])
    with pytest.raises(LabelFormatError, match=r"D201 .*_0002\.png: is 48x37 .* 48x40"):
        source.read_image(record)
    (tmp_path / "imagesTr" / "img1_0001.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*'img1' .*\[0, 2\].*3 channels"):
        NnUNetSource(tmp_path).records("train")


def test_test_images_are_predicted(tmp_path):
    nnunet_volumes(tmp_path, channels=1)
    with pytest.raises(ScribbleNotFoundError, match=r"imagesTs: holds no case"):
        NnUNetSource(tmp_path).records("test")
    masks = volume_labels(7, 3)
    write_nifti(tmp_path / "imagesTs" / "new_0000.nii.gz", volume_image(7, masks))
    source = NnUNetSource(tmp_path)
    assert [r.image_id for r in source.records("predict")] == [f"new_slice00{i}" for i in range(4)]
    assert all(r.mask is None and r.scribble is None for r in source.records("predict"))
    assert not {r.group for r in source.records("train")} & {"new"}
    write_nifti(tmp_path / "labelsTs" / "new.nii.gz", masks)
    nnunet_volumes(tmp_path, channels=1, sparse=False)
    source = NnUNetSource(tmp_path, label_type="mask")
    test = source.records("test")
    np.testing.assert_array_equal(source.read_mask(test[3]), masks[3])
    write_nifti(tmp_path / "imagesTs" / "case_00_0000.nii.gz", volume_image(7, masks))
    with pytest.raises(LabelFormatError, match=r"D303 .*'case_00' is in imagesTr and in imagesTs"):
        NnUNetSource(tmp_path).records("test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"D401 .*dataset\.json: has no `labels`"),
        ({"labels": {"0": "background", "1": "liver"}}, r"D401 .*'0' is 'background'"),
        ({"labels": {"background": 0, "a": [1, 2]}}, r"D401 .*'a' is the region \[1, 2\]"),
        ({"labels": {"background": 0, "a": 2}}, r"D401 .*ids \[0, 2\].*without gaps"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, r"D401 .*`ignore` has the id 1"),
        ({"channel_names": None}, r"D401 .*channel_names is None"),
        ({"channel_names": None, "file_ending": None}, r"D401 .*nnU-Net v1.*convert_MSD"),
    ],
)
def test_faulty_facts_are_named(tmp_path, changes, message):
    facts_with(nnunet_pictures(tmp_path, cases=1), **changes)
    with pytest.raises(LabelFormatError, match=message):
        NnUNetSource(tmp_path)


def test_faults(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*dataset\.json: does not exist"):
        NnUNetSource(tmp_path)
    nnunet_pictures(tmp_path)
    with pytest.raises(ConfigError, match=r"fold=-1"):
        NnUNetSource(tmp_path, fold=-1)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(LabelFormatError, match=r"D202 .*dataset\.json"):
        NnUNetSource(tmp_path)
    nnunet_pictures(tmp_path)
    save(tmp_path / "imagesTr" / "odd.png", blocks(0, 3))
    with pytest.raises(LabelFormatError, match=r"D301 .*odd\.png: expected a name .*_0000\.png"):
        NnUNetSource(tmp_path).records("train")
    (tmp_path / "imagesTr" / "odd.png").unlink()
    source = NnUNetSource(tmp_path)
    record = source.records("train")[0]
    bad = blocks(0, 3)
    bad[0, 0] = 7
    save(tmp_path / "labelsTr" / f"{record.image_id}.png", bad)
    with pytest.raises(LabelFormatError, match=r"D101 .*value 7 on 1 px"):
        source.read_scribble(record)


def test_stored_folds_that_are_no_lists(tmp_path):
    root = nnunet_volumes(tmp_path)
    for wrong in (None, "case_00", [1, 2]):
        (root / "splits_final.json").write_text(json.dumps([{"train": wrong, "val": wrong}]))
        with pytest.raises(LabelFormatError, match=r"D202 .*splits_final.*expected a list of case"):
            NnUNetSource(root).records("train")
