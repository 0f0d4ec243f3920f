from __future__ import annotations

import pytest
import torch
from helpers.contract import MethodContract, make_batch

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
