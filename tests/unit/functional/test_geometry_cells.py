from __future__ import annotations

import pytest
import torch

from scribbleseg.functional import (
    cell_purity,
    downsample_label,
    foreground_background_cells,
    label_canvas,
)


class TestDownsample:
    def test_center_is_nearest_exact(self) -> None:
        labels = torch.randint(0, 9, (2, 77, 106), generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.interpolate(
            labels[:, None].float(), (5, 7), mode="nearest-exact"
        )[:, 0].long()
        assert torch.equal(downsample_label(labels, (5, 7)), expected)

    def test_thin_strokes_survive_a_majority_of_drawn_pixels(self) -> None:
        labels = torch.full((1, 8, 10), 255)
        labels[0, 1, 3], labels[0, 6, :], labels[0, 6, 4:6] = 2, 1, 0
        found = downsample_label(labels, (2, 3), mode="majority", num_classes=3)
        assert found.tolist() == [[[2, 255, 255], [1, 0, 1]]]

    def test_equal_votes_go_to_the_lower_id(self) -> None:
        labels = torch.tensor([[[2, 1], [255, 255]]])
        assert downsample_label(labels, (1, 1), mode="majority", num_classes=3).item() == 1

    def test_arguments_are_checked(self) -> None:
        with pytest.raises(ValueError, match="not finer"):
            downsample_label(torch.zeros(1, 2, 2).long(), (3, 2))
        with pytest.raises(ValueError, match="num_classes"):
            downsample_label(torch.zeros(1, 2, 2).long(), (1, 1), mode="majority")


class TestCanvas:
    def test_no_pixel_of_a_larger_original_is_lost(self) -> None:
        labels = torch.full((1, 500, 375), 255)
        labels[0, torch.arange(500), (torch.arange(500) * 3) // 4] = 1
        canvas = label_canvas(labels, (128, 128), (8, 8), stride=16)
        assert canvas.shape == (1, 512, 512)
        strokes = downsample_label(canvas, (8, 8), mode="majority", num_classes=2)
        assert (strokes[0].diagonal() == 1).all()

    def test_padding_is_at_the_right_and_bottom(self) -> None:
        canvas = label_canvas(torch.zeros(1, 60, 70).long(), (60, 70), (4, 5), stride=16)
        assert canvas.shape == (1, 64, 80)
        assert (canvas[:, :60, :70] == 0).all()
        assert (canvas[:, 60:] == 255).all()
        assert (canvas[:, :, 70:] == 255).all()


def test_purity_is_the_share_of_a_cell() -> None:
    labels = torch.tensor([[[0, 0, 1, 255], [0, 1, 255, 255]]])
    cells = torch.tensor([[[0, 1]]])
    assert cell_purity(labels, cells, num_classes=2).flatten().tolist() == [0.75, 0.25]
    assert cell_purity(labels, torch.full((1, 1, 2), 255), num_classes=2).sum() == 0
    with pytest.raises(ValueError, match="whole cells"):
        cell_purity(labels, torch.zeros(1, 1, 3).long(), num_classes=2)


class TestSets:
    def test_sets_are_disjoint_and_unknown_cells_are_in_none(self) -> None:
        cells = torch.randint(0, 4, (3, 5, 6), generator=torch.Generator().manual_seed(0))
        cells[0, 0] = 255
        tags = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
        fg, bg = foreground_background_cells(cells, tags)
        assert not (fg & bg).any()
        assert not (fg | bg)[0, :, 0].any()
        present = tags.bool()
        assert ((fg | bg).flatten(2).any(2) == present).all()
        known = (cells != 255).flatten(1).sum(1)
        assert torch.equal((fg | bg).flatten(2).sum(2), known[:, None] * present)

    def test_background_of_all_images(self) -> None:
        cells, tags = torch.zeros(1, 1, 2).long(), torch.tensor([[0, 0]])
        assert not foreground_background_cells(cells, tags)[1].any()
        assert foreground_background_cells(cells, tags, scope="all")[1][0, 1].all()

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match="disagree"):
            foreground_background_cells(torch.zeros(2, 1, 1).long(), torch.zeros(1, 3))
