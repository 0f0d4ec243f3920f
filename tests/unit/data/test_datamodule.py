from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_folders import STEMS, plain_folder, write_list

from scribbleseg import (
    ConfigError,
    Label,
    LabelFormatError,
    Record,
    ScribbleNotFoundError,
    ScribbleSegError,
)
from scribbleseg.data import (
    Augmentation,
    EvalDataset,
    ScribbleDataModule,
    ScribbleSource,
    TrainDataset,
    collate,
)
from scribbleseg.data.sources import FolderSource, SyntheticSource


def module(**options) -> ScribbleDataModule:
    source = SyntheticSource(num_train=10, num_val=3, size=40)
    settings = {"batch_size": 4, "num_workers": 0, "crop_size": 32, "seed": 0, "check": False}
    return ScribbleDataModule(source, **{**settings, **options})


def epoch_of(data: ScribbleDataModule, epoch: int = 0) -> list[dict]:
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_training_batch_follows_the_contract_and_has_no_mask() -> None:
    batch = epoch_of(module(image_raw=True))[0]
    assert "mask" not in batch
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["image"].dtype == torch.float32
    assert batch["image_raw"].dtype == torch.uint8
    assert batch["scribble"].dtype == torch.int64
    assert batch["valid"].dtype == torch.bool
    assert batch["class_labels"].shape == (4, 5)
    assert (batch["class_labels"][:, 0] == 1).all()


def test_class_labels_come_from_the_uncropped_scribble() -> None:
    data = module(crop_size=8)
    for batch in epoch_of(data):
        for index, image_id in enumerate(batch["image_id"]):
            scribble = data.source.read_scribble(Record(image_id))
            expected = {0} | set(np.unique(scribble[scribble != 255]).tolist())
            found = set(batch["class_labels"][index].nonzero().flatten().tolist())
            assert found == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_sample(workers: int) -> None:
    augmentation = Augmentation(scale=(0.5, 2.0), rotate=10, color_jitter=0.3)
    alone, shared = (module(num_workers=count, augmentation=augmentation) for count in (0, workers))
    for epoch in (0, 1):
        for ours, theirs in zip(epoch_of(alone, epoch), epoch_of(shared, epoch), strict=True):
            assert ours["image_id"] == theirs["image_id"]
            assert torch.equal(ours["image"], theirs["image"])
            assert torch.equal(ours["scribble"], theirs["scribble"])


def test_epochs_and_seeds_differ() -> None:
    def images(**options) -> torch.Tensor:
        epoch = options.pop("epoch", 0)
        batches = epoch_of(module(drop_last=False, **options), epoch)
        return torch.cat([b["image"] for b in batches])[
            torch.cat([b["index"] for b in batches]).argsort()
        ]

    assert torch.equal(images(), images())
    assert not torch.equal(images(), images(epoch=1))
    assert not torch.equal(images(), images(seed=1))


def test_last_batch_is_dropped_unless_it_is_the_only_one() -> None:
    assert len(epoch_of(module())) == 2
    assert len(epoch_of(module(drop_last=False))) == 3
    assert len(epoch_of(module(batch_size=64))) == 1


def test_validation_has_original_sizes() -> None:
    data = module(resize=(24, 24))
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape[-2:] == (24, 24)
    for index, image_id in enumerate(batch["image_id"]):
        truth = data.source.read_mask(Record(image_id))
        height, width = batch["orig_size"][index].tolist()
        assert truth.shape == (height, width)
        np.testing.assert_array_equal(batch["mask"][index, :height, :width].numpy(), truth)
        assert (batch["mask"][index, height:] == 255).all()


def test_collate_pads_with_ignore_not_with_a_class() -> None:
    items = [
        {"image": torch.ones(3, h, w), "mask": torch.zeros(h, w, dtype=torch.long), "image_id": "x"}
        for h, w in ((4, 6), (5, 3))
    ]
    batch = collate(items)
    assert batch["image"].shape == (2, 3, 5, 6)
    assert (batch["mask"][0, 4:] == 255).all()
    assert (batch["mask"][1, :, 3:] == 255).all()
    assert batch["image"][0, :, 4:].abs().sum() == 0


def test_boxes_of_drawn_pictures_enclose_their_objects() -> None:
    source = SyntheticSource(num_train=6, size=64, num_classes=9)
    for record in source.records("train"):
        mask, boxes = source.read_mask(record), source.boxes(record)
        inside = np.zeros_like(mask, dtype=bool)
        for box in boxes:
            assert 0 <= box.x0 < box.x1 <= mask.shape[1]
            assert 0 <= box.y0 < box.y1 <= mask.shape[0]
            window = np.s_[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
            own = mask[window] == box.label
            # as tight as can be: its class is on all four sides
            assert all(side.any() for side in (own[0], own[-1], own[:, 0], own[:, -1]))
            inside[window] = True
        assert (mask[~inside] == 0).all()
        assert {box.label for box in boxes} == set(np.unique(mask).tolist()) - {0}


def test_sizes_may_be_lists_and_others_are_refused() -> None:
    assert module(crop_size=[24, 32], resize=[40, 48]).crop_size == (24, 32)
    assert module(crop_size=None, resize=[40, 48]).resize == (40, 48)
    for size in ([32], [32, 32, 3], "32", (32.0, 32.0)):
        with pytest.raises(ConfigError, match="height and width"):
            module(crop_size=size)


class _Shifted(SyntheticSource):
    def read_scribble(self, record: Record) -> np.ndarray:
        return super().read_scribble(record)[:-1]


def test_size_mismatch_names_file_and_sizes() -> None:
    source: ScribbleSource = _Shifted(num_train=1, size=40)
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


def test_bad_batch_size() -> None:
    with pytest.raises(ConfigError, match="batch_size=0"):
        module(batch_size=0)


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


def test_every_stage_has_the_images_of_its_split(tmp_path) -> None:
    plain_folder(tmp_path)
    write_list(tmp_path / "test.txt", [STEMS[7], STEMS[0]])
    data = ScribbleDataModule(FolderSource(tmp_path), num_workers=0, check=False)

    def ids(stage: str, loader: str) -> list[str]:
        data.setup(stage)
        return [name for batch in getattr(data, loader)() for name in batch["image_id"]]

    assert ids("validate", "val_dataloader") == list(STEMS[6:])
    assert ids("test", "test_dataloader") == [STEMS[7], STEMS[0]]
    assert ids("predict", "predict_dataloader") == list(STEMS)


def test_an_image_without_any_label_cannot_be_validated(tmp_path) -> None:
    source = FolderSource(plain_folder(tmp_path))
    bare = Record("bare", source.records("val")[0].image)
    info = ScribbleDataModule(source, check=False).data_info
    with pytest.raises(ScribbleSegError, match="bare has neither mask nor scribble"):
        EvalDataset(source, [bare], info)[0]
    assert "mask" not in EvalDataset(source, [bare], info, labels=False)[0]
