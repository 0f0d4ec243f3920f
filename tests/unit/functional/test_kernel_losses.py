from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.functional import (
    PermutohedralLattice,
    dense_crf_loss,
    kernel_cut_loss,
    normalized_cut_loss,
    pixel_features,
    scale_kernel_inputs,
)

OPTIONS = {"sigma_rgb": 40.0, "sigma_xy": 4.0, "scale_factor": 1.0}
LOSSES = (
    (dense_crf_loss, {"normalize": "none"}),
    (dense_crf_loss, {"normalize": "degree"}),
    (normalized_cut_loss, {}),
    (normalized_cut_loss, {"class_mask": torch.tensor([[1, 0, 1], [1, 1, 1]])}),
    (kernel_cut_loss, {"gamma": 0.7, "normalize": "none"}),
    (kernel_cut_loss, {"gamma": 0.7, "normalize": "degree"}),
)


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64).softmax(1)
    image = 255 * torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    roi = torch.rand(2, 5, 6, generator=generator) < 0.8
    return probs, image, roi


def _kernel(image: torch.Tensor, roi: torch.Tensor) -> torch.Tensor:
    features = pixel_features(image, sigma_xy=4.0, sigma_rgb=40.0)
    pairs = (-0.5 * (features[:, :, None] - features[:, None]).square().sum(-1)).exp()
    inside = roi.flatten(1).to(pairs)
    return pairs * inside[:, :, None] * inside[:, None]


def _naive(probs, image, roi, class_mask=None):
    """Potts energy, its normaliser, cut and normalised cut of each image, summed plainly."""
    kernel, inside = _kernel(image, roi), roi.flatten(1).to(probs)
    same, degree, cut, normalised = [], [], [], []
    for b in range(len(probs)):
        p, w = probs[b].flatten(1), kernel[b]
        same.append(sum(pc @ w @ pc for pc in p))
        degree.append(w.sum())
        cuts = [pc @ w @ (inside[b] - pc * inside[b]) for pc in p]
        counted = [1] * len(p) if class_mask is None else class_mask[b].tolist()
        cut.append(sum(cuts))
        shares = zip(counted, cuts, p, strict=True)
        normalised.append(sum(k * c / (w.sum(1) @ pc) for k, c, pc in shares))
    return [torch.stack(x) for x in (same, degree, cut, normalised)]


def test_equal_to_the_plain_sums(example):
    probs, image, roi = example
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    same, degree, cut, normalised = _naive(probs, image, roi)
    masked = _naive(probs, image, roi, mask)[3]
    call = {"roi": roi, "filter": "exact", **OPTIONS}
    for found, expected in (
        (dense_crf_loss(probs, image, normalize="none", **call), -same.mean()),
        (dense_crf_loss(probs, image, **call), (1 - same / degree).mean()),
        (normalized_cut_loss(probs, image, **call), normalised.mean()),
        (normalized_cut_loss(probs, image, class_mask=mask, **call), masked.mean()),
        (
            kernel_cut_loss(probs, image, gamma=2.0, normalize="none", **call),
            (normalised + 2 * cut).mean(),
        ),
        (kernel_cut_loss(probs, image, gamma=2.0, **call), (normalised + 2 * cut / degree).mean()),
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
@pytest.mark.parametrize("filter_", ["exact", "window"])
def test_gradient(loss, options, filter_, example):
    probs, image, roi = example
    call = {"roi": roi, "filter": filter_, "radius": 2, **OPTIONS, **options}
    assert torch.autograd.gradcheck(lambda p: loss(p, image, **call), probs.requires_grad_())
    # through the resampling, and with fractional weights of the pixels
    big, weights = F.interpolate(image, scale_factor=2), torch.rand(2, 10, 12).double()
    call |= {"roi": weights, "scale_factor": 0.5}
    assert torch.autograd.gradcheck(lambda p: loss(p, big, **call), probs)


def test_gradient_on_the_lattice_takes_the_kernel_as_symmetric(example):
    probs, image, roi = example
    probs.requires_grad_()
    loss = dense_crf_loss(probs, image, roi=roi, normalize="none", **OPTIONS)
    masks = (probs.detach() * roi[:, None]).flatten(2).transpose(1, 2)
    lattice = PermutohedralLattice(pixel_features(image, sigma_xy=4.0, sigma_rgb=40.0))
    sums = lattice.filter(masks)
    torch.testing.assert_close(loss, -(masks * sums).sum() / 2)
    gradient = (-2 / 2 * sums).transpose(1, 2).view_as(probs) * roi[:, None]
    torch.testing.assert_close(torch.autograd.grad(loss, probs)[0], gradient)


def test_lattice_is_near_the_exact_kernel_once_normalised():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 6, 6, 6, generator=generator)
    smooth = F.interpolate(noise, size=(24, 24), mode="bicubic")
    image, probs = 128 + 40 * smooth[:, :3], (2 * smooth[:, 3:]).softmax(1)
    for loss in (dense_crf_loss, normalized_cut_loss, kernel_cut_loss):
        found = [loss(probs, image, filter=f, **OPTIONS) for f in ("permutohedral", "exact")]
        torch.testing.assert_close(*found, rtol=0.05, atol=0.0)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_invariances(loss, options, example):
    probs, image, roi = example
    call = {"filter": "exact", **OPTIONS, **options}
    expected = loss(probs, image, roi=roi, **call)
    flipped = loss(probs.flip(-1), image.flip(-1), roi=roi.flip(-1), **call)
    torch.testing.assert_close(flipped, expected)
    padded = [F.pad(x, (0, 3, 0, 2), value=0.5) for x in (probs, image)]
    torch.testing.assert_close(loss(*padded, roi=F.pad(roi, (0, 3, 0, 2)), **call), expected)
    torch.testing.assert_close(loss(probs, image + 20, roi=roi, **call), expected)


