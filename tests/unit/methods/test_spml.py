from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from helpers.contract import MethodContract, loss_values, make_batch

import scribbleseg
from scribbleseg import CheckpointError, ConfigError, DataInfo
from scribbleseg.methods import SPMLModule

TERMS = {"head", "annotation", "cooccurrence", "similarity"}
OFF = {f"{n}_weight": 0.0 for n in ("annotation", "cooccurrence", "similarity", "affinity")}


def changed(batch, **values):
    """A batch with other values of some keys."""
    return type(batch)({**batch, **values})


class TestSPML(MethodContract):
    module_class = SPMLModule
    kwargs: ClassVar[dict[str, Any]] = {
        "arch": "unet",
        "embedding_dim": 16,
        "head_dropout": 0.0,
        "affinity_weight": 0.5,
        "memory_capacity": 1000,
        "chunk_size": 100,
        "accuracy_every": 1,
    }

    def test_total_is_the_weighted_sum_of_the_logged_terms(self) -> None:
        weights = {"annotation": 0.5, "cooccurrence": 2.0, "similarity": 3.0, "affinity": 0.25}
        module = self.build(**{f"{n}_weight": w for n, w in weights.items()}, head_weight=4.0)
        batch = make_batch()
        batch["class_labels"] = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]])
        loss = self.step(module, batch)
        assert set(module.loss_terms) == TERMS | {"affinity"}
        weights["head"] = 4.0
        expected = sum(weights[n] * value for n, value in module.loss_terms.items())
        torch.testing.assert_close(loss.detach(), expected)
        assert all(value > 0 for value in module.loss_terms.values())

    def test_the_classifier_weighs_as_much_as_the_annotation_unless_told(self) -> None:
        assert self.build(annotation_weight=0.3).head_weight == 0.3
        assert self.build(annotation_weight=0.0).head_weight == 1.0
        assert self.build(annotation_weight=0.3, head_weight=2).head_weight == 2.0

    @pytest.mark.parametrize("name", ["annotation", "cooccurrence", "similarity", "affinity"])
    def test_a_relation_alone(self, name: str) -> None:
        module = self.build(**{**OFF, f"{name}_weight": 1.0})
        self.step(module).backward()
        assert set(module.loss_terms) == {"head", name}
        assert all(p.grad is not None for p in module.parameters())

    def test_the_classifier_does_not_change_the_embedding(self) -> None:
        gradients = []
        for weight in (1.0, 100.0):
            module = self.build(head_weight=weight)
            self.step(module).backward()
            gradients.append(module.network.decoder.embed.weight.grad)
        assert torch.equal(*gradients)
        assert gradients[0].abs().sum() > 0

    def test_the_step_leaves_the_batch_alone(self) -> None:
        batch = make_batch()
        before = {k: v.clone() for k, v in batch.items() if isinstance(v, torch.Tensor)}
        self.step(self.build(), batch)
        assert all(torch.equal(before[key], batch[key]) for key in before)

    def test_unlabelled_pixels_take_part_and_padding_does_not(self) -> None:
        batch = make_batch()
        batch["scribble"][:, 32:] = 255
        padded = changed(batch, valid=batch["valid"].clone())
        padded["valid"][:, 32:] = False
        other = changed(padded, superpixel=padded["superpixel"].clone())
        other["superpixel"][:, 32:] = -1  # whatever padding holds

        def segments(given) -> int:
            module = self.build().eval()
            self.step(module, given)
            return int(module.queue.counts[0])

        assert segments(padded) < segments(batch), "unlabelled pixels are segments too"
        assert segments(padded) == segments(other)

    def test_all_padding_is_an_exact_zero(self) -> None:
        batch = make_batch()
        batch["scribble"] = torch.full_like(batch["scribble"], 255)
        batch["valid"] = torch.zeros_like(batch["valid"])
        module = self.build(regularizers=None)
        loss = self.step(module, batch)
        assert all(value == 0 for value in module.loss_terms.values())
        loss.backward()
        assert all((p.grad == 0).all() for p in module.parameters())

    def test_one_class_and_no_superpixels(self, recorded) -> None:
        batch = make_batch()
        batch["scribble"] = torch.where(batch["scribble"] < 255, 1, 255)
        batch["superpixel"] = torch.full_like(batch["superpixel"], -1)
        module = self.build()
        assert torch.isfinite(self.step(module, batch))
        assert module.loss_terms["annotation"] == 0
        assert module.loss_terms["similarity"] == 0
        recorded(loss_values(module))

    def test_more_clusters_than_cells(self, recorded) -> None:
        batch = make_batch(height=16, width=16)
        module = self.build(clusters=(20, 30))
        assert torch.isfinite(self.step(module, batch))
        recorded(loss_values(module))

    def test_memory_holds_the_last_batches_and_enters_the_loss(self) -> None:
        module, batch = self.build().eval(), make_batch()
        losses = []
        for step in range(4):
            self.step(module, batch)
            losses.append(float(module.loss_terms["annotation"]))
            assert len(module.queue.rows().labels) == min(step + 1, 2) * int(module.queue.counts[0])
        assert losses[0] != losses[1]
        assert losses[2] == pytest.approx(losses[3]), "two batches, no more"
        rows = module.queue.rows()
        assert set(rows.image.tolist()) == {0, 1, 2, 3}
        assert not rows.prototypes.requires_grad
        alone = self.build(memory_batches=0).eval()
        for _ in range(2):
            self.step(alone, batch)
        assert float(alone.loss_terms["annotation"]) == pytest.approx(losses[0])

    def test_tagless_images_are_skipped_or_count_as_released(self) -> None:
        batch = make_batch()
        batch["class_labels"] = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])
        ours, theirs = self.build(), self.build(tagless="reference")
        self.step(ours, batch)
        self.step(theirs, batch)
        assert ours.loss_terms["cooccurrence"] == 0, "one image, and nothing to tell it from"
        assert theirs.loss_terms["cooccurrence"] > 0.3, "the other is even unlike itself"

    def test_background_counts_as_a_tag_only_where_it_is_a_class_like_others(self) -> None:
        batch = make_batch()
        batch["class_labels"] = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]])
        module = self.build()
        self.step(module, batch)
        assert module.loss_terms["cooccurrence"] > 0
        scenes = self.build()
        names = ("road", "sky", "car", "tree")
        scenes.data_info = DataInfo(names, background=None)
        self.step(scenes, batch)
        assert scenes.loss_terms["cooccurrence"] == 0, "both images show class 0"

    def test_where_every_image_has_every_class_it_says_so_once(self, caplog) -> None:
        module, batch = self.build(), make_batch()
        batch["class_labels"] = torch.ones_like(batch["class_labels"])
        with caplog.at_level(logging.WARNING, logger="scribbleseg"):
            for _ in range(2):
                self.step(module, batch)
                module.on_train_epoch_end()
        (record,) = caplog.records
        assert "0.0 % of the pairs" in record.message
        assert "cooccurrence_weight: 0" in record.message
        quiet = self.build()
        batch["class_labels"] = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]])
        self.step(quiet, batch)
        quiet.on_train_epoch_end()
        assert len(caplog.records) == 1

    def test_unknown_segments_are_like_all_or_left_out(self) -> None:
        batch = make_batch()
        everything, skipped = (
            self.build(affinity_threshold=0.999, unknown=unknown).eval()
            for unknown in ("all", "skip")
        )
        for module in (everything, skipped):
            self.step(module, batch)
        assert everything.queue.rows().assigned.all(1).any()
        assert not skipped.queue.rows().assigned.all(1).any()
        assert everything.loss_terms["affinity"] < skipped.loss_terms["affinity"]

    def test_small_segments_are_not_compared_with(self) -> None:
        module, batch = self.build(min_segment_pixels=3), make_batch()
        self.step(module, batch)
        rows = module.queue.rows()
        assert (rows.labels == -1).any()
        assert not rows.tags[rows.labels == -1].any()

    def test_small_segments_keep_their_pixels_and_leave_the_similarity(self) -> None:
        batch = make_batch()
        whole, large = (self.build(min_segment_pixels=n).eval() for n in (0, 3))
        for module in (whole, large):
            self.step(module, batch)
        assert large.loss_terms["similarity"] != whole.loss_terms["similarity"]
        every = self.build(min_segment_pixels=10_000).eval()
        self.step(every, batch)
        # nothing to compare with but the own segment
        for name in ("annotation", "cooccurrence", "similarity", "affinity"):
            assert every.loss_terms[name] == 0, name

    def test_pixels_of_small_segments_keep_their_classes_of_affinity(self) -> None:
        module, seen = self.build(min_segment_pixels=3).eval(), {}
        contrast = module._contrast

        def kept(name, found, sets, **options):
            seen[name] = (sets, found)
            return contrast(name, found, sets, **options)

        module._contrast = kept
        self.step(module, make_batch())
        sets, found = seen["affinity"]
        assert not found.usable.all()
        assert sets.positive.any(1).all(), "they are drawn to others, though nobody is to them"
        assert not sets.positive[:, found.offset : found.offset + len(found.usable)][
            :, ~found.usable
        ].any()

    def test_a_segment_of_just_that_many_pixels_is_compared_with(self) -> None:
        def segments(least: int):
            module, seen = self.build(min_segment_pixels=least).eval(), {}
            contrast = module._contrast

            def kept(name, found, *rest, **options):
                seen[name] = found
                return contrast(name, found, *rest, **options)

            module._contrast = kept
            self.step(module, make_batch())
            return seen["cooccurrence"], module.queue.rows().labels

        found, _ = segments(0)
        assert found.usable.all()
        sizes = found.segments.pixel_segment.bincount()
        assert sizes.sum() == 2 * 16 * 16, "every cell of both images"
        for least in (2, 3):
            assert (sizes == least).any()
            assert (sizes == least - 1).any()
            found, labels = segments(least)
            assert torch.equal(found.usable, sizes >= least)
            assert torch.equal(labels == -1, sizes < least), "so it is in the memory"

    def test_the_own_segment_may_be_the_only_positive(self) -> None:
        batch = make_batch()
        others, own = (self.build(positives=kind).eval() for kind in ("others", "own"))
        for module in (others, own):
            self.step(module, batch)
        for name in ("annotation", "similarity"):
            assert own.loss_terms[name] != others.loss_terms[name], name

    def test_a_classifier_on_nothing_says_so(self, caplog) -> None:
        module = self.build(stage="classifier")
        module.trainer = SimpleNamespace(ckpt_path=None)
        with caplog.at_level(logging.WARNING):
            module.on_fit_start()
        assert "without init_from" in caplog.text

    def test_label_of_a_cell_may_be_any_in_it(self) -> None:
        batch = make_batch()
        batch["scribble"] = torch.full_like(batch["scribble"], 255)
        batch["scribble"][:, 6, 10] = 1  # not at the corner of a cell of 4 pixels
        found = {}
        for mode in ("nearest", "any"):
            module = self.build(label_downsample=mode)
            self.step(module, batch)
            found[mode] = int((module.queue.rows().labels < 4).sum())
        assert found == {"nearest": 0, "any": 2}

    def test_published_heads_have_stride_four_and_frozen_stages(self, recorded) -> None:
        for arch in ("spml_aspp", "spml_psp"):
            module = self.build(arch=arch, frozen_norm=True, norm_momentum=3e-4)
            assert module.embed(torch.randn(2, 3, 64, 48)).shape == (2, 16, 16, 12)
            stem = module.network.encoder.model.conv1
            assert not any(p.requires_grad for p in stem.parameters())
            assert not module.network.encoder.model.bn1.training
            assert module.network.encoder.model.layer2.training
            assert module.network.encoder.model.bn1.momentum == 3e-4
            assert module.network.classifier.hidden[1].momentum == 0.1
        one = make_batch(size=1)
        assert torch.isfinite(self.step(module, one)), "a batch of one image"
        recorded(loss_values(module))
        assert not self.build(arch="spml_aspp").eval().training

    @pytest.mark.slow
    def test_the_published_network(self) -> None:
        module = SPMLModule(21, encoder_weights=None).eval()
        assert module.hparams["encoder"] == "tu-resnet101s"
        with torch.no_grad():
            assert module.embed(torch.randn(1, 3, 64, 64)).shape == (1, 64, 16, 16)
        assert not module.network.encoder.model.layer1[0].conv1.weight.requires_grad

    def test_stride_of_the_embedding_is_an_option(self) -> None:
        for stride, cells in ((1, 64), (2, 32), (4, 16), (8, 8)):
            module = self.build(embedding_stride=stride)
            assert module.embed(torch.randn(1, 3, 64, 64)).shape[2:] == (cells, cells)

    def test_biases_learn_faster_and_do_not_decay(self) -> None:
        module = self.build(bias_lr_mult=2.0, head_lr_mult=10.0, lr=0.1, weight_decay=0.5)
        groups = {group["name"]: group for group in module.parameter_groups()}
        assert set(groups) == {
            *("encoder", "encoder_bias", "decoder", "decoder_bias", "classifier"),
            "classifier_bias",
        }
        rates = {name: group["lr"] for name, group in groups.items()}
        assert rates["encoder"] == 0.1
        assert rates["encoder_bias"] == 0.2
        assert rates["classifier_bias"] == 2.0
        assert {g["weight_decay"] for n, g in groups.items() if n.endswith("_bias")} == {0.0}
        assert sum(len(g["params"]) for g in groups.values()) == len(list(module.parameters()))

    def test_the_classifier_stage_changes_nothing_else(self) -> None:
        module, batch = self.build(stage="classifier"), make_batch()
        assert module.train_inputs == {"pseudo_label"}
        assert module.queue is None
        frozen = {k: v.clone() for k, v in module.state_dict().items() if "classifier" not in k}
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        first = module.training_step(changed(batch, superpixel=None), 0)
        first.backward()
        optimizer.step()
        assert set(module.loss_terms) == {"head"}
        assert all(torch.equal(v, module.state_dict()[k]) for k, v in frozen.items())
        assert module.training_step(batch, 0) != first.detach()
        assert all(p.grad is not None for p in module.network.classifier.parameters())
        assert {g["name"] for g in module.parameter_groups()} == {"classifier"}

    def test_pseudo_labels_may_be_the_weak_labels(self) -> None:
        module, batch = self.build(weak_labels="pseudo_label"), make_batch()
        assert module.train_inputs == {"pseudo_label", "superpixel"}
        nothing = torch.full_like(batch["scribble"], 255)
        self.step(module, changed(batch, scribble=nothing))
        assert module.loss_terms["annotation"] > 0
        assert self.build().train_inputs == {"superpixel"}

    def test_head_at_input_resolution(self) -> None:
        small = self.build().eval()
        large = self.build(head_resolution="input").eval()
        image = make_batch()["image"]
        with torch.no_grad():
            assert large(image).shape == small(image).shape
            assert not torch.equal(large(image), small(image))

    def test_the_prototype_file_is_no_hyper_parameter(self, tmp_path) -> None:
        with pytest.raises(CheckpointError, match="cannot be read"):
            self.build(retrieval=str(tmp_path / "none.npz"))
        module = self.build()
        checkpoint = {"hyper_parameters": dict(module.hparams)}
        module.on_save_checkpoint(checkpoint)
        assert "retrieval" not in checkpoint["hyper_parameters"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (OFF, "all four relations are 0"),
            ({"annotation_weight": -1.0}, "annotation_weight=-1.0"),
            ({"similarity_concentration": 0.0}, "similarity_concentration=0.0"),
            ({"head_weight": 0.0}, "head_weight=0.0"),
            ({"clusters": (6,)}, r"clusters=\(6,\)"),
            ({"retrieval_clusters": (0, 3)}, r"retrieval_clusters\[0\]=0"),
            ({"tagless": "maybe"}, "tagless='maybe'"),
            ({"unknown": "none"}, "unknown='none'"),
            ({"stage": "third"}, "stage='third'"),
            ({"weak_labels": "mask"}, "weak_labels='mask'"),
            ({"label_downsample": "mean"}, "label_downsample='mean'"),
            ({"head_dropout": 1.0}, "head_dropout=1.0"),
            ({"memory_batches": -1}, "memory_batches=-1"),
            ({"frozen_stages": 6}, "frozen_stages=6"),
            ({"bias_lr_mult": 0.0}, "bias_lr_mult=0.0"),
            ({"remote_grad": "no"}, "without quotes"),
            ({"local_features": "colour"}, "local_features='colour'"),
            ({"chunk_size": 0}, "chunk_size=0"),
        ],
    )
    def test_options_are_checked(self, options, message) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(**options)

    def test_it_is_exported(self) -> None:
        assert scribbleseg.SPMLModule is SPMLModule
