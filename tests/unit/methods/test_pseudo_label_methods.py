"""DMPLS, mean teacher and Scribble2Label."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from helpers.contract import MethodContract, gradient_norms, loss_values, make_batch

from scribbleseg import ConfigError
from scribbleseg.methods import DMPLSModule, MeanTeacherModule, Scribble2LabelModule


class TestDMPLS(MethodContract):
    module_class = DMPLSModule
    kwargs: ClassVar[dict[str, Any]] = {"dropout": 0.2}

    def test_the_soft_form_trains_both_decoders(self, recorded) -> None:
        module, batch = self.build(soft=True), make_batch()
        self.step(module, batch).backward()
        assert all(p.grad.isfinite().all() for p in module.aux_decoder.parameters())
        recorded({"losses": loss_values(module), "gradients": gradient_norms(module)}, rtol=1e-2)

    def test_padding_gets_no_pseudo_label(self) -> None:
        module, batch = self.build(), make_batch()
        batch["valid"][:, 32:] = False
        batch["scribble"][:, 32:] = 255
        seen, upsample = [], module.upsample_logits

        def watched(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
            seen.append(upsample(logits, size).detach().requires_grad_())
            return seen[-1]

        module.upsample_logits = watched
        self.step(module, batch).backward()
        assert len(seen) == 2
        for logits in seen:
            assert logits.grad[:, :, :32].abs().sum() > 0
            assert logits.grad[:, :, 32:].abs().sum() == 0


class TestMeanTeacher(MethodContract):
    module_class = MeanTeacherModule
    kwargs: ClassVar[dict[str, Any]] = {"samples": 2}

    def test_the_teacher_follows_and_is_not_trained(self) -> None:
        module, batch = self.build(), make_batch()
        self.step(module, batch).backward()
        assert all(p.grad is None for p in module.teacher.parameters())
        own = next(module.teacher.network.parameters()).clone()
        with torch.no_grad():
            for parameter in module.network.parameters():
                parameter.add_(1)
        module.teacher.update(module.network, 1000)
        moved = next(module.teacher.network.parameters()) - own
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-6)

    def test_the_optimiser_does_not_see_the_teacher(self) -> None:
        module = self.build()
        held = {id(p) for group in module.parameter_groups() for p in group["params"]}
        assert not held & {id(p) for p in module.teacher.parameters()}

    def test_images_that_are_not_square_turn_too(self, recorded) -> None:
        module, batch = self.build(), make_batch(height=32, width=64)
        losses = []
        for seed in range(4):
            torch.manual_seed(seed)
            assert self.step(module, batch).isfinite()
            losses.append(loss_values(module))
        recorded(losses)


class TestScribble2Label(MethodContract):
    module_class = Scribble2LabelModule


@pytest.mark.parametrize(
    ("module", "options", "named"),
    [
        (DMPLSModule, {"dropout": 1.0}, "dropout"),
        (MeanTeacherModule, {"samples": 0}, "samples"),
        (MeanTeacherModule, {"decay": 1.0}, "decay"),
        (Scribble2LabelModule, {"threshold": 1.0}, "threshold=1.0"),
        (Scribble2LabelModule, {"bank_stride": 0}, "bank_stride=0"),
    ],
)
def test_options_out_of_range_are_named(module, options: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        module(4, encoder="tu-test_resnet.r160_in1k", encoder_weights=None, **options)
