from __future__ import annotations

import inspect
import math
import sys
import types

import pytest
import torch

from scribbleseg import ConfigError
from scribbleseg.nn import REGULARIZERS, Regularizer, RegularizerInput, build_regularizers


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
    def test_finite_with_gradient(self, name: str, recorded) -> None:
        torch.manual_seed(0)
        inputs, term = example(), build(name)
        loss = term(inputs)
        assert loss.ndim == 0
        loss.backward()
        assert inputs.logits.grad.isfinite().all()
        assert inputs.logits.grad.abs().sum() > 0
        for parameter in term.parameters():
            assert parameter.grad.isfinite().all()
        recorded({"loss": loss.item(), "gradient": inputs.logits.grad.norm().item()})

    def test_odd_sizes_at_half_resolution(self, name: str, recorded) -> None:
        torch.manual_seed(0)
        inputs = example(25, 31)._replace(canvas=(32, 32), features=torch.randn(2, 8, 16, 16))
        loss = build(name, resolution=0.5)(inputs)
        assert loss.isfinite()
        recorded(loss.item())

    def test_padding_has_no_say(self, name: str) -> None:
        # on the lattice, pixels that carry nothing still pass values on
        options = (
            {"filter": "exact"} if name in ("dense_crf", "normalized_cut", "kernel_cut") else {}
        )
        inputs, term = example(), build(name, weight=1.0, **options).eval()
        valid = inputs.valid.clone()
        valid[:, :, 24:] = False
        inputs = inputs._replace(valid=valid, unlabelled=inputs.unlabelled & valid)
        if name == "tree_energy":
            pytest.skip("a tree may lead through padding, as in the published method")
        image, logits = inputs.image.clone(), inputs.logits.detach().clone()
        image[..., 24:] = 7
        logits[..., 24:] = 3.0
        changed = inputs._replace(image=image, logits=logits)
        torch.testing.assert_close(term(changed), term(inputs), rtol=1e-4, atol=1e-5)

    def test_nothing_valid_is_zero(self, name: str) -> None:
        inputs = example()
        nothing = torch.zeros_like(inputs.valid)
        loss = build(name)(inputs._replace(valid=nothing, unlabelled=nothing))
        loss.backward()
        assert loss.item() == 0
        assert inputs.logits.grad.isfinite().all()


@pytest.mark.parametrize("name", REGULARIZERS)
def test_on_the_grid_of_the_decoder(name: str, recorded) -> None:
    torch.manual_seed(0)
    low = torch.randn(2, 3, 8, 8, requires_grad=True)
    features = torch.randn(2, 8, 8, 8, requires_grad=True)
    # the decoder saw 32x32, of which the image fills 24x31
    inputs = example(24, 31)._replace(logits_low=low, features=features, canvas=(32, 32))
    term = build(name, resolution="logits")
    view = term.view(inputs)
    assert view.probs.shape == (2, 3, 6, 8)
    assert view.image.shape == (2, 3, 6, 8)
    assert view.valid.shape == view.unlabelled.shape == (2, 6, 8)
    assert term.cells_per_pixel(inputs) == 0.25
    loss = term(inputs)
    loss.backward()
    recorded({"loss": loss.item(), "gradient": low.grad.norm().item()})
    assert low.grad.abs().sum() > 0
    assert low.grad[:, :, 6:].abs().sum() == 0, "the canvas beyond the image has no say"


@pytest.mark.parametrize("name", REGULARIZERS)
def test_switches_are_no_words(name: str) -> None:
    """The word "false" is true for Python."""
    for option, parameter in inspect.signature(REGULARIZERS[name]).parameters.items():
        if isinstance(parameter.default, bool):
            with pytest.raises(ConfigError, match=f"{option}='false'"):
                build_regularizers({name: {"weight": 0.1, option: "false"}}, feature_dim=8)


class MyTerm(Regularizer):
    def __init__(self, weight: float = 1.0, *, power: float = 1.0, **options) -> None:
        super().__init__(weight, **options)
        self.power = power

    def forward(self, inputs: RegularizerInput) -> torch.Tensor:
        return inputs.logits.abs().pow(self.power).mean()


