from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import (
    over_segment,
    region_means,
    region_sizes,
    superpixel_affinity,
    superpixel_histograms,
)
from scribbleseg.methods import graph_smoothness

adjacent_regions = internal("superpixel affinity")._adjacent_regions


@pytest.fixture
def picture() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 6, 3)).repeat(5, 0).repeat(4, 1)
    image = np.clip(image + rng.integers(-9, 9, image.shape), 0, 255).astype(np.uint8)
    return image, over_segment(image, "grid", {"num_segments": 12})


def test_adjacency_is_its_definition() -> None:
    regions = np.random.default_rng(0).integers(-1, 9, (7, 6))
    expected = set()
    for y in range(7):
        for x in range(6):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v < 7 and u < 6:
                    pair = sorted((int(regions[y, x]), int(regions[v, u])))
                    if pair[0] != pair[1] and pair[0] >= 0:
                        expected.add(tuple(pair))
    assert adjacent_regions(regions).tolist() == [list(pair) for pair in sorted(expected)]
    np.testing.assert_array_equal(adjacent_regions(regions.T), adjacent_regions(regions))


def test_histograms_are_their_definitions(picture) -> None:
    image, regions = picture
    colour, texture = superpixel_histograms(image, regions)
    grey = np.floor(image @ np.array([0.298936, 0.587043, 0.114021]) + 0.5)
    vertical, horizontal = np.gradient(grey)
    low = min(vertical.min(), horizontal.min())
    high = max(vertical.max(), horizontal.max())
    for s in range(regions.max() + 1):
        for c in range(3):
            counts = np.zeros(25)
            for value in image[..., c][regions == s].tolist():
                counts[min(25 * value // 255, 24)] += 1
            np.testing.assert_allclose(colour[s, 25 * c : 25 * c + 25], counts / counts.sum())
        for k, gradient in enumerate((horizontal, vertical)):
            counts = np.zeros(10)
            for value in gradient[regions == s]:
                counts[min(int(10 * (value - low) / (high - low) + 1e-9), 9)] += 1
            np.testing.assert_allclose(texture[s, 10 * k : 10 * k + 10], counts / counts.sum())


def test_affinity_is_its_definition(picture) -> None:
    image, regions = picture
    colour, texture = superpixel_histograms(image, regions)
    raw = superpixel_affinity(image, regions, stretch=False)
    for (s, t), weight in zip(raw.edges, raw.weights, strict=True):
        distance = math.dist(colour[s], colour[t]) / 25 + math.dist(texture[s], texture[t]) / 100
        assert weight == pytest.approx(math.exp(-5 * distance), rel=1e-6)
    graph = superpixel_affinity(image, regions)
    shifted = np.maximum(raw.weights - 0.8 * raw.weights.min(), 0)
    np.testing.assert_allclose(graph.weights, 0.8 * shifted / shifted.max(), rtol=1e-4)
    np.testing.assert_array_equal(graph.edges, raw.edges)


def test_affinity_follows_the_names_of_the_regions(picture) -> None:
    image, regions = picture
    rename = np.random.default_rng(1).permutation(regions.max() + 1)
    graph, renamed = (superpixel_affinity(image, r) for r in (regions, rename[regions]))
    pairs = {tuple(sorted(rename[e].tolist())): w for e, w in zip(*graph, strict=True)}
    assert {tuple(e.tolist()): w for e, w in zip(*renamed, strict=True)} == pytest.approx(pairs)


def test_degenerate_pictures() -> None:
    flat, one = np.full((4, 5, 3), 7, np.uint8), np.zeros((4, 5), np.int32)
    graph = superpixel_affinity(flat, one)
    assert graph.edges.shape == (0, 2)
    assert graph.weights.shape == (0,)
    two = one.copy()
    two[:, 2:] = 1
    assert superpixel_affinity(flat, two).weights.tolist() == pytest.approx([0.8])
    gap = np.where(two == 1, 5, -1)
    colour, _ = superpixel_histograms(flat, gap)
    assert colour.sum(1).tolist() == [0, 0, 0, 0, 0, 3]
    assert len(superpixel_affinity(flat, gap).edges) == 0
    line = np.zeros((1, 3, 3), np.uint8)
    assert len(superpixel_affinity(line, np.array([[0, 1, 2]])).weights) == 2


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2, 3, 6, generator=generator, dtype=torch.float64)
    edges = torch.tensor([[0, 1], [1, 2], [0, 5], [2, 3], [0, 1], [3, 4]])
    weights = torch.rand(6, generator=generator, dtype=torch.float64)
    return values, edges, weights, torch.tensor([0, 0, 0, 0, 1, 1])


def by_laplacian(values, edges, weights, image, present) -> torch.Tensor:
    """Dense matrices, one image after the other."""
    total = 0.0
    for b in range(len(values)):
        matrix = torch.zeros(values.shape[2], values.shape[2], dtype=torch.float64)
        for (s, t), w, i in zip(edges.tolist(), weights, image, strict=True):
            if i == b and present[b, s] and present[b, t]:
                matrix[s, t] = matrix[t, s] = w
        laplacian = torch.diag(matrix.sum(0)) - matrix
        norm = matrix.norm()
        total += 2 * (values[b] @ laplacian @ values[b].T).trace() / norm if norm > 0 else 0
    return total / len(values)


def test_smoothness_is_its_definition() -> None:
    values, edges, weights, image = example()
    everywhere = torch.ones(2, 6)
    found = graph_smoothness(values, edges, weights, image)
    torch.testing.assert_close(found, by_laplacian(values, edges, weights, image, everywhere))
    crop = torch.tensor([[3, 2, 0, 0, 1, 1], [1, 0, 1, 0, 1, 1]])
    found = graph_smoothness(values, edges, weights, image, present=crop)
    torch.testing.assert_close(found, by_laplacian(values, edges, weights, image, crop))


def test_smoothness_gradient_and_invariances() -> None:
    values, edges, weights, image = example()

    def energy(y: torch.Tensor, **changes: torch.Tensor) -> torch.Tensor:
        inputs = {"edges": edges, "weights": weights, "image": image, **changes}
        return graph_smoothness(y, *inputs.values())

    assert torch.autograd.gradcheck(energy, values.clone().requires_grad_())
    expected = energy(values)
    torch.testing.assert_close(energy(values + 3), expected)
    torch.testing.assert_close(energy(values, weights=7 * weights), expected)
    torch.testing.assert_close(energy(values, edges=edges.flip(1)), expected)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(
        energy(values, edges=edges[order], weights=weights[order], image=image[order]), expected
    )
    assert energy(torch.ones_like(values)).item() == 0


def test_no_edges_are_an_exact_zero_with_gradient() -> None:
    values, edges, weights, image = example()
    for inputs, present in (
        ((edges[:0], weights[:0], image[:0]), None),
        ((edges, weights, image), torch.zeros(2, 6)),
    ):
        y = values.clone().requires_grad_()
        loss = graph_smoothness(y, *inputs[:2], inputs[2], present=present)
        assert loss.item() == 0.0
        loss.backward()
        assert torch.equal(y.grad, torch.zeros_like(y))


def test_half_precision_is_computed_in_float32() -> None:
    values, edges, weights, image = example()
    half = values.bfloat16()
    found = graph_smoothness(half, edges, weights.bfloat16(), image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, graph_smoothness(half.float(), edges, weights.bfloat16().float(), image)
    )


def test_probabilities_smooth_along_similar_superpixels(picture) -> None:
    image, regions = picture
    graph = superpixel_affinity(image, regions)
    ids, size = torch.from_numpy(regions)[None], int(regions.max()) + 1
    edges, weights = torch.from_numpy(graph.edges), torch.from_numpy(graph.weights)
    logits = torch.randn(1, 4, 25, 24, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    losses = []
    for _ in range(5):
        means = region_means(logits.softmax(1), ids, size)
        loss = graph_smoothness(
            means, edges, weights, 0 * edges[:, 0], present=region_sizes(ids, size)
        )
        losses.append(loss.item())
        logits = (logits - 100 * torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_errors(picture) -> None:
    image, regions = picture
    values, edges, weights, at = example()
    with pytest.raises(ValueError, match="uint8 RGB"):
        superpixel_affinity(image.astype(np.float32), regions)
    with pytest.raises(ValueError, match="differ in size"):
        superpixel_affinity(image, regions[:5])
    with pytest.raises(ValueError, match="integer ids"):
        adjacent_regions(regions.astype(np.float32))
    with pytest.raises(ValueError, match=r"edges \(E, 2\)"):
        graph_smoothness(values, edges, weights[:2], at)
