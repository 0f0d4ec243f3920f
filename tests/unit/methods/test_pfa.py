from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER, MethodContract, make_batch
from helpers.internals import internal

from scribbleseg import ConfigError, DataInfo, SegOutput
from scribbleseg.methods import PFA_PRESETS as PRESETS
from scribbleseg.methods import (
    TERMS,
    ClassPrototypes,
    PFAModule,
    PrototypeFeatureAugmentation,
    confident_pixels,
    confident_prototypes,
    phase_weights,
    prototype_map,
)
from scribbleseg.nn import build_network


class _Progress:
    """Lets a test say how far the training is."""

    def __init__(self, module: PFAModule, value: float) -> None:
        self.value = value
        module.training_progress = lambda: self.value


class TestPFA(MethodContract):
    module_class = PFAModule
    kwargs: ClassVar[dict[str, Any]] = {
        "arch": "unet",
        "num_prototypes": 2,
        "freeze_encoder_norm": False,
        "lr": 1e-3,
    }

    def test_three_phases(self) -> None:
        module, batch = self.build(), make_batch()
        progress = _Progress(module, 0.1)
        self.step(module, batch)
        assert module.logged["train/phase"] == 0
        assert module.bank.count.sum() == 0
        terms = set(module.loss_terms) - {"augmenter"}
        assert terms == {"pce"}
        progress.value = 0.15
        self.step(module, self._with(batch, [0, 1, 2]))
        assert module.logged["train/phase"] == 1, "class 3 was seen in the warm-up and has no slot"
        assert set(module.loss_terms) == {"pce", "pce_local", "con_local"}
        self.step(module, self._with(batch, [3]))
        assert module.logged["train/phase"] == 2
        assert set(module.loss_terms) == {"pce", "pce_global", "con_local", "con_global"}
        assert module.logged["train/bank_filled"] == 1

    @staticmethod
    def _with(batch, classes: list[int]):
        tags = torch.zeros_like(batch["class_labels"])
        tags[:, classes] = 1
        return type(batch)({**batch, "class_labels": tags})

    def test_a_class_that_never_occurs_is_not_waited_for(self) -> None:
        module = self.build()
        self.step(module, self._with(make_batch(), [0, 2]))
        assert module.logged["train/phase"] == 2
        # and one that turns up later does not lead back
        self.step(module, self._with(make_batch(), [0, 3]))
        assert module.logged["train/phase"] == 2

    def test_phase_survives_a_checkpoint(self) -> None:
        module, copy = self.build(), self.build(seed=1)
        self.step(module, make_batch())
        assert module.logged["train/phase"] == 2
        copy.load_state_dict(module.state_dict())
        copy.seen_classes.fill_(True)
        copy.bank.filled[3] = False
        _Progress(copy, 0.5)
        assert copy._uses_prototypes()
        assert copy._phase(ClassPrototypes(torch.zeros(0), torch.zeros(0))) == "global"

    def test_warns_once_if_the_bank_does_not_fill(self, caplog) -> None:
        module, batch = self.build(num_prototypes=50), self._with(make_batch(), [0, 1, 3])
        module.data_info = DataInfo(("ground", "cat", "dog", "owl"))
        with caplog.at_level(logging.WARNING):
            module.on_train_epoch_end()
            assert not caplog.records, "no epoch with prototypes yet"
            self.step(module, batch)
            module.on_train_epoch_end()
            module.on_train_epoch_end()
        assert len(caplog.records) == 1
        assert "owl (2 of 50)" in caplog.text
        assert "dog (0 of 50, not drawn in any training image)" in caplog.text

    def test_a_class_that_gives_no_prototype_is_not_waited_for(self) -> None:
        module = self.build()
        module.confidence = lambda logits: logits.index_fill(1, torch.tensor([2]), -1.0)
        self.step(module)
        self.step(module)
        assert module.logged["train/phase"] == 1
        module.on_train_epoch_end()
        self.step(module)
        assert module.logged["train/phase"] == 2
        assert module.waived_classes.tolist() == [False, False, True, False]

    def test_centred_scores_do_not_depend_on_a_common_offset(self) -> None:
        batch, banks = make_batch(), {}
        for confidence in ("logit", "centred"):
            for offset in (0.0, -40.0):
                module = self.build(confidence=confidence).eval()
                module.network.classifier.bias.data += offset
                self.step(module, batch)
                banks[confidence, offset] = module.bank
        assert banks["centred", 0.0].filled.all()
        torch.testing.assert_close(
            banks["centred", 0.0].prototypes, banks["centred", -40.0].prototypes
        )
        assert not banks["logit", -40.0].filled.any(), "as published"

    def test_the_warm_up_leaves_the_augmenter_alone(self) -> None:
        module = self.build(weight_decay=0.5)
        before = [p.clone() for p in module.augmenter.parameters()]
        _Progress(module, 0.0)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            self.step(module).backward()
            assert all(p.grad is not None for p in module.augmenter.parameters())
            module.on_before_optimizer_step(optimizer)
            optimizer.step()
        for old, new in zip(before, module.augmenter.parameters(), strict=True):
            assert torch.equal(old, new)

    def test_a_longer_run_does_not_fall_back_into_the_warm_up(self) -> None:
        module = self.build()
        self.step(module)
        assert module.logged["train/phase"] == 2
        _Progress(module, 0.05)
        self.step(module)
        assert module.logged["train/phase"] == 2
        copy = self.build(seed=1)
        copy.load_state_dict(module.state_dict())
        _Progress(copy, 0.05)
        self.step(copy)
        assert copy.logged["train/phase"] == 2

    def test_padding_shows_no_class(self) -> None:
        module = self.build(prototype_inference="global", min_pixels=0).eval()
        module.bank.filled.fill_(True)
        scores = torch.full((1, 4, 64, 64), -9.0)
        scores[:, 1, :40, :48], scores[:, 3, 40:] = 9.0, 9.0
        seen = {}
        features = torch.rand(1, module.feature_dim, 64, 64)
        module.forward_features = lambda _: SegOutput(scores, features)
        module.augmented_logits = lambda f, present, local: seen.update(p=present) or scores
        with torch.no_grad():
            module(torch.zeros(1, 3, 40, 48))
        assert seen["p"].tolist() == [[1, 1, 0, 0]]

    @pytest.mark.parametrize("confidence", ["logit", "centred"])
    def test_padding_gives_no_prototype(self, confidence: str) -> None:
        module = self.build(
            prototype_inference="local", class_source="all", confidence=confidence
        ).eval()
        logits = torch.randn(1, 4, 64, 64)
        features = torch.rand(1, module.feature_dim, 64, 64)
        found = []
        for padding in (0.0, 50.0):
            shown = features.clone()
            shown[:, :, 40:], shown[..., 48:] = padding, padding
            scores = logits.clone()
            scores[:, :, 40:], scores[..., 48:] = padding, padding
            module.forward_features = lambda _, s=scores, f=shown: SegOutput(s, f)
            module.augmented_logits = lambda f, present, local: found.append(local) or f[:, :4]
            with torch.no_grad():
                module(torch.zeros(1, 3, 40, 48))
        assert found[0].valid.all()
        assert torch.isfinite(found[0].prototypes).all()
        torch.testing.assert_close(found[0].prototypes, found[1].prototypes)

    def test_a_skipped_step_leaves_no_part_idle(self) -> None:
        module, batch = self.build(), make_batch()
        progress = _Progress(module, 0.0)
        self.step(module, batch)  # skipped: no optimiser step follows
        progress.value = 0.5
        module.on_train_batch_start(batch, 1)
        self.step(module, batch).backward()
        module.on_before_optimizer_step(None)
        assert all(p.grad is not None for p in module.augmenter.parameters())

    def test_options_change_the_loss(self) -> None:
        batch = make_batch()
        plain = self.build().eval()
        self.step(plain, batch)
        for options in (
            {"consistency": "soft_ce"},
            {"loss_preset": "paper"},
            {"loss_preset": "reference"},
            {"topk_ratio": 0.5},
        ):
            changed = self.build(**options).eval()
            assert not torch.equal(self.step(changed, batch), plain.logged["train/loss"]), options
        both = self.build(consistency="soft_ce", loss_preset="reference").eval()
        detached = self.build(
            consistency="soft_ce", loss_preset="reference", detach_target=True
        ).eval()
        gradients = []
        for module in (both, detached):
            self.step(module, batch).backward()
            gradients.append(module.augmenter.fc4.weight.grad)
        assert not torch.allclose(*gradients)

    def test_weights_of_sixteen_bits(self) -> None:
        module = self.build().to(torch.bfloat16)
        assert module.bank.prototypes.dtype == torch.float32
        batch = make_batch()
        batch["image"] = batch["image"].bfloat16()
        assert torch.isfinite(self.step(module, batch))

    def test_mit_norms(self) -> None:
        module = self.build(
            arch="segformer", encoder="mit_b0", freeze_encoder_norm=True, num_classes=4
        )
        frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
        assert len(frozen) == 60
        assert all("norm" in name for name in frozen)

    @pytest.mark.parametrize("hook", ["on_test_start", "on_predict_start"])
    def test_warns_of_an_empty_bank(self, hook: str, caplog) -> None:
        with caplog.at_level(logging.WARNING):
            getattr(self.build(), hook)()
            module = self.build(prototype_inference="global")
            module.bank.filled[1, 0] = True
            getattr(module, hook)()
            assert not caplog.records, "another head, or one prototype"
            module.bank.filled.zero_()
            getattr(module, hook)()
        assert "the bank of this checkpoint is empty: the plain prediction is used" in caplog.text

    def test_warns_without_background(self, caplog) -> None:
        module = self.build()
        module.data_info = DataInfo(("a", "b", "c", "d"), background=None, source="Streets")
        with caplog.at_level(logging.WARNING):
            module.on_fit_start()
        assert "Streets has no background class" in caplog.text

    def test_classes_of_the_crop(self) -> None:
        module, batch = self.build(class_labels="crop"), make_batch()
        batch["scribble"][batch["scribble"] == 2] = 255
        batch["class_labels"][:] = 1
        self.step(module, batch)
        assert module.seen_classes.tolist() == [True, True, False, True]

    def test_prototypes_before_the_dropout(self) -> None:
        batch = make_batch()
        banks = []
        for features, dropout in (("clean", 0.5), ("dropout", 0.0), ("dropout", 0.5)):
            module = self.build(prototype_features=features, feature_dropout=dropout)
            module.network.eval()  # the only random part left is the dropout
            found = module.plain_prediction(batch["image"])
            module.plain_prediction = lambda _, f=found, m=module: f._replace(
                logits=m.network.classifier(f.clean)
            )
            self.step(module, batch)
            banks.append(module.bank.prototypes.clone())
        torch.testing.assert_close(banks[0], banks[1])
        assert not torch.allclose(banks[0], banks[2])

    def test_normalisation_of_the_encoder_is_frozen_on_request(self) -> None:
        module = self.build(freeze_encoder_norm=True)
        frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
        assert frozen
        assert all(n.startswith("network.encoder.") for n in frozen)
        assert all(p.ndim == 1 for p in module.parameters() if not p.requires_grad)

    @pytest.mark.parametrize("head", ["local", "global"])
    def test_augmented_heads_predict_without_labels(self, head: str) -> None:
        module = self.build(prototype_inference=head, min_pixels=0)
        plain = self.build()
        for model in (module, plain):
            self.step(model, make_batch())
            model.eval()
        image = make_batch(seed=5)["image"]
        with torch.no_grad():
            found, reference = module.predict_logits(image), plain.predict_logits(image)
        assert found.shape == reference.shape
        assert not torch.allclose(found, reference)
        # an empty bank has nothing to offer
        module.bank.filled.fill_(False)
        with torch.no_grad():
            emptied = module.predict_logits(image)
        assert torch.allclose(emptied, reference) == (head == "global")

    def test_absent_classes_have_no_influence(self) -> None:
        module = self.build().eval()
        module.bank.prototypes.normal_()
        module.bank.filled.fill_(True)
        features = torch.rand(2, module.feature_dim, 8, 8)
        present = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]])
        before = module.augmented_logits(features, present)
        module.bank.prototypes[2] += 5
        assert torch.equal(module.augmented_logits(features, present), before)
        module.bank.prototypes[3] += 5
        after = module.augmented_logits(features, present)
        assert torch.equal(after[0], before[0])
        assert not torch.equal(after[1], before[1])

    def test_extra_heads_and_oracle_have_names_of_their_own(self) -> None:
        module = self.build(extra_heads=["local"], oracle=True)
        self.step(module)
        module.eval().logged.clear()
        batch = dict(make_batch(size=1, height=40, width=48))
        truth = torch.zeros(1, 40, 48, dtype=torch.int64)
        truth[:, 20:] = 3
        batch |= {
            "mask": truth,
            "orig_size": torch.tensor([[40, 48]]),
            "input_size": torch.tensor([[40, 48]]),
        }
        del batch["class_labels"]  # validation has none
        module.on_validation_epoch_start()
        with torch.no_grad():
            module.validation_step(batch, 0)
        module.on_validation_epoch_end()
        heads = {name for name in module.logged if "miou" in name}
        assert heads == {
            "val/miou",
            "val/miou_local",
            "oracle/miou_local",
            "oracle/miou_global",
        }
        assert module.head == "none"

    def test_extra_heads_leave_repeated_images_out(self) -> None:
        module = self.build(extra_heads=["local"], min_pixels=0)
        self.step(module)
        module.eval()
        batch = dict(make_batch(size=2, height=32, width=32))
        size = torch.tensor([[32, 32]] * 2)
        mask = torch.stack([torch.zeros(32, 32), torch.full((32, 32), 2.0)]).long()
        batch |= {"mask": mask, "orig_size": size, "input_size": size}
        scores = []
        for repeated in ([False, False], [False, True]):
            module.head_scores.reset()
            with torch.no_grad():
                module.head_scores.update({**batch, "duplicate": torch.tensor(repeated)})
            scores.append(module.head_scores.metrics["local"].confusion.sum().item())
        assert scores == [2 * 32 * 32, 32 * 32]

    @pytest.mark.parametrize("stage", ["validation", "test"])
    def test_a_second_evaluation_counts_afresh(self, stage: str) -> None:
        def evaluated(*truths: int) -> dict[str, float]:
            module = self.build(extra_heads=["local", "global"], oracle=True, min_pixels=0)
            self.step(module)
            module.eval()
            for truth in truths:
                module.logged.clear()
                batch = dict(make_batch(size=1, height=32, width=32, seed=truth))
                size = torch.tensor([[32, 32]])
                mask = torch.full((1, 32, 32), truth)
                batch |= {"mask": mask, "orig_size": size, "input_size": size}
                getattr(module, f"on_{stage}_epoch_start")()
                with torch.no_grad():
                    getattr(module, f"{stage}_step")(batch, 0)
                getattr(module, f"on_{stage}_epoch_end")()
            return {name: float(value) for name, value in module.logged.items()}

        prefix = {"validation": "val", "test": "test"}[stage]
        fresh, second = evaluated(2), evaluated(0, 1, 3, 2)
        assert {name for name in fresh if "miou_" in name} == {
            *(f"{prefix}/miou_local", f"{prefix}/miou_global"),
            *("oracle/miou_local", "oracle/miou_global"),
        }
        assert second == pytest.approx(fresh, nan_ok=True)

    def test_regularisers_see_the_plain_prediction(self) -> None:
        batch = make_batch()
        plain = self.build(feature_dropout=0.0).eval()
        both = self.build(feature_dropout=0.0, regularizers={"entropy": 0.5}).eval()
        difference = self.step(both, batch) - self.step(plain, batch)
        torch.testing.assert_close(difference, 0.5 * both.loss_terms["entropy"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"warmup": 1.0}, "never be used"),
            ({"warmup": float("nan")}, "warmup=nan"),
            ({"num_prototypes": 0}, "num_prototypes=0"),
            ({"topk_ratio": 8}, "8 % is 0.08"),
            ({"prototype_rate": 1.0}, "prototype_rate=1.0"),
            ({"consistency": "mse"}, "consistency='mse'"),
            ({"loss_preset": "best"}, "loss_preset='best'"),
            ({"loss_weights": {"late": {"plain": 1}}}, "'late'"),
            ({"loss_weights": {"local": {"pce": 1}}}, "'pce'"),
            ({"loss_weights": {"local": {"plain": -1}}}, "plain=-1"),
            ({"loss_weights": {"warmup": {"pce_local": 1}}}, "no prototypes before"),
            ({"extra_heads": ["oracle"]}, "extra_heads='oracle'"),
            ({"class_source": "oracle"}, "class_source='oracle'"),
            ({"confidence": "margin"}, "confidence='margin'"),
            ({"loss_preset": "paper", "detach_target": True}, "would never learn"),
        ],
    )
    def test_bad_options_are_named(self, options: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(**options)


def test_weight_tables_name_every_term() -> None:
    for preset in PRESETS:
        table = phase_weights(preset)
        assert set(table) == {"warmup", "local", "global"}
        assert all(set(weights) == set(TERMS) for weights in table.values())
    joint, paper = phase_weights("joint"), phase_weights("paper")
    listed = [[weights[term] for term in TERMS] for weights in joint.values()]
    assert listed == [[1, 0, 0, 0, 0], [1, 1, 0, 0.02, 0], [1, 0, 1, 0.01, 0.01]]
    listed = [[weights[term] for term in TERMS] for weights in paper.values()]
    assert listed == [[1, 0, 0, 0, 0], [1, 0, 0, 0.02, 0], [1, 0, 0, 0.02, 0.05]]
    changed = phase_weights("joint", {"global": {"con_global": 0.5}})
    assert changed["global"]["con_global"] == 0.5
    assert PRESETS["joint"]["global"]["con_global"] == 0.01, "the preset itself stays"


class TestAugmenter:
    def make(self, dim: int = 6) -> PrototypeFeatureAugmentation:
        torch.manual_seed(0)
        return PrototypeFeatureAugmentation(dim).double()

    def test_formula_image_by_image(self) -> None:
        net, features = self.make(), torch.rand(3, 6, 4, 5, dtype=torch.float64)
        prototypes = torch.randn(3, 7, 6, dtype=torch.float64)
        mask = torch.rand(3, 7) < 0.5
        mask[2] = False
        found = net(features, prototypes, mask)
        for image in range(2):
            pixels, own = features[image].flatten(1).T, prototypes[image][mask[image]]
            keys, queries = net.prototype_fc(own), net.feature_fc(pixels)
            read = (queries @ keys.T).softmax(1) @ keys
            hidden = net.fc3(torch.cat([read, queries], 1)).relu()
            expected = (pixels + net.fc4(hidden)).relu().T.view(6, 4, 5)
            torch.testing.assert_close(found[image], expected)
        assert torch.equal(found[2], features[2]), "nothing to attend to"

    def test_pixels_may_change_places(self) -> None:
        net, features = self.make(), torch.rand(1, 6, 3, 4, dtype=torch.float64)
        prototypes, mask = torch.randn(1, 5, 6, dtype=torch.float64), torch.ones(1, 5).bool()
        order = torch.randperm(12)
        moved = features.flatten(2)[..., order].view_as(features)
        expected = net(features, prototypes, mask).flatten(2)[..., order].view_as(features)
        torch.testing.assert_close(net(moved, prototypes, mask), expected)

    def test_prototypes_that_are_left_out_change_nothing(self, monkeypatch) -> None:
        augmenter = PrototypeFeatureAugmentation(6)
        features, prototypes = torch.rand(3, 6, 4, 5), torch.randn(1, 9, 6)
        mask = torch.tensor([[True] * 2 + [False] * 7, [False] * 9, [False, True] * 4 + [True]])
        some = augmenter(features, prototypes, mask)
        # as on a device, where the rows that are allowed are not counted
        monkeypatch.setattr(
            internal("PFA augmentation"), "_allowed_only", lambda pairs, mask: (pairs, mask)
        )
        torch.testing.assert_close(some, augmenter(features, prototypes, mask))
        assert torch.equal(some[1], features[1]), "nothing to attend to"

    def test_gradient(self) -> None:
        net = self.make(4)
        features = torch.rand(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
        prototypes = torch.randn(1, 3, 4, dtype=torch.float64)
        mask = torch.tensor([[True, False, True]])
        assert torch.autograd.gradcheck(lambda f: net(f, prototypes, mask), features)


def test_last_stage_of_mit_keeps_its_resolution() -> None:
    network = build_network(
        "segformer", "mit_b0", num_classes=3, encoder_weights=None, output_stride=16
    )
    levels = network.encode(torch.rand(1, 3, 70, 65))
    assert network.divisor == 16
    assert [level.shape[-2:] for level in levels[2:]] == [(20, 20), (10, 10), (5, 5), (5, 5)]
    dilated = [m for m in network.encoder.modules() if getattr(m, "dilation", (1, 1)) != (1, 1)]
    assert not dilated
    assert network.align_corners
    with pytest.raises(ConfigError, match="output_stride=8"):
        build_network("segformer", "mit_b0", num_classes=3, encoder_weights=None, output_stride=8)


def test_extraction_does_not_depend_on_the_scale_of_the_features() -> None:
    features, logits = torch.rand(2, 5, 6, 6), torch.randn(2, 3, 6, 6)
    one = confident_prototypes(features, logits, torch.ones(2, 3)).prototypes
    many = confident_prototypes(7 * features, logits, torch.ones(2, 3)).prototypes
    torch.testing.assert_close(one, many)


class TestPictures:
    def make(self) -> PFAModule:
        torch.manual_seed(0)
        module = PFAModule(
            3, arch="unet", encoder=TINY_ENCODER, encoder_weights=None, num_prototypes=4
        )
        module.data_info = DataInfo(("ground", "cat", "dog"))
        return module

    def test_map_shows_every_class_of_the_bank(self) -> None:
        module = self.make()
        empty = prototype_map(module)
        module.bank.prototypes[1] = torch.rand(4, module.feature_dim)
        module.bank.prototypes[2] = torch.rand(4, module.feature_dim) - 3
        module.bank.filled[1:] = True
        picture = prototype_map(module)
        assert picture.shape == empty.shape == (480, 630, 3)
        places = []
        for label in (1, 2):
            own = (picture[:, :480] == module.data_info.palette[label]).all(2)
            assert own.sum() > 4 * 20, "four discs"
            places.append(np.argwhere(own).mean(0))
            assert not (empty[:, :480] == module.data_info.palette[label]).all(2).any()
        assert np.abs(places[0] - places[1]).max() > 100, "two clusters lie apart"

    def test_confident_pixels_are_painted(self) -> None:
        module = self.make()
        image = np.full((32, 64, 3), 128, np.uint8)
        logits = torch.full((1, 3, 32, 64), -1.0)
        logits[0, 1, :, :8] = torch.linspace(1, 4, 8)
        module.forward_features = lambda _: SegOutput(logits, logits)
        picture = confident_pixels(module, image, classes=[1, 2], tile_height=32)
        assert picture.shape[1] == 3 * 68
        cat, dog = picture[26:58, 68:132], picture[26:58, 136:200]
        painted = (cat != 51).any(2)
        assert painted[:, 3:8].all(), "a twelfth of the pixels: 170 of 2048"
        assert not painted[:, 8:].any()
        assert (dog == 51).all(), "never a positive logit"
