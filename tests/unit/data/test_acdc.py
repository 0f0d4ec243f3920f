import sys

import h5py
import numpy as np
import pytest
from helpers.tiny_folders import acdc_plain, acdc_release, blocks, scribble_of

from scribbleseg import ConfigError, LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.data import check_source
from scribbleseg.data.sources import ACDCSource


def test_release_is_split_by_patient(tmp_path):
    acdc_release(tmp_path)
    source = ACDCSource(tmp_path)
    val, train = source.records("val"), source.records("train")
    assert [record.image_id for record in val] == [
        f"patient{p:03d}_frame01_slice_{s}" for p in (1, 2) for s in (1, 10)
    ]
    assert {record.group for record in train} == {"patient021_frame01", "patient100_frame01"}
    assert all(record.mask is None for record in train)
    assert {r.group for r in ACDCSource(tmp_path, fold=5).records("val")} == {"patient100_frame01"}
    assert source.records("test") == val
    assert len(source.records("predict")) == 8


def test_release_arrays(tmp_path):
    acdc_release(tmp_path)
    source = ACDCSource(tmp_path / "ACDC_training_slices")
    record = source.records("val")[0]
    image = source.read_image(record)
    assert (image.dtype, image.shape) == (np.uint8, (40, 48, 3))
    assert (image[..., 0] == image[..., 2]).all()
    np.testing.assert_array_equal(source.read_mask(record), blocks(2, 4))
    np.testing.assert_array_equal(source.read_scribble(record), scribble_of(blocks(2, 4)))
    dense = ACDCSource(tmp_path, label_type="mask")
    np.testing.assert_array_equal(dense.read_scribble(dense.records("train")[0]), blocks(22, 4))


def test_check_of_the_release(tmp_path):
    report = check_source(ACDCSource(acdc_release(tmp_path)))
    assert not report.errors
    assert report.statistics["splits"]["train"]["disagreement_percent"] == 0


def test_plain_folder(tmp_path):
    source = ACDCSource(acdc_plain(tmp_path))
    assert {record.group for record in source.records("train")} == {"patient001_frame01"}
    assert source.class_names[3] == "left_ventricle"
    assert not check_source(source).findings


def test_plain_folder_without_lists_uses_the_folds(tmp_path):
    acdc_plain(tmp_path)
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"fold 1 leaves no slice for split 'train'"):
        ACDCSource(tmp_path).records("train")
    assert len(ACDCSource(tmp_path, fold=2).records("train")) == 8
    assert not (tmp_path / "train.txt").exists()


def test_faults(tmp_path):
    with pytest.raises(ConfigError, match=r"fold=6"):
        ACDCSource(tmp_path, fold=6)
    with pytest.raises(ScribbleNotFoundError, match=r"ACDC_training_slices"):
        ACDCSource(tmp_path)
    folder = acdc_release(tmp_path) / "ACDC_training_slices"
    source = ACDCSource(tmp_path)
    record = source.records("val")[0]
    with h5py.File(folder / f"{record.image_id}.h5", "a") as content:
        content["image"][...] = 200.0
        content["scribble"][0, 0] = 9
        del content["label"]
    with pytest.raises(LabelFormatError, match=r"D203 .*slice_1\.h5.*200"):
        source.read_image(record)
    with pytest.raises(LabelFormatError, match=r"D101 .*slice_1\.h5.*value 9 on 1 px"):
        source.read_scribble(record)
    with pytest.raises(ScribbleNotFoundError, match=r"no data set 'label'"):
        source.read_mask(record)
    (folder / f"{record.image_id}.h5").write_bytes(b"broken")
    with pytest.raises(LabelFormatError, match=r"D202"):
        source.read_image(record)


def test_missing_package(tmp_path, monkeypatch):
    source = ACDCSource(acdc_release(tmp_path))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"scribbleseg\[medical\]"):
        source.read_image(source.records("val")[0])
