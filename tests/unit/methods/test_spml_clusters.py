from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from helpers.internals import internal

from scribbleseg.methods import (
    color_features,
    grid_clusters,
    image_kmeans,
    join_local_features,
    location_features,
)


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(3, 6, 9, 11, generator=g, dtype=torch.float64), dim=1)
    return features, torch.rand(3, 9, 11, generator=g) < 0.8


def naive(features, init, k, iterations, valid):
    out = torch.full(valid.shape, -1)
    for b in range(len(features)):
        rows, labels = features[b].permute(1, 2, 0)[valid[b]], init[valid[b]].clone()
        for _ in range(iterations):
            best = torch.full((len(rows),), -torch.inf, dtype=rows.dtype)
            new = labels.clone()
            for c in range(k):
                if (labels == c).any():
                    s = rows @ F.normalize(rows[labels == c].sum(0), dim=0)
                    new[s > best], best = c, torch.maximum(s, best)
            labels = new
        out[b][valid[b]] = labels
    return out


def test_equals_a_loop_over_images_and_clusters(example, monkeypatch) -> None:
    features, valid = example
    init = grid_clusters((9, 11), (3, 3))
    expected = naive(features, init, 9, 6, valid)
    found = image_kmeans(features, init, iterations=6, valid=valid)
    assert torch.equal(found, expected)
    monkeypatch.setattr(internal("image k-means"), "_SIMILARITIES", 3 * 9 * 7)  # blocks of 7 pixels
    assert torch.equal(image_kmeans(features, init, iterations=6, valid=valid), expected)
    given = image_kmeans(features, init.expand(3, -1, -1), num_clusters=12, iterations=6)
    assert torch.equal(given, naive(features, init, 9, 6, torch.ones_like(valid)))


def test_images_do_not_influence_each_other_nor_do_invalid_pixels(example) -> None:
    features, valid = example
    init = grid_clusters((9, 11), (2, 4))
    found = image_kmeans(features, init, valid=valid)
    alone = image_kmeans(features[1:2], init, valid=valid[1:2])
    assert torch.equal(found[1:2], alone)
    other = torch.where(valid[:, None], features, torch.nan)
    assert torch.equal(image_kmeans(other, init, valid=valid), found)
    assert torch.equal(found == -1, ~valid)


def test_degenerate_images(example) -> None:
    features, valid = example
    init = grid_clusters((9, 11), (3, 3))
    assert (image_kmeans(features, init, valid=torch.zeros_like(valid)) == -1).all()
    assert torch.equal(image_kmeans(features, init, iterations=0)[0], init)
    few = grid_clusters((2, 2), (6, 6))  # more clusters than pixels
    assert few.flatten().sort().values.tolist() == [0, 1, 2, 3]
    labels = image_kmeans(features[:, :, :2, :2], few, num_clusters=36)
    assert int(labels.max()) < 4, "empty clusters attract nothing"
    opposite = F.normalize(torch.tensor([[1.0, 1.0, -1.0], [0.1, -0.1, 0.0]]), dim=0)
    labels = image_kmeans(opposite.view(1, 2, 1, 3), torch.tensor([[0, 0, 0]]), num_clusters=2)
    assert labels.flatten().tolist() == [0, 0, 0], "also where every similarity is negative"


def test_pixels_without_direction_join_the_first_cluster_that_has_pixels() -> None:
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    features = rows.T.reshape(1, 2, 1, 5)
    labels = image_kmeans(features, torch.tensor([[1, 1, 2, 3, 3]]), iterations=1)
    assert labels.tolist() == [[[1, 1, 2, 3, 3]]], "0 is empty; a cluster of zeros has no direction"
    labels = image_kmeans(features, torch.tensor([[3, 3, 2, 3, 3]]), iterations=2, num_clusters=5)
    assert labels.tolist() == [[[2, 2, 2, 3, 3]]], "all are equally near, and 2 comes first"
    opposite = torch.tensor([[1.0, -1.0, 0.6], [0.0, 0.0, 0.8]]).view(1, 2, 1, 3)
    labels = image_kmeans(opposite, torch.tensor([[0, 0, 1]]), iterations=1)
    assert labels.tolist() == [[[1, 0, 1]]], "members that cancel out leave a centre of zeros"


