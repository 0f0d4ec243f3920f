import sys

import h5py
import numpy as np
import pytest
from helpers.tiny_folders import acdc_plain, acdc_release

from scribbleseg import ConfigError, LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.data.sources import ACDCSource


def test_release_is_split_by_patient(tmp_path):
    source = ACDCSource(acdc_release(tmp_path))
    val, train = source.records("val"), source.records("train")
    assert {record.group for record in train} == {"patient021_frame01", "patient100_frame01"}
    assert {r.group for r in ACDCSource(tmp_path, fold=5).records("val")} == {"patient100_frame01"}
    assert source.records("test") == val
    assert ACDCSource(tmp_path / "ACDC_training_slices").records("val") == val


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
    source = ACDCSource(acdc_release(tmp_path))
    record = source.records("val")[0]
    with h5py.File(record.image, "a") as content:
        content["image"][...] = 200.0
        content["scribble"][0, 0] = 9
        del content["label"]
    with pytest.raises(LabelFormatError, match=r"D203 .*slice_1\.h5.*200"):
        source.read_image(record)
    with pytest.raises(LabelFormatError, match=r"D101 .*slice_1\.h5.*value 9 on 1 px"):
        source.read_scribble(record)
    with pytest.raises(ScribbleNotFoundError, match=r"no data set 'label'"):
        source.read_mask(record)
    with h5py.File(record.image, "a") as content:
        content["label"] = np.zeros((2, 40, 48), np.uint8)
        content["image"][0, 0] = np.nan
    with pytest.raises(
        LabelFormatError, match=r"D203 .*slice_1\.h5/label: has shape \(2, 40, 48\)"
    ):
        source.read_mask(record)
    with pytest.raises(LabelFormatError, match=r"D203 .*slice_1\.h5.*nan"):
        source.read_image(record)
    record.image.write_bytes(b"broken")
    with pytest.raises(LabelFormatError, match=r"D202"):
        source.read_image(record)


def test_missing_package(tmp_path, monkeypatch):
    source = ACDCSource(acdc_release(tmp_path))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"scribbleseg\[medical\]"):
        source.read_image(source.records("val")[0])
