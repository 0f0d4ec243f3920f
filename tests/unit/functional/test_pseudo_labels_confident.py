from __future__ import annotations

import pytest
import torch

from scribbleseg.functional import (
    clamp_seeds,
    confident_labels,
    crf_index_refiner,
    sparse_random_walk,
    spread_by_crf,
    synthesize_mask,
)


class TestConfidentLabels:
    def test_ties_go_to_the_background(self) -> None:
        maps = torch.tensor([[[0.0, 0.0]], [[0.3, 0.05]]])
        assert confident_labels(maps, torch.tensor([1, 1])).tolist() == [[255, 0]]

    def test_absent_classes_and_the_map_of_the_background_are_not_read(self) -> None:
        maps = torch.tensor([0.9, 0.4, 0.8]).view(3, 1, 1)
        assert confident_labels(maps, torch.tensor([1, 1, 0])).item() == 1
        assert confident_labels(maps, torch.tensor([1, 0, 0])).item() == 0
        assert confident_labels(maps, torch.tensor([0, 0, 0]), background=None).item() == 255

    def test_without_background_low_scores_are_unsure(self) -> None:
        maps = torch.tensor([[[0.9, 0.01]], [[0.1, 0.02]]])
        found = confident_labels(maps, torch.tensor([1, 1]), background=None)
        assert found.tolist() == [[0, 255]]

    def test_refinement_sees_indices_of_the_classes_that_are_there(self) -> None:
        maps, seen = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0)), []

        def refine(index: torch.Tensor, number: int) -> torch.Tensor:
            seen.append((number, int(index.max())))
            return index

        present = torch.tensor([1, 0, 1, 0, 1])
        plain = confident_labels(maps, present)
        assert torch.equal(confident_labels(maps, present, refine=refine), plain)
        assert seen == [(3, 2), (3, 2)]
        assert set(plain.unique().tolist()) <= {0, 2, 4, 255}

    def test_a_crf_removes_a_lonely_pixel(self) -> None:
        maps = torch.zeros(2, 12, 12)
        maps[1, :, :6] = 0.9
        maps[1, 3, 3] = 0.0
        image = torch.zeros(3, 12, 12, dtype=torch.uint8)
        image[:, :, 6:] = 255
        refine = crf_index_refiner(image)
        found = confident_labels(maps, torch.tensor([1, 1]), refine=refine)
        assert found[3, 3] == 1
        assert (found[:, 7:] == 0).all()

    def test_thresholds_are_checked(self) -> None:
        with pytest.raises(ValueError, match="not smaller"):
            confident_labels(
                torch.zeros(1, 1, 1), torch.ones(1), foreground=0.1, background_score=0.2
            )


def test_spread_labels_stop_at_colours_and_keep_strokes() -> None:
    labels = torch.full((16, 16), 255)
    labels[8, 1:5], labels[8, 11:15] = 3, 7
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[:, :, 8:] = 200
    found = spread_by_crf(labels, image, 9)
    left, right = found[:, :8], found[:, 8:]
    assert set(left.unique().tolist()) <= {3, 255}
    assert set(right.unique().tolist()) <= {7, 255}
    assert (found != 255).sum() > (labels != 255).sum()
    assert torch.equal(spread_by_crf(labels.clamp_min(255), image, 9), labels.clamp_min(255))


class TestWalks:
    def test_held_cells_are_exact_whatever_the_walk(self) -> None:
        generator = torch.Generator().manual_seed(0)
        maps = torch.rand(3, 12, 14, generator=generator)
        boundary = torch.rand(12, 14, generator=generator)
        scribble = torch.full((12, 14), 255)
        scribble[2, :5], scribble[9, 8:], scribble[5, 5] = 1, 2, 0
        seeds, clamp = clamp_seeds(maps, scribble)
        for steps in (0, 1, 100):
            walked = sparse_random_walk(seeds, boundary, num_steps=steps, clamp=clamp)
            for c in (1, 2):
                assert (walked[c][scribble == c] == 1).all()
                assert (walked[c][(scribble != c) & (scribble != 255)] == 0).all()

    def test_zero_maps_are_background_and_not_nan(self) -> None:
        found = synthesize_mask(torch.zeros(3, 2, 2), torch.tensor([1, 1, 0]), (7, 8))
        assert (found == 0).all()
        assert found.shape == (7, 8)

    def test_one_maximum_over_all_classes(self) -> None:
        walked = torch.zeros(3, 1, 2)
        walked[1, 0, 0], walked[2, 0, 1] = 1.0, 0.2
        present = torch.tensor([1, 1, 1])
        found = synthesize_mask(walked, present, (4, 8), threshold=0.25)
        assert (found[:, 0] == 1).all()
        assert (found[:, -1] == 0).all(), "0.2 of the largest score is below the threshold"

    def test_another_original_size(self) -> None:
        walked = torch.ones(2, 4, 4)
        found = synthesize_mask(walked, torch.tensor([1, 1]), (16, 16), original=(40, 31))
        assert found.shape == (40, 31)
        assert (found == 1).all()
