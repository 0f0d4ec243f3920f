from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.functional import tree_energy_loss, tree_soft_labels


@pytest.fixture
def example() -> dict[str, torch.Tensor]:
    """Two images of 8x12 pixels, predictions and embeddings of 4x6 cells."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "logits": normal(2, 3, 4, 6).requires_grad_(),
        "image": normal(2, 3, 8, 12).sigmoid(),
        "unlabelled": torch.rand(2, 8, 12, generator=generator) < 0.7,
        "embedding": normal(2, 4, 4, 6).requires_grad_(),
    }


def naive_average(values: torch.Tensor, features: torch.Tensor, sigma: float) -> torch.Tensor:
    """Prim's algorithm and distances along the paths, for one image of distinct weights."""
    height, width = values.shape[1:]
    cells = [(y, x) for y in range(height) for x in range(width)]
    distance = {(cells[0], cells[0]): torch.zeros((), dtype=values.dtype)}
    inside = [cells[0]]
    while len(inside) < len(cells):
        weight, near, new = min(
            (((features[:, a[0], a[1]] - features[:, b[0], b[1]]) ** 2).sum(), a, b)
            for a in inside
            for b in cells
            if b not in inside and abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1
        )
        for c in inside:
            distance[c, new] = distance[new, c] = distance[near, c] + weight
        distance[new, new] = distance[near, near]
        inside.append(new)
    matrix = torch.stack([torch.stack([distance[a, b] for b in cells]) for a in cells])
    affinity = torch.exp(-matrix / sigma)
    average = values.flatten(1) @ affinity.T / affinity.sum(1)
    return average.view_as(values)


def naive_loss(logits, image, unlabelled, embedding=None) -> torch.Tensor:
    p = logits.softmax(1)
    small = F.interpolate(image, p.shape[2:], mode="bilinear")
    rows = []
    for b in range(len(p)):
        target = naive_average(p[b], small[b], 0.02)
        rows.append(target if embedding is None else naive_average(target, embedding[b], 1.0))
    mask = unlabelled[:, ::2, ::2]  # the nearest pixel of a cell is its first
    return ((p - torch.stack(rows)).abs().sum(1) * mask).sum() / mask.sum()


@pytest.mark.parametrize("with_embedding", [False, True])
def test_equals_the_equation(example, with_embedding) -> None:
    if not with_embedding:
        del example["embedding"]
    inputs = [example[k] for k in ("logits", "embedding") if k in example]
    expected, found = naive_loss(**example), tree_energy_loss(**example)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_gradient(example) -> None:
    image, unlabelled = example["image"][:1, :, :6, :6], example["unlabelled"][:1, :6, :6]
    inputs = [example[k][:1, :2, :3, :3].detach() for k in ("logits", "embedding")]
    assert torch.autograd.gradcheck(
        lambda x, e: tree_energy_loss(x, image, unlabelled, embedding=e),
        [x.requires_grad_() for x in inputs],
    )


def test_no_gradient_reaches_image_or_detached_target(example) -> None:
    example["image"].requires_grad_()
    inputs = [example["logits"], example["embedding"], example["image"]]
    loss = tree_energy_loss(**example, detach_target=True)
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert grads[1:] == (None, None)
    p = example["logits"].softmax(1)
    target = tree_soft_labels(p.detach(), example["image"], embedding=example["embedding"].detach())
    mask = example["unlabelled"][:, ::2, ::2]
    expected = ((p - target).abs().sum(1) * mask).sum() / mask.sum()
    torch.testing.assert_close(grads[0], torch.autograd.grad(expected, inputs[0])[0])
    loss = tree_energy_loss(**example)
    assert torch.autograd.grad(loss, inputs, allow_unused=True)[2] is None


def test_nothing_unlabelled_is_an_exact_zero_with_gradient(example) -> None:
    example["unlabelled"] = torch.zeros_like(example["unlabelled"])
    loss = tree_energy_loss(**example)
    assert loss.item() == 0.0
    loss.backward()
    for name in ("logits", "embedding"):
        assert torch.equal(example[name].grad, torch.zeros_like(example[name]))


