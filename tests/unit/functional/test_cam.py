from __future__ import annotations

import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import (
    assemble_cam,
    cam_labels,
    cam_probabilities,
    normalize_in_boxes,
    refine_cam,
)
from scribbleseg.methods import class_activation_maps, image_tag_loss, merge_flips

colour_boundary = internal("CAM refinement")._colour_boundary

METHODS = ("none", "crf", "random_walk", "random_walker")


def test_maps_are_the_positive_scores_in_float32() -> None:
    features, weight = torch.randn(2, 5, 3, 4), torch.randn(6, 5)
    expected = torch.einsum("bdhw,cd->bchw", features, weight).clamp_min(0)
    torch.testing.assert_close(class_activation_maps(features, weight), expected)
    half = class_activation_maps(features.bfloat16(), weight)
    assert half.dtype == torch.float32


def test_maps_of_a_batch_are_those_of_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = [torch.rand(2, 3, n, n + 1, generator=generator) for n in (4, 7)]
    together = assemble_cam(scales, (20, 30), canvas=(24, 32))
    for i in range(2):
        alone = assemble_cam([scale[i] for scale in scales], (20, 30), canvas=(24, 32))
        torch.testing.assert_close(together[i], alone)
    pair = torch.stack(scales[:1] * 2)
    torch.testing.assert_close(merge_flips(pair)[0], merge_flips(pair[:, 0]))


def test_every_box_has_its_own_range_and_nothing_activates_outside() -> None:
    maps = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(1))
    maps[1, :4, :5] *= 0.1  # a weak object beside a strong one
    regions = [(slice(0, 4), slice(0, 5)), (slice(4, 8), slice(5, 10)), (slice(2, 6), slice(3, 7))]
    found = normalize_in_boxes(maps, [1, 1, 2], regions)
    for label, region in zip((1, 1, 2), regions, strict=True):
        assert found[label][region].min() == 0
        assert found[label][region].max() == 1
    assert (found[0] == 0).all(), "no box"
    outside = torch.ones(8, 10, dtype=torch.bool)
    outside[regions[2]] = False
    assert (found[2][outside] == 0).all()
    order = maps[1, :4, :5].flatten().argsort()
    assert torch.equal(found[1, :4, :5].flatten().argsort(), order)
    beyond = normalize_in_boxes(maps, [1], [(slice(8, 8), slice(0, 5))])
    assert (beyond == 0).all(), "a box outside the image"
    flat = normalize_in_boxes(torch.zeros(1, 2, 2), [0], [(slice(0, 1), slice(0, 2))])
    assert flat.tolist() == [[[1, 1], [0, 0]]]


def test_boxes_of_one_class_that_overlap_keep_the_larger_value() -> None:
    maps = torch.tensor([[[0.0, 0.5, 1.0]]])
    found = normalize_in_boxes(
        maps, [0, 0], [(slice(0, 1), slice(0, 3)), (slice(0, 1), slice(0, 2))]
    )
    assert found.tolist() == [[[0, 1, 1]]]


def test_maps_of_zeros_stay_zeros_and_sizes_are_checked() -> None:
    assert (assemble_cam([torch.zeros(3, 2, 2)], (4, 4)) == 0).all()
    with pytest.raises(ValueError, match="at least one map"):
        assemble_cam([], (4, 4))
    with pytest.raises(ValueError, match="canvas"):
        assemble_cam([torch.zeros(3, 2, 2)], (4, 4), canvas=(4, 3))


@pytest.mark.parametrize("background", [0, None])
def test_labels_are_the_likeliest_class_of_the_probabilities(background) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(4, 9, 9, generator=generator)
    present = torch.tensor([1, 1, 0, 1])
    labels = cam_labels(maps, present, threshold=0.6, background=background)
    probs = cam_probabilities(maps, present, threshold=0.6, background=background)
    torch.testing.assert_close(probs.sum(0), torch.ones(9, 9))
    decided = labels != 255
    assert decided.all() or background is None
    assert torch.equal(probs.argmax(0)[decided], labels[decided])
    assert 2 not in labels
    assert (maps[0][labels == 0] > 0.6).all() or background == 0
    nothing = cam_labels(maps, torch.zeros(4), threshold=0.6, background=background)
    assert (nothing == (0 if background == 0 else 255)).all()


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="disagree"):
        cam_labels(torch.zeros(3, 4, 4), torch.ones(2))
    with pytest.raises(ValueError, match="disagree"):
        image_tag_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="method='snake'"):
        refine_cam(torch.zeros(2, 4, 4), torch.ones(2), square()[0], method="snake")
    with pytest.raises(ValueError, match="enlarge the maps"):
        refine_cam(torch.zeros(2, 4, 4), torch.ones(2), square()[0])


def test_tag_loss_leaves_the_background_out() -> None:
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    tags = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    loss = image_tag_loss(scores, tags)
    expected = torch.nn.functional.multilabel_soft_margin_loss(scores[:, 1:], tags[:, 1:].double())
    torch.testing.assert_close(loss, expected)
    assert (torch.autograd.grad(loss, scores)[0][:, 0] == 0).all()
    assert torch.autograd.gradcheck(lambda x: image_tag_loss(x, tags), (scores,))
    streets = image_tag_loss(scores, tags, background=None)
    own = torch.nn.functional.multilabel_soft_margin_loss(scores[:2], tags[:2].double())
    torch.testing.assert_close(streets, own)


