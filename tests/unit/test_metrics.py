from __future__ import annotations

import pytest
import torch
from helpers.ddp import run_ddp
from helpers.ddp_workers import metric_example as example
from helpers.ddp_workers import score_on_rank
from torchmetrics.classification import MulticlassJaccardIndex

from scribbleseg import SegmentationMetrics, VolumeDice


def test_miou_is_the_dataset_level_score_of_torchmetrics() -> None:
    ours = SegmentationMetrics(5)
    reference = MulticlassJaccardIndex(5, average="macro", ignore_index=255)
    for seed in range(3):
        ours.update(*example(seed))
        reference.update(*example(seed))
    scores = ours.compute()
    assert scores["miou"].item() == pytest.approx(reference.compute().item(), abs=1e-6)


def test_absent_class_is_nan_and_left_out() -> None:
    metrics = SegmentationMetrics(3)
    metrics.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    scores = metrics.compute()
    assert scores["iou"].tolist()[:2] == [0.5, 0.5]
    assert scores["iou"][2].isnan()
    assert scores["miou"].item() == pytest.approx(0.5)
    assert scores["acc"].item() == pytest.approx(2 / 3)


def test_images_are_pooled_not_averaged() -> None:
    metrics = SegmentationMetrics(2)
    metrics.update(torch.zeros(100, dtype=torch.long), torch.zeros(100, dtype=torch.long))
    metrics.update(torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long))
    assert metrics.compute()["iou"].tolist() == pytest.approx([100 / 102, 0.0])


def test_bad_labels_are_explained() -> None:
    metrics = SegmentationMetrics(4)
    with pytest.raises(ValueError, match="holds class 4 but num_classes=4"):
        metrics.update(torch.zeros(3, dtype=torch.long), torch.tensor([0, 4, 255]))
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.update(torch.zeros(3, dtype=torch.long), torch.zeros(4, dtype=torch.long))


def test_dice_pools_slices_of_a_volume() -> None:
    dice = VolumeDice(2)
    hit, miss = torch.ones(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long)
    dice.update(hit, hit, ["a"])
    dice.update(miss, hit, ["a"])  # volume a: 2·4 / (4 + 8)
    dice.update(hit, hit, ["b"])
    scores = dice.compute()
    assert scores["dice"].item() == pytest.approx((2 / 3 + 1) / 2)
    assert scores["dice_pooled"].item() == pytest.approx(2 * 8 / (8 + 12))
    assert scores["volumes"].item() == 2


def test_empty_against_empty_is_one_and_against_something_zero() -> None:
    dice = VolumeDice(3)
    target = torch.zeros(2, 2, 2, dtype=torch.long)
    prediction = target.clone()
    prediction[1, 0, 0] = 2
    dice.update(prediction, target, ["a", "b"])
    per_class = dice.compute()["dice_per_class"].tolist()
    assert per_class[1] == 1.0
    assert per_class[2] == pytest.approx(0.5)


def test_ignored_pixels_do_not_count_in_dice() -> None:
    dice = VolumeDice(2)
    target = torch.tensor([[[1, 255], [255, 0]]])
    dice.update(torch.ones_like(target), target, ["a"])
    assert dice.compute()["dice"].item() == pytest.approx(2 * 1 / (2 + 1))


@pytest.mark.ddp
def test_two_ranks_score_like_one(tmp_path) -> None:
    metrics, dice = SegmentationMetrics(5), VolumeDice(5)
    for seed in range(4):
        prediction, target = example(seed)
        metrics.update(prediction, target)
        dice.update(prediction, target, [f"volume{seed // 2}"] * 2)
    expected = (metrics.compute()["miou"].item(), dice.compute()["dice"].item())
    for result in run_ddp(score_on_rank, out=tmp_path):
        assert result == pytest.approx(expected, abs=1e-7)