def test_a_pixel_without_embedding_is_told_by_its_place() -> None:
    embedding = torch.zeros(1, 2, 1, 3, requires_grad=True)
    local = torch.tensor([[[3.0, 0.0, 0.0]], [[4.0, 0.0, -2.0]]])
    joined = join_local_features(embedding, local)
    assert joined[0, :, 0].T.tolist() == [
        [0, 0, pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0, 0, 0],
        [0, 0, 0, -1],
    ]
    (gradient,) = torch.autograd.grad(joined.sum(), embedding)
    assert gradient.isfinite().all()


def test_half_precision_and_autocast(example) -> None:
    features, valid = example
    init = grid_clusters((9, 11), (3, 3))
    half = features.to(torch.bfloat16)
    expected = image_kmeans(half.float(), init, valid=valid)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(image_kmeans(half, init, valid=valid), expected)
        assert torch.equal(image_kmeans(half.float(), init, valid=valid), expected)


def test_grid_is_a_product_of_rounded_ramps() -> None:
    grid = grid_clusters((7, 5), (3, 2))
    assert grid[:, 0].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert grid[0].tolist() == [0, 0, 0, 3, 3]
    assert grid_clusters((1, 1), (4, 4)).tolist() == [[0]]
    with pytest.raises(ValueError, match="expected numbers >= 1"):
        grid_clusters((4, 4), (0, 2))


@pytest.mark.parametrize(("length", "clusters"), [(23, 14), (43, 4), (85, 12), (1, 5), (9, 30)])
def test_grid_rounds_halves_to_even_exactly(length, clusters) -> None:
    exact = [round(Fraction(y * (clusters - 1), max(length - 1, 1))) for y in range(length)]
    number = {value: place for place, value in enumerate(sorted(set(exact)))}
    expected = [number[value] for value in exact]
    assert grid_clusters((length, 1), (clusters, 1))[:, 0].tolist() == expected
    assert grid_clusters((1, length), (1, clusters))[0].tolist() == expected


def test_joined_features_are_unit_and_differentiable() -> None:
    z = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    local = location_features((4, 5), dtype=torch.float64)
    joined = join_local_features(z, local, scale=0.5)
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(2, 4, 5, dtype=torch.float64))
    b, y, x = 1, 2, 3
    row = torch.cat([0.5 * F.normalize(z[b, :, y, x], dim=0), local[:, y, x]])
    torch.testing.assert_close(joined[b, :, y, x], row / row.norm())
    assert torch.autograd.gradcheck(lambda t: join_local_features(t, local), z)
    torch.testing.assert_close(join_local_features(3 * z, local, scale=0.5), joined)
    half = join_local_features(z.detach().bfloat16(), local)
    assert half.dtype == torch.float32
    with pytest.raises(ValueError, match="disagree"):
        join_local_features(z, location_features((5, 5)))


def test_colour_equals_the_plain_sum_and_ignores_offset_and_gain() -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 12, 14, generator=g, dtype=torch.float64)
    blurred = torch.zeros(2, 3, 8, 10, dtype=torch.float64)
    for dy in range(5):
        for dx in range(5):
            distance = ((dy - 2) ** 2 + (dx - 2) ** 2) ** 0.5
            blurred += distance * image[:, :, dy : dy + 8, dx : dx + 10]
    blurred = F.interpolate(blurred, (4, 5), mode="bilinear")
    blurred = blurred - blurred.mean((2, 3), keepdim=True)
    expected = blurred / blurred.abs().amax((2, 3), keepdim=True)
    torch.testing.assert_close(color_features(image, (4, 5)), expected)
    torch.testing.assert_close(color_features(4 * image - 1, (4, 5)), expected)
    assert color_features(torch.full((1, 3, 9, 9), 0.3), (3, 3)).abs().max() == 0
    with pytest.raises(ValueError, match="kernel"):
        color_features(image[..., :4], (2, 2))


def test_shapes_that_disagree_are_named(example) -> None:
    features, valid = example
    with pytest.raises(ValueError, match=r"init \(3, 3\)"):
        image_kmeans(features, grid_clusters((3, 3), (2, 2)))
    with pytest.raises(ValueError, match="valid"):
        image_kmeans(features, grid_clusters((9, 11), (2, 2)), valid=valid[:1])
    with pytest.raises(ValueError, match="disagree"):
        image_kmeans(features[0], grid_clusters((9, 11), (2, 2)))
    with pytest.raises(ValueError, match="iterations=-1"):
        image_kmeans(features, grid_clusters((9, 11), (2, 2)), iterations=-1)
