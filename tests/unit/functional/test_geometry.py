from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.functional import (
    area_pool,
    class_labels_from_scribble,
    one_hot_labels,
    resize_labels,
    whole_cells,
)


def test_one_hot_of_ignored_pixels_is_zero() -> None:
    labels = torch.tensor([[0, 2, 255]])
    assert one_hot_labels(labels, 3).tolist() == [[[1, 0, 0], [0, 0, 1], [0, 0, 0]]]


def test_class_labels_per_image_and_always() -> None:
    scribble = torch.full((2, 5, 5), 255, dtype=torch.uint8)
    scribble[0, 1, 1], scribble[1, 2, 2] = 3, 1
    assert class_labels_from_scribble(scribble, 4).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert class_labels_from_scribble(scribble, 4, always=(0,))[:, 0].tolist() == [1, 1]


def test_resize_never_invents_labels() -> None:
    labels = torch.tensor([[[0, 255], [7, 3]]])
    for size in ((5, 3), (1, 1), (2, 2)):
        resized = resize_labels(labels, size)
        assert set(resized.unique().tolist()) <= {0, 255, 7, 3}
        assert resized.shape == (1, *size)
    assert torch.equal(resize_labels(labels, (2, 2)), labels)


def test_area_pool_keeps_the_mean_and_matches_whole_cells() -> None:
    x = torch.rand(2, 3, 12, 10, dtype=torch.float64)
    torch.testing.assert_close(area_pool(x, (4, 5)), F.adaptive_avg_pool2d(x, (4, 5)))
    for size in ((5, 7), (1, 1), (12, 3)):
        pooled = area_pool(x, size)
        assert pooled.shape == (2, 3, *size)
        torch.testing.assert_close(pooled.mean((2, 3)), x.mean((2, 3)))
    assert area_pool(x, (12, 10)) is x
    assert torch.autograd.gradcheck(lambda y: area_pool(y, (5, 7)), x.requires_grad_())
    with pytest.raises(ValueError, match="at most"):
        area_pool(x, (13, 10))


def test_cells_count_only_as_a_whole() -> None:
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = False
    assert whole_cells(mask, (2, 2)).tolist() == [[[False, True], [True, True]]]
    assert whole_cells(mask[:, None], (4, 4)).equal(mask)
    # the middle one of three columns lies in both cells
    assert whole_cells(torch.tensor([[[1, 0, 1]]]), (1, 2)).tolist() == [[[False, False]]]
