from __future__ import annotations

import pytest
import torch

from scribbleseg.errors import ConfigError
from scribbleseg.nn.regularizers import REGULARIZERS, RegularizerInput, build_regularizers


def example(height: int = 24, width: int = 32, classes: int = 3) -> RegularizerInput:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, height, width, generator=generator)
    valid = torch.ones(2, height, width, dtype=torch.bool)
    drawn = torch.rand(2, height, width, generator=generator) < 0.1
    return RegularizerInput(
        logits=logits.requires_grad_(),
        logits_low=logits,
        features=torch.randn(2, 8, height // 2, width // 2, generator=generator).requires_grad_(),
        image=torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8),
        valid=valid,
        unlabelled=valid & ~drawn,
        class_labels=torch.tensor([[1.0, 1, 0], [1, 1, 1]])[:, :classes],
        canvas=(height, width),
    )


def build(name: str, **options):
    return build_regularizers({name: options or 1.0}, feature_dim=8)[name]


@pytest.mark.parametrize("name", REGULARIZERS)
class TestEveryRegularizer:
    def test_finite_with_gradient(self, name: str) -> None:
        inputs, term = example(), build(name)
        loss = term(inputs)
        assert loss.ndim == 0
        loss.backward()
        assert inputs.logits.grad.isfinite().all()
        assert inputs.logits.grad.abs().sum() > 0
        for parameter in term.parameters():
            assert parameter.grad.isfinite().all()

    def test_odd_sizes_at_half_resolution(self, name: str) -> None:
        inputs = example(25, 31)._replace(canvas=(32, 32), features=torch.randn(2, 8, 16, 16))
        assert build(name, resolution=0.5)(inputs).isfinite()

    def test_padding_has_no_say(self, name: str) -> None:
        # on the lattice, pixels that carry nothing still pass values on
        options = (
            {"filter": "exact"} if name in ("dense_crf", "normalized_cut", "kernel_cut") else {}
        )
        inputs, term = example(), build(name, weight=1.0, **options).eval()
        valid = inputs.valid.clone()
        valid[:, :, 24:] = False
        inputs = inputs._replace(valid=valid, unlabelled=inputs.unlabelled & valid)
        if name in ("contour_length", "intensity_variance", "tree_energy"):
            # trees and pooling may cross the border of the image; gradients of padding must not
            pytest.skip("no exact independence of padding")
        image, logits = inputs.image.clone(), inputs.logits.detach().clone()
        image[..., 24:] = 7
        logits[..., 24:] = 3.0
        changed = inputs._replace(image=image, logits=logits)
        torch.testing.assert_close(term(changed), term(inputs), rtol=1e-4, atol=1e-5)

    def test_nothing_valid_is_zero(self, name: str) -> None:
        if name in ("contour_length", "intensity_variance"):
            pytest.skip("defined on whole images")
        inputs = example()
        nothing = torch.zeros_like(inputs.valid)
        loss = build(name)(inputs._replace(valid=nothing, unlabelled=nothing))
        loss.backward()
        assert loss.item() == 0
        assert inputs.logits.grad.isfinite().all()


def test_schedule_of_a_term() -> None:
    term = build("entropy", weight=2.0, start=0.25, ramp=0.5)
    assert [term.factor(p) for p in (0.0, 0.2, 0.5, 0.75, 1.0)] == [0, 0, 1, 2, 2]


def test_contrast_does_not_matter_in_units_of_the_image() -> None:
    inputs = example()
    dark = inputs._replace(image=(inputs.image // 4).to(torch.uint8))
    bright = inputs._replace(image=(inputs.image // 4 * 4).to(torch.uint8))
    for name in ("gated_crf", "mumford_shah"):
        term = build(name, image_scale="std")
        torch.testing.assert_close(term(dark), term(bright), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gatedcrf": 0.1}, "did you mean 'gated_crf'"),
        ({"gated_crf": {"wieght": 0.1}}, "did you mean 'weight'"),
        ({"gated_crf": {"radius": 0}}, "radius=0"),
        ({"gated_crf": {"kernels": [[1.0, 2.0]]}}, "kernels="),
        ({"entropy": -1.0}, "weight=-1.0"),
        ({"entropy": {"start": 1.5}}, "start=1.5"),
        ({"tree_energy": {"sigma_low": 0.0}}, "sigma_low=0.0"),
        ({"dense_crf": {"sigma_rgb": 0.0}}, "sigma_rgb=0.0"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_regularizers(settings, feature_dim=8)
