from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from helpers.contract import MethodContract, make_batch

from scribbleseg import ConfigError
from scribbleseg.functional import partial_dice_loss
from scribbleseg.methods import RegularizedModule


class TestRegularized(MethodContract):
    module_class = RegularizedModule

    def test_loss_is_the_mean_over_drawn_pixels(self) -> None:
        module, batch = self.build(), make_batch()
        torch.manual_seed(3)
        loss = self.step(module.eval(), batch)
        logits = module(batch["image"])
        drawn = batch["scribble"] != 255
        log_probs = logits.log_softmax(1).permute(0, 2, 3, 1)[drawn]
        expected = -log_probs.gather(1, batch["scribble"][drawn][:, None]).mean()
        torch.testing.assert_close(loss, expected)

    def test_dense_labels_are_the_same_loss(self) -> None:
        module, batch = self.build().eval(), make_batch()
        batch["scribble"] = batch["scribble"].masked_fill(batch["scribble"] == 255, 1)
        expected = torch.nn.functional.cross_entropy(module(batch["image"]), batch["scribble"])
        torch.testing.assert_close(self.step(module, batch), expected)

    def test_labelled_fraction_counts_image_pixels_only(self) -> None:
        module, batch = self.build(), make_batch()
        batch["valid"][:, 32:] = False
        batch["scribble"][:, 32:] = 255
        self.step(module, batch)
        share = (batch["scribble"] != 255).sum() / batch["valid"].sum()
        assert module.logged["train/labelled_fraction"].item() == pytest.approx(share.item())

    def test_dice_is_added_with_its_weight(self) -> None:
        plain, with_dice = self.build().eval(), self.build(dice_weight=0.5).eval()
        batch = make_batch()
        difference = self.step(with_dice, batch) - self.step(plain, batch)
        dice = partial_dice_loss(plain(batch["image"]), batch["scribble"])
        torch.testing.assert_close(difference, 0.5 * dice)

    def test_class_weights(self) -> None:
        weights = [1.0, 2.0, 0.0, 4.0]
        module, batch = self.build(class_weight=weights).eval(), make_batch()
        expected = torch.nn.functional.cross_entropy(
            module(batch["image"]),
            batch["scribble"],
            weight=torch.tensor(weights),
            ignore_index=255,
        )
        torch.testing.assert_close(self.step(module, batch), expected)
        assert "class_weight" not in module.state_dict()
        with pytest.raises(ConfigError, match="4 numbers"):
            self.build(class_weight=[1.0])

    def test_a_term_is_off_before_its_start(self) -> None:
        options = {"regularizers": {"tree_energy": {"weight": 0.4, "start": 0.5}}}
        module, batch = self.build(**options), make_batch()
        module.training_progress = lambda: 0.1
        loss = self.step(module, batch)
        assert module.logged["train/loss_tree_energy"].item() == 0
        loss.backward()  # parameters of the term still get a gradient, as DDP demands
        assert all(p.grad is not None for p in module.regularizers.parameters())


class TestRegularizedWithTerms(MethodContract):
    module_class = RegularizedModule
    kwargs: ClassVar[dict[str, Any]] = {
        "regularizers": {"gated_crf": 0.1, "tree_energy": 0.4, "entropy": {"weight": 0.1}}
    }