def test_invariances(example) -> None:
    loss = tree_energy_loss(**example)
    shifted = example | {"logits": example["logits"] + 5}
    torch.testing.assert_close(tree_energy_loss(**shifted), loss)
    permuted = example | {"logits": example["logits"][:, [2, 0, 1]]}
    torch.testing.assert_close(tree_energy_loss(**permuted), loss)
    small = F.interpolate(example["image"], (4, 6), mode="bilinear")
    torch.testing.assert_close(
        tree_energy_loss(
            **example | {"image": small, "unlabelled": example["unlabelled"][:, ::2, ::2]}
        ),
        loss,
    )
    flipped = {k: v.flip(-1) for k, v in example.items()}
    flipped["unlabelled"] = example["unlabelled"][:, ::2, ::2].flip(-1)
    torch.testing.assert_close(tree_energy_loss(**flipped | {"image": small.flip(-1)}), loss)


def test_flat_images_are_averaged_whole(example) -> None:
    p = example["logits"].softmax(1)
    flat = torch.full((2, 3, 8, 12), 0.5, dtype=torch.float64)
    mean = p.mean((2, 3), keepdim=True).expand_as(p)
    torch.testing.assert_close(tree_soft_labels(p, flat), mean)
    same = torch.ones_like(example["embedding"])
    found = tree_soft_labels(p, example["image"], embedding=same)
    first = tree_soft_labels(p, example["image"])
    torch.testing.assert_close(found, first.mean((2, 3), keepdim=True).expand_as(p))


def test_never_waits_for_the_device() -> None:
    """Tensors without data fail wherever a step needs to know a value."""
    logits = torch.zeros(2, 3, 4, 6, device="meta", requires_grad=True)
    embedding = torch.zeros(2, 4, 4, 6, device="meta", requires_grad=True)
    loss = tree_energy_loss(
        logits,
        torch.zeros(2, 3, 8, 12, device="meta"),
        torch.zeros(2, 8, 12, dtype=torch.bool, device="meta"),
        embedding=embedding,
    )
    loss.backward()
    assert logits.grad is not None
    assert embedding.grad is not None
    assert embedding.grad.shape == embedding.shape


def test_autocast_and_half_precision(example) -> None:
    single = {k: v.detach().float() for k, v in example.items() if k != "unlabelled"}
    single["logits"] = single["logits"].to(torch.bfloat16)
    single["embedding"] = single["embedding"].to(torch.bfloat16)
    mask = example["unlabelled"]
    upcast = {k: v.float() for k, v in single.items()}
    expected = tree_energy_loss(unlabelled=mask, **upcast)
    for x in (single["logits"], single["embedding"]):
        x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tree_energy_loss(unlabelled=mask, **single)
    assert torch.equal(loss, expected)
    loss.backward()
    assert single["embedding"].grad.dtype == torch.bfloat16
    for x in upcast.values():
        x.requires_grad_()
    tree_energy_loss(unlabelled=mask, **upcast).backward()
    torch.testing.assert_close(
        single["logits"].grad.float(), upcast["logits"].grad, rtol=0.02, atol=1e-6
    )


def test_bad_input_is_named(example) -> None:
    with pytest.raises(ValueError, match=r"unlabelled \(2, 4, 6\)"):
        tree_energy_loss(**example | {"unlabelled": example["unlabelled"][:, ::2, ::2]})
    with pytest.raises(ValueError, match=r"one decoder stage"):
        tree_energy_loss(**example | {"embedding": torch.zeros(2, 4, 8, 12)})
    with pytest.raises(ValueError, match=r"expected \(B, C, h, w\) and \(B, 3, H, W\)"):
        tree_soft_labels(torch.zeros(2, 3, 4, 6), torch.zeros(1, 3, 8, 12))
    with pytest.raises(ValueError, match=r"8-bit"):
        tree_energy_loss(**example | {"image": torch.zeros(2, 3, 8, 12, dtype=torch.uint8)})
    with pytest.raises(ValueError, match=r"positive bandwidth"):
        tree_energy_loss(**example, sigma_low=0.0)
