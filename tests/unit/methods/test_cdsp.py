from __future__ import annotations

import logging
from typing import Any, ClassVar

import pytest
import torch
from helpers.contract import MethodContract, loss_values, make_batch

import scribbleseg
from scribbleseg import ConfigError, DataInfo
from scribbleseg.methods import CDSPModule, distance_entropy_loss

OFF = {f"{name}_weight": 0.0 for name in ("pseudo", "lorm", "scribble_distance", "pseudo_distance")}


def with_stage_one(batch):
    """The batch with a noisy pseudo-label and both maps."""
    generator = torch.Generator().manual_seed(5)
    scribble = batch["scribble"]
    shape = scribble.shape
    guess = torch.randint(0, 4, shape, generator=generator)
    sure = torch.rand(shape, generator=generator) < 0.3
    pseudo = torch.where(scribble == 255, guess.masked_fill(~sure, 255), scribble)
    near = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    far = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    outside = ~batch["valid"]
    return type(batch)(
        {
            **batch,
            "pseudo_label": pseudo.masked_fill(outside, 255),
            "scribble_distance": near.masked_fill(outside, 255),
            "pseudo_distance": far.masked_fill(outside, 255),
        }
    )


class TestCDSP(MethodContract):
    module_class = CDSPModule
    kwargs: ClassVar[dict[str, Any]] = {"arch": "unet", "lorm_chunk": 2, "lr": 1e-3}

    def step(self, module: CDSPModule, batch=None) -> torch.Tensor:
        batch = make_batch() if batch is None else batch
        made = batch if "pseudo_label" in batch else with_stage_one(batch)
        return module.training_step(made, 0)

    def test_total_is_the_weighted_sum_of_the_logged_terms(self) -> None:
        weights = {"pseudo": 0.5, "lorm": 2.0, "scribble_distance": 3.0, "pseudo_distance": 0.25}
        module = self.build(**{f"{name}_weight": weight for name, weight in weights.items()})
        loss = self.step(module)
        names = ("pce", "pseudo", "lorm", "entropy_scribble", "entropy_pseudo")
        assert set(module.loss_terms) == set(names)
        factors = (1.0, *weights.values())
        expected = sum(w * module.loss_terms[n] for n, w in zip(names, factors, strict=True))
        torch.testing.assert_close(loss.detach(), expected)

    def test_the_step_leaves_the_batch_alone(self) -> None:
        batch = with_stage_one(make_batch())
        before = {k: v.clone() for k, v in batch.items() if isinstance(v, torch.Tensor)}
        for quirks in (False, True):
            self.step(self.build(reference_quirks=quirks), batch)
        assert all(torch.equal(before[key], batch[key]) for key in before)

    def test_weight_zero_takes_the_term_and_its_data_away(self) -> None:
        module = self.build(**OFF)
        assert module.train_inputs == frozenset()
        assert module.lorm is None
        loss = module.training_step(make_batch(), 0)
        assert set(module.loss_terms) == {"pce"}
        torch.testing.assert_close(loss.detach(), module.loss_terms["pce"])
        assert self.build(**{**OFF, "lorm_weight": 1.0}).train_inputs == {"pseudo_label"}
        one = self.build(**{**OFF, "scribble_distance_weight": 1.0})
        assert one.train_inputs == {"distance_maps"}
        batch = with_stage_one(make_batch())
        del batch["pseudo_distance"], batch["pseudo_label"]
        one.training_step(batch, 0)
        assert set(one.loss_terms) == {"pce", "entropy_scribble"}

    def test_maps_of_zeros_no_foreground_and_all_ignored_are_exact_zeros(self) -> None:
        batch = with_stage_one(make_batch())
        batch["scribble_distance"] = torch.zeros_like(batch["scribble_distance"])
        batch["pseudo_label"] = torch.full_like(batch["pseudo_label"], 255)
        batch["scribble"] = torch.full_like(batch["scribble"], 255)
        module = self.build(pseudo_distance_weight=0.0)
        loss = self.step(module, batch)
        assert set(module.loss_terms) == {"pce", "pseudo", "lorm", "entropy_scribble"}
        assert all(value == 0 for value in module.loss_terms.values())
        loss.backward()
        assert all((p.grad == 0).all() for p in module.parameters())
        nothing = torch.where(batch["pseudo_label"] == 255, 0, 255)
        assert self.build()(batch["image"]).isfinite().all()
        self.step(module, type(batch)({**batch, "pseudo_label": nothing}))
        assert module.loss_terms["lorm"] == 0, "background only"

    def test_padding_counts_nowhere_unless_as_released(self) -> None:
        def terms(module: CDSPModule, batch) -> dict[str, torch.Tensor]:
            self.step(module.eval(), batch)
            return dict(module.loss_terms)

        batch = make_batch()
        batch["valid"][:, 32:] = False
        batch["scribble"][:, 32:] = 255
        batch = with_stage_one(batch)
        other = type(batch)({**batch})
        # the values that padding happens to have must not matter
        for name in ("scribble_distance", "pseudo_distance"):
            other[name] = batch[name].masked_fill(~batch["valid"], 17)
        ours, same = (terms(self.build(), b) for b in (batch, other))
        assert all(torch.equal(ours[name], same[name]) for name in ours)
        released = terms(self.build(reference_quirks=True), batch)
        changed = terms(self.build(reference_quirks=True), other)
        for name in ("entropy_scribble", "entropy_pseudo"):
            assert released[name] != changed[name]
        for name in ("pseudo", "lorm", "entropy_scribble"):
            assert released[name] != ours[name]
        assert released["pce"] == ours["pce"]

    def test_quirks_train_undecided_pixels_as_background_only_with_lorm(self) -> None:
        batch = with_stage_one(make_batch())
        filled = type(batch)({**batch})
        filled["pseudo_label"] = batch["pseudo_label"].masked_fill(batch["pseudo_label"] == 255, 0)

        def pseudo(b, **options) -> torch.Tensor:
            module = self.build(**options).eval()
            self.step(module, b)
            return module.loss_terms["pseudo"]

        assert pseudo(batch, reference_quirks=True) == pseudo(filled)
        without = {"lorm_weight": 0.0}
        assert pseudo(batch, reference_quirks=True, **without) == pseudo(batch, **without)

    def test_own_heads(self, recorded) -> None:
        losses = {}
        for arch in ("aspp_v2", "aspp_v3plus"):
            module = self.build(arch=arch)
            self.step(module, make_batch(height=49, width=57)).backward()
            assert all(p.grad is not None for p in module.parameters())
            losses[arch] = loss_values(module)
        recorded(losses)

    def test_data_without_background(self, recorded) -> None:
        module = self.build()
        module.data_info = DataInfo(("a", "b", "c", "d"), background=None, source="Streets")
        assert torch.isfinite(self.step(module))
        recorded(loss_values(module))
        module.hparams["reference_quirks"] = True
        with pytest.raises(ConfigError, match="Streets has no background class"):
            module.on_fit_start()

    def test_weights_without_lorm_predict_the_same(self, caplog) -> None:
        module, other = self.build(), self.build(seed=1)
        state = {k: v for k, v in module.state_dict().items() if not k.startswith("lorm.")}
        with caplog.at_level(logging.WARNING):
            other.load_state_dict(state)
        assert "localisation rectification" in caplog.text
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(module.eval()(image), other.eval()(image))
        self.build(lorm_weight=0.0).load_state_dict(module.state_dict())
        with pytest.raises(RuntimeError, match="network"):
            other.load_state_dict({})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pseudo_weight": -1.0}, "pseudo_weight=-1.0"),
            ({"pseudo_smoothing": 1.0}, "pseudo_smoothing=1.0"),
            ({"lorm_temperature": 0.0}, "temperature=0.0"),
            ({"lorm_chunk": 0}, "chunk=0"),
            ({"lorm_variant": "paper"}, "variant='paper'"),
            ({"entropy_normalization": "sum"}, "entropy_normalization='sum'"),
            ({"reference_quirks": "false"}, "without quotes"),
        ],
    )
    def test_options_are_checked(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(**options)


def test_every_class_is_exported() -> None:
    assert scribbleseg.CDSPModule is CDSPModule


class TestDistanceEntropy:
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64)
        weight = torch.rand(2, 6, 7, generator=generator, dtype=torch.float64)
        return logits, weight * (weight > 0.4)

    def test_gradient_is_the_equation(self) -> None:
        logits, weight = self.inputs()
        logits.requires_grad_()
        distance_entropy_loss(logits, weight).backward()
        log_p = logits.detach().log_softmax(1)
        entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
        expected = -weight[:, None] / (weight > 0).sum() * log_p.exp() * (log_p + entropy)
        torch.testing.assert_close(logits.grad, expected)
        assert torch.autograd.gradcheck(
            lambda x: distance_entropy_loss(x, weight, normalization="weight"), (logits,)
        )

    def test_normalizations(self) -> None:
        logits, weight = self.inputs()
        losses = {
            kind: distance_entropy_loss(logits, weight, normalization=kind)
            for kind in ("nonzero", "weight", "all")
        }
        total = losses["all"] * weight.numel()
        torch.testing.assert_close(losses["weight"], total / weight.sum())
        torch.testing.assert_close(losses["nonzero"], total / (weight > 0).sum())
        with pytest.raises(ValueError, match="normalization='sum'"):
            distance_entropy_loss(logits, weight, normalization="sum")

    @pytest.mark.parametrize("kind", ["nonzero", "weight", "all"])
    def test_invalid_pixels_and_several_maps(self, kind: str) -> None:
        logits, weight = self.inputs()
        valid = torch.ones_like(weight, dtype=torch.bool)
        valid[:, :, 4:] = False
        cropped = distance_entropy_loss(logits[..., :4], weight[..., :4], normalization=kind)
        maps = torch.stack([weight, torch.zeros_like(weight)])
        found = distance_entropy_loss(logits, maps, normalization=kind, valid=valid)
        torch.testing.assert_close(found, torch.stack([cropped, torch.zeros_like(cropped)]))

    def test_saturated_pixels_are_not_counted(self) -> None:
        logits = torch.zeros(1, 2, 1, 3)
        logits[0, 0, 0, 0] = 200
        assert distance_entropy_loss(logits, torch.ones(1, 1, 3)).item() == pytest.approx(0.693147)

    def test_shapes_are_checked(self) -> None:
        logits, weight = self.inputs()
        with pytest.raises(ValueError, match="disagree"):
            distance_entropy_loss(logits, weight[:, :2])
        with pytest.raises(ValueError, match="valid has shape"):
            distance_entropy_loss(logits, weight, valid=torch.ones(2, 2, 2, dtype=torch.bool))
