"""What the data module refuses and writes; what its batches hold is in their digests."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_folders import plain_folder

from scribbleseg import (
    ConfigError,
    Label,
    LabelFormatError,
    Record,
    ScribbleNotFoundError,
    ScribbleSegError,
)
from scribbleseg.data import EvalDataset, Finding, ScribbleDataModule, TrainDataset, collate
from scribbleseg.data.sources import FolderSource, SyntheticSource


def module(**options) -> ScribbleDataModule:
    source = SyntheticSource(num_train=10, num_val=3, size=40)
    settings = {"batch_size": 4, "num_workers": 0, "crop_size": 32, "seed": 0, "check": False}
    return ScribbleDataModule(source, **{**settings, **options})


def test_last_batch_is_dropped_unless_it_is_the_only_one() -> None:
    for options, batches in (({}, 2), ({"drop_last": False}, 3), ({"batch_size": 64}, 1)):
        data = module(**options)
        data.setup("fit")
        assert len(list(data.train_dataloader())) == batches


def test_sizes_may_be_lists_and_others_are_refused() -> None:
    assert module(crop_size=[24, 32], resize=[40, 48]).crop_size == (24, 32)
    assert module(crop_size=None, resize=[40, 48]).resize == (40, 48)
    for size in ([32], [32, 32, 3], "32", (32.0, 32.0), 0, (32, 0)):
        for name in ("crop_size", "resize"):
            with pytest.raises(ConfigError, match=rf"{name}=.*height and width"):
                module(**{name: size})
    for name, value in (("batch_size", 0), ("val_batch_size", 0), ("num_workers", -1)):
        with pytest.raises(ConfigError, match=f"{name}={value}: expected a whole number of at"):
            module(**{name: value})


def test_collate_pads_with_ignore_not_with_a_class() -> None:
    fills = {"image": 0, "mask": 255, "scribble": 255, "pseudo_label": 255, "valid": 0}
    fills |= {"superpixel": -1, "source_index": -1, "scribble_distance": 255}
    sizes = ((4, 6), (5, 3))
    items = [{key: torch.full((1, *size), 9) for key in fills} | {"id": "x"} for size in sizes]
    batch = collate(items)
    assert batch["id"] == ["x", "x"]
    for key, fill in fills.items():
        assert batch[key].shape == (2, 1, 5, 6)
        assert (batch[key][0, :, :4] == 9).all()
        assert (batch[key][0, :, 4:] == fill).all(), key
        assert (batch[key][1, ..., 3:] == fill).all(), key


class _Shifted(SyntheticSource):
    def read_scribble(self, record: Record) -> np.ndarray:
        return super().read_scribble(record)[:-1]


def test_size_mismatch_names_file_and_sizes() -> None:
    source = _Shifted(num_train=1, size=40)
    data = module()
    data.setup("fit")
    transform = data.train_dataloader().dataset.transform
    dataset = TrainDataset(source, source.records("train"), transform, data.data_info)
    with pytest.raises(LabelFormatError, match=r"D201 train_00000: scribble is 40×\d+"):
        dataset[0]


def test_one_missing_mask_means_scoring_on_scribbles() -> None:
    source = SyntheticSource(num_val=2, size=40)
    records = [
        Record("val_00000", Path("a.png"), Label(Path("a.png")), Label(Path("a.png"))),
        Record("val_00001", Path("b.png"), Label(Path("b.png"))),
    ]
    dataset = EvalDataset(source, records, module().data_info)
    assert not dataset.has_masks
    assert "mask" not in dataset[0]
    assert "scribble" in dataset[0]


def test_show_batch_writes_a_picture(tmp_path) -> None:
    data = module()
    data.setup("fit")
    data.show_batch(tmp_path / "batch.png", count=2)
    assert (tmp_path / "batch.png").stat().st_size > 1000


def test_lists_are_read_when_a_stage_is_set_up(tmp_path) -> None:
    plain_folder(tmp_path)
    (tmp_path / "val.txt").write_text("nothing_of_this\n")
    for stage in ("fit", "validate"):
        data = ScribbleDataModule(FolderSource(tmp_path), check=False)
        with pytest.raises(ScribbleNotFoundError, match="nothing_of_this"):
            data.setup(stage)


def test_an_image_without_any_label_cannot_be_validated(tmp_path) -> None:
    source = FolderSource(plain_folder(tmp_path))
    bare = Record("bare", source.records("val")[0].image)
    info = ScribbleDataModule(source, check=False).data_info
    with pytest.raises(ScribbleSegError, match="bare has neither mask nor scribble"):
        EvalDataset(source, [bare], info)[0]
    assert "mask" not in EvalDataset(source, [bare], info, labels=False)[0]


def test_training_prints_five_findings_of_a_kind(tmp_path, monkeypatch, caplog) -> None:
    source = FolderSource(plain_folder(tmp_path))
    findings = [Finding("D900", "warning", f"file {number}") for number in range(8)]
    monkeypatch.setattr(source, "problems", lambda: findings)
    with caplog.at_level(logging.WARNING):
        ScribbleDataModule(source, num_workers=0).setup("fit")
    told = [record.getMessage() for record in caplog.records if "D900" in record.getMessage()]
    assert told == [*(f"D900 file {number}" for number in range(5)), "D900 … and 3 more"]