def test_hard_masks_without_cut_cost_nothing():
    """Two objects that no pair connects."""
    image = torch.zeros(1, 3, 6, 8)
    image[..., 4:] = 255
    probs = torch.stack((image[:, 0] == 0, image[:, 0] > 0), dim=1).float()
    for loss in (dense_crf_loss, normalized_cut_loss, kernel_cut_loss):
        for filter_ in ("exact", "permutohedral", "window"):
            value = loss(probs, image, filter=filter_, scale_factor=1.0, sigma_xy=9.0)
            if loss is dense_crf_loss:
                assert value < 1e-6  # all affinity lies within the masks
            torch.testing.assert_close(value, torch.tensor(0.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
@pytest.mark.parametrize("filter_", ["permutohedral", "exact", "window"])
def test_empty_roi_is_an_exact_zero_with_gradient(loss, options, filter_, example):
    probs, image, roi = example
    call = {"filter": filter_, **OPTIONS, **options}
    probs.requires_grad_()
    value = loss(probs, image, roi=torch.zeros_like(roi), **call)
    assert value.item() == 0.0
    assert torch.equal(torch.autograd.grad(value, probs)[0], torch.zeros_like(probs))
    # an image without pixels changes nothing but the mean over images
    roi = roi.clone()
    roi[1] = False
    half = loss(probs, image, roi=roi, **call)
    options = {k: v[:1] if k == "class_mask" else v for k, v in options.items()}
    alone = loss(probs[:1], image[:1], roi=roi[:1], **{**call, **options})
    torch.testing.assert_close(half, alone / 2)


def test_half_precision_and_integer_images(example):
    probs, image, roi = example
    image = image.to(torch.uint8)
    for loss in (dense_crf_loss, normalized_cut_loss, kernel_cut_loss):
        half = probs.bfloat16()
        expected = loss(half.float(), image.float(), roi=roi, **OPTIONS)
        assert expected.dtype == torch.float32
        for filter_ in ("permutohedral", "exact"):
            call = {"roi": roi, "filter": filter_, **OPTIONS}
            single = loss(half.float(), image, **call)
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(loss(half, image, **call), single)
        single = half.float().requires_grad_()
        half.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(half, image, **OPTIONS), half)
        (expected,) = torch.autograd.grad(loss(single, image, **OPTIONS), single)
        torch.testing.assert_close(gradient.float(), expected, rtol=0.02, atol=1e-6)


def test_scaling_of_the_inputs(example):
    probs, image, roi = example
    size = {"size": (11, 7), "mode": "bilinear", "align_corners": False}
    big = image.new_zeros(2, 3, 23, 15)
    scaled, small, inside = scale_kernel_inputs(probs, big, None, scale_factor=0.5)
    torch.testing.assert_close(scaled, F.interpolate(probs, **size))
    assert small.shape == (2, 3, 11, 7)
    assert torch.equal(inside, torch.ones(2, 11, 7).double())
    same = scale_kernel_inputs(probs, image, roi, scale_factor=1.0)
    assert all(torch.equal(a, b.to(a)) for a, b in zip(same, (probs, image, roi), strict=True))


def test_bad_input(example):
    probs, image, roi = example
    for arguments, options, message in (
        ((probs[0], image[0]), {}, r"\(B, C, h, w\)"),
        ((probs, image[:1]), {}, r"\(B, 3, H, W\)"),
        ((probs, image), {"roi": roi[:, 1:]}, "roi"),
        ((probs, image), {"scale_factor": 0.0}, "scale_factor"),
        ((probs, image), {"sigma_rgb": 0.0}, "positive bandwidths"),
        ((probs, image), {"filter": "fast"}, "permutohedral"),
    ):
        for loss in (dense_crf_loss, normalized_cut_loss, kernel_cut_loss):
            with pytest.raises(ValueError, match=message):
                loss(*arguments, **options)
    with pytest.raises(ValueError, match="degree"):
        dense_crf_loss(probs, image, normalize="mean")
    for options in ({"gamma": -1.0}, {"normalize": "mean"}):
        with pytest.raises(ValueError, match="degree"):
            kernel_cut_loss(probs, image, **options)
    with pytest.raises(ValueError, match="class_mask"):
        normalized_cut_loss(probs, image, class_mask=torch.ones(2, 4))


@pytest.mark.gpu
def test_cuda_equals_cpu(example):
    probs, image, roi = (x.float() for x in example)
    for loss in (dense_crf_loss, normalized_cut_loss, kernel_cut_loss):
        for filter_ in ("permutohedral", "exact", "window"):
            found = []
            for device in ("cpu", "cuda"):
                leaf = probs.to(device).requires_grad_()
                call = {"roi": roi.to(device), "filter": filter_, **OPTIONS}
                value = loss(leaf, image.to(device), **call)
                found.append((value.cpu(), torch.autograd.grad(value, leaf)[0].cpu()))
            torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