def test_a_term_of_ones_own_by_its_import_path(monkeypatch, recorded) -> None:
    monkeypatch.setitem(sys.modules, "mylab", types.SimpleNamespace(MyTerm=MyTerm, other=3))
    built = build_regularizers({"mylab.MyTerm": {"weight": 0.5, "power": 2.0}}, feature_dim=8)
    assert built["MyTerm"].weight == 0.5
    recorded(built["MyTerm"](example()).item())
    for path, message in (
        ("mylab.other", "no subclass"),
        ("mylab.Missing", "cannot be imported"),
        ("nolab.MyTerm", "cannot be imported"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_regularizers({path: 1.0}, feature_dim=8)


@pytest.mark.parametrize("error", [TypeError, ValueError, ConfigError])
def test_errors_of_a_term_of_ones_own_name_its_path(error, monkeypatch) -> None:
    class Picky(MyTerm):
        def __init__(self, weight: float = 1.0) -> None:
            raise error("no such luck")

    monkeypatch.setitem(sys.modules, "mylab", types.SimpleNamespace(Picky=Picky))
    with pytest.raises(ConfigError) as caught:
        build_regularizers({"mylab.Picky": 1.0}, feature_dim=8)
    assert str(caught.value) == "regularizers.mylab.Picky: no such luck"


def test_schedule_of_a_term() -> None:
    term = build("entropy", weight=2.0, start=0.25, ramp=0.5)
    assert [term.factor(p) for p in (0.0, 0.2, 0.5, 0.75, 1.0)] == [0, 0, 1, 2, 2]
    # at once, from the start on
    term = build("entropy", weight=2.0, start=0.25)
    assert [term.factor(p) for p in (math.nextafter(0.25, 0), 0.25, 1.0)] == [0, 2, 2]


def test_contrast_does_not_matter_in_units_of_the_image() -> None:
    inputs = example()
    dark = inputs._replace(image=(inputs.image // 4).to(torch.uint8))
    bright = inputs._replace(image=(inputs.image // 4 * 4).to(torch.uint8))
    for name in ("gated_crf", "mumford_shah"):
        term = build(name, image_scale="std")
        torch.testing.assert_close(term(dark), term(bright), rtol=1e-3, atol=0)


def test_published_sums_are_means_times_their_pixels() -> None:
    inputs = example()
    pixels = inputs.valid.sum()
    mean, total = build("total_variation"), build("total_variation", reduction="sum")
    torch.testing.assert_close(total(inputs), mean(inputs) * pixels)
    region, both = (build("mumford_shah", length_weight=w, reduction="sum") for w in (0.0, 2.0))
    torch.testing.assert_close(both(inputs), region(inputs) + 2 * total(inputs))
    per_channel = build("mumford_shah", length_weight=0.0)
    torch.testing.assert_close(region(inputs), per_channel(inputs) * pixels * 3)
    squares = build("total_variation", norm="l2")(inputs)
    assert 0 < squares < mean(inputs), "differences of probabilities are below one"


def test_costs_of_pairs_of_classes() -> None:
    inputs = example()
    uniform = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    plain = build("gated_crf")(inputs)
    torch.testing.assert_close(build("gated_crf", compatibility=uniform)(inputs), plain)
    # only confusing 0 with 2 costs anything
    certain = torch.full_like(inputs.logits, -30.0)
    certain[:, 0, :, ::2], certain[:, 1, :, 1::2] = 30.0, 30.0
    inputs = inputs._replace(logits=certain)
    apart = build("gated_crf", resolution=1.0, compatibility=[[0, 0, 2], [0, 0, 0], [2, 0, 0]])
    assert apart(inputs) < 1e-6 < build("gated_crf", resolution=1.0)(inputs)


def test_own_confident_predictions_are_labels() -> None:
    inputs = example()
    probs = inputs.logits.detach().softmax(1)
    term = build("pseudo_label", confidence=0.8)
    top, found = (probs * inputs.class_labels[:, :, None, None]).max(1)
    top = top / (probs * inputs.class_labels[:, :, None, None]).sum(1)
    kept = inputs.unlabelled & (top >= 0.8)
    assert 0 < kept.sum() < inputs.unlabelled.sum()
    chosen = inputs.logits.log_softmax(1).gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(term(inputs), -chosen[kept].mean())
    term(inputs).backward()
    assert inputs.logits.grad.permute(0, 2, 3, 1)[~kept].abs().sum() == 0
    assert build("pseudo_label", confidence=1.0, entropy=0.0)(inputs) == 0, "nobody is that sure"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gatedcrf": 0.1}, "did you mean 'gated_crf'"),
        ({"gated_crf": {"wieght": 0.1}}, "did you mean 'weight'"),
        ({"gated_crf": {"radius": 0}}, "radius=0"),
        ({"gated_crf": {"kernels": [[1.0, 2.0]]}}, "kernels="),
        ({"entropy": -1.0}, "weight=-1.0"),
        ({"entropy": float("nan")}, "weight=nan"),
        ({"entropy": None}, "expected a weight"),
        ({"entropy": "0.1"}, "expected a weight"),
        ({"entropy": True}, "expected a weight"),
        ({"entropy": {"weight": "much"}}, "weight='much'"),
        ({"entropy": {"resolution": "low"}}, "resolution='low'"),
        ({"gated_crf": {"ramp_shape": "sigmod"}}, "ramp_shape='sigmod'"),
        ({"gated_crf": {"image_scale": "Std"}}, "image_scale='Std'"),
        ({"gated_crf": {"radius": 2.5}}, "radius=2.5"),
        ({"gated_crf": {"kernels": 3}}, "kernels=3"),
        ({"gated_crf": {"kernels": [["a", 1, 2]]}}, "kernels="),
        ({"dense_crf": {"filter": "permuto"}}, "filter='permuto'"),
        ({"dense_crf": {"normalize": "deg"}}, "normalize='deg'"),
        ({"kernel_cut": {"gamma": -1}}, "gamma=-1"),
        ({"tree_energy": {"sigma_low": float("nan")}}, "sigma_low=nan"),
        ({"tree_energy": {"embedding_dim": -1}}, "embedding_dim=-1"),
        ({"tree_energy": {"detach_target": "false"}}, "detach_target='false'"),
        ({"tree_energy": {"feature_dim": 3}}, "feature_dim"),
        ({"normalized_cut": {"present_only": "no"}}, "present_only='no'"),
        ({"contour_length": {"include_background": 1}}, "include_background=1"),
        ({"mumford_shah": {"length_weight": -5}}, "length_weight=-5"),
        ({"gated_crf": {"kernels": [[-1, 6, 0.1]]}}, "kernels="),
        ({"entropy": {"start": 1.5}}, "start=1.5"),
        ({"tree_energy": {"sigma_low": 0.0}}, "sigma_low=0.0"),
        ({"dense_crf": {"sigma_rgb": 0.0}}, "sigma_rgb=0.0"),
        ({"gated_crf": {"compatibility": [[0, 1]]}}, "compatibility="),
        ({"gated_crf": {"compatibility": [[1, 1], [1, 0]]}}, "compatibility="),
        ({"gated_crf": {"compatibility": "potts"}}, "compatibility="),
        ({"total_variation": {"norm": "l3"}}, "norm='l3'"),
        ({"mumford_shah": {"reduction": "avg"}}, "reduction='avg'"),
        ({"pseudo_label": {"confidence": 90}}, "confidence=90"),
        ({"pseudo_label": {"entropy": "low"}}, "entropy='low'"),
        ({"pseudo_label": {"present_only": 1}}, "present_only=1"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_regularizers(settings, feature_dim=8)
    ((name, value),) = settings.items()
    text = str(caught.value)
    if name not in REGULARIZERS:
        assert text.startswith(f"regularizers: unknown name {name!r}")
    elif isinstance(value, dict | float):
        assert text.startswith(f"regularizers.{name}: ")
    else:
        assert text.startswith(f"regularizers.{name}={value!r}: ")