def square() -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square on a dark ground, and what is square."""
    inside = torch.zeros(48, 48, dtype=torch.bool)
    inside[12:36, 12:36] = True
    noise = torch.randint(0, 12, (3, 48, 48), generator=torch.Generator().manual_seed(2))
    image = torch.where(inside, torch.tensor([200, 120, 40])[:, None, None], 20) + noise
    return image.to(torch.uint8), inside


def blob(spread: float = 120) -> torch.Tensor:
    """A round map around the centre of the square that does not know its corners."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    maps = torch.zeros(3, 48, 48)
    maps[2] = (-((y - 24) ** 2 + (x - 24) ** 2) / spread).exp()
    return maps


def iou(labels: torch.Tensor, truth: torch.Tensor) -> float:
    found = labels == 2
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize(
    ("method", "spread"), [("crf", 120), ("random_walker", 120), ("random_walk", 60)]
)
def test_refinement_finds_the_square(method: str, spread: float) -> None:
    image, inside = square()
    plain, refined = (
        iou(refine_cam(blob(spread), torch.tensor([0, 0, 1]), image, method=kind), inside)
        for kind in ("none", method)
    )
    assert refined > plain + 0.1


@pytest.mark.parametrize("method", METHODS)
def test_scribbles_are_kept_and_absent_classes_never_appear(method: str) -> None:
    image, _ = square()
    scribble = torch.full((48, 48), 255)
    scribble[2, 2:40], scribble[24, 20:30] = 0, 2
    labels = refine_cam(blob(), torch.tensor([0, 0, 1]), image, scribble=scribble, method=method)
    assert torch.equal(labels[scribble != 255], scribble[scribble != 255])
    assert set(labels.unique().tolist()) == {0, 2}
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_classes_is_background(method: str) -> None:
    image, _ = square()
    labels = refine_cam(torch.zeros(3, 48, 48), torch.zeros(3), image, method=method)
    assert (labels == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_without_background_only_classes_of_the_image_appear(method: str) -> None:
    image, _ = square()
    maps = blob()
    maps[0] = 0.9 - maps[2].clamp(0, 0.9)
    labels = refine_cam(maps, torch.tensor([1, 0, 1]), image, method=method, background=None)
    assert set(labels.unique().tolist()) <= {0, 2, 255}
    assert labels[24, 24] == 2
    assert labels[1, 1] == 0


def test_boundary_is_one_cell_wide_and_of_one_colour_nowhere() -> None:
    assert (colour_boundary(torch.full((3, 8, 8), 7, dtype=torch.uint8), (4, 4)) == 0).all()
    found = colour_boundary(square()[0], (24, 24))  # the square is at 6 to 18
    edge = torch.zeros(24, 24, dtype=torch.bool)
    edge[6:18, [5, 17]], edge[[5, 17], 6:18] = True, True
    assert found[edge].min() > 3 * found[~edge].max()
    assert found.amax() == 1


@pytest.mark.parametrize("method", METHODS)
def test_maps_without_any_activation_are_background(method: str) -> None:
    labels = refine_cam(torch.zeros(3, 48, 48), torch.tensor([0, 1, 1]), square()[0], method=method)
    assert (labels == 0).all()


def test_a_cell_whose_neighbours_are_all_edges_keeps_its_own_value() -> None:
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    board = ((y // 2 + x // 2) % 2 * 200).to(torch.uint8).expand(3, 16, 16)
    edges = colour_boundary(board, (8, 8))
    assert (edges.flatten()[:-1] == 1).all()
    assert edges[-1, -1] == 0
    maps = torch.zeros(3, 16, 16)
    maps[1, 8:, :8], maps[2, :8] = 1.0, 1.0
    labels = refine_cam(maps, torch.tensor([0, 1, 1]), board, method="random_walk", threshold=0.5)
    assert (labels[:8] == 2).all()
    assert (labels[8:, :8] == 1).all()
    assert (labels[8:, 8:] == 0).all()


def test_an_edge_at_the_border_belongs_to_the_image_and_not_to_what_is_outside() -> None:
    image = torch.full((3, 16, 16), 200, dtype=torch.uint8)
    image[:, :, :2] = 0  # one column of cells, as black as the padding
    maps = torch.zeros(2, 16, 16)
    maps[1] = 1.0
    labels = refine_cam(maps, torch.tensor([0, 1]), image, method="random_walk", threshold=0.5)
    assert (labels == 1).all()


def test_cells_on_an_edge_take_the_values_of_the_side_they_look_like() -> None:
    image = torch.full((3, 16, 16), 20, dtype=torch.uint8)
    image[:, :, 8:] = 200
    image[:, :, 6:8] = 150  # the fourth column of cells is the edge and looks like the right
    maps = torch.zeros(3, 16, 16)
    maps[1, :, :4], maps[2, :, 12:] = 1.0, 1.0
    labels = refine_cam(maps, torch.tensor([0, 1, 1]), image, method="random_walk", threshold=0.1)
    expected = torch.where(torch.arange(16) < 6, 1, 2).expand(16, 16)
    assert torch.equal(labels, expected)
