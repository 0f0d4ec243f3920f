from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.contract import (
    GuardedBatch,
    MethodContract,
    loss_values,
    make_batch,
    superpixel_graph,
)
from helpers.training import quiet_trainer

import scribbleseg
from scribbleseg import CheckpointError, ConfigError, DataInfo, load_start
from scribbleseg.functional import entropy_loss, region_boundaries
from scribbleseg.methods import (
    CC4SModule,
    HorizontalFlipView,
    Lattice,
    RegularizedModule,
    TranslationView,
    certainty_map,
    certainty_weight,
    eigenspace_consistency,
    eigenspace_consistency_from_logits,
    eigenvalue_trace,
    feature_consistency_loss,
    random_view,
    transition_eigenvalues,
    transition_logits,
    walk_column,
)

SMALL: dict[str, Any] = {"arch": "cc4s", "head_channels": 32, "lr": 1e-3}


class TestConsistencyStage(MethodContract):
    module_class = CC4SModule
    kwargs: ClassVar[dict[str, Any]] = {
        **SMALL,
        "stage": "consistency",
        "entropy_boundaries": True,
        "chunk_size": 16,
    }

    def test_terms_and_what_is_logged(self) -> None:
        module = self.build(entropy_weight=0.5, consistency_weight=7.0, trace_weight=0.3)
        loss = self.step(module)
        terms = module.loss_terms
        assert set(terms) == {"pce", "entropy", "consistency"}
        expected = terms["pce"] + 0.5 * terms["entropy"] + 7 * terms["consistency"]
        torch.testing.assert_close(loss.detach(), expected)
        kl, gap = (module.logged[f"train/consistency_{name}"] for name in ("kl", "trace_gap"))
        torch.testing.assert_close(terms["consistency"], kl + 0.3 * gap)
        assert kl > 0
        assert gap > 0
        assert module.logged["train/gate"] == 0

    def test_inputs_are_what_the_stage_needs(self) -> None:
        assert self.build().train_inputs == {"superpixel"}
        assert self.build(entropy_boundaries=False).train_inputs == frozenset()
        retrain = self.build(stage="retrain").train_inputs
        assert retrain == {"superpixel", "superpixel_graph", "pseudo_label"}
        plain = self.build(stage="retrain", colour_weight=0.0, entropy_boundaries=False)
        assert plain.train_inputs == {"pseudo_label"}

    def test_a_batch_holds_only_what_is_asked_for(self, recorded) -> None:
        keys = ("superpixel", "pseudo_label", "image_raw", "scribble_distance", "pseudo_distance")
        batch = GuardedBatch({k: v for k, v in make_batch().items() if k not in keys})
        module = self.build(entropy_boundaries=False)
        assert torch.isfinite(self.step(module, batch))
        recorded(loss_values(module))

    def test_entropy_is_that_of_the_pixels_inside_superpixels_and_image(self) -> None:
        batch = make_batch()
        batch["valid"][:, 40:] = False
        module = self.build(stage="certainty").eval()
        self.step(module, batch)
        with torch.no_grad():
            logits = module(batch["image"])
        inside = torch.stack(
            [torch.from_numpy(~region_boundaries(r.numpy())) for r in batch["superpixel"]]
        )
        expected = entropy_loss(logits, mask=inside & batch["valid"], eps=0)
        torch.testing.assert_close(module.loss_terms["entropy"], expected)

    def test_entropy_grows_and_the_consistency_sets_in(self) -> None:
        module = self.build(entropy_start=0.2, entropy_ramp=0.4, consistency_start=0.5)
        found = {}
        for progress in (0.1, 0.4, 0.9):
            module.training_progress = lambda value=progress: value
            loss, terms = self.step(module).detach(), module.loss_terms
            found[progress] = set(terms)
            rest = sum(terms[name] * {"consistency": 30}.get(name, 1) for name in terms)
            if progress == 0.4:
                rest = rest - 0.5 * terms["entropy"]
            torch.testing.assert_close(loss, rest)
        assert found == {
            0.1: {"pce"},
            0.4: {"pce", "entropy"},
            0.9: {"pce", "entropy", "consistency"},
        }

    @pytest.mark.parametrize("feature", ["P", "x", "z"])
    @pytest.mark.parametrize("transform", ["flip", "translation"])
    @pytest.mark.parametrize("arch", ["cc4s", "unet", "fpn"])
    def test_every_feature_in_every_view(
        self, feature: str, transform: str, arch: str, recorded
    ) -> None:
        module = self.build(
            arch=arch, consistency_feature=feature, consistency_transform=transform, max_cells=60
        )
        if feature == "z":
            module.measurement.gamma.data.fill_(0.3)
        self.step(module, make_batch(height=72, width=57)).backward()
        assert module.loss_terms["consistency"] > 0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
        recorded(loss_values(module))

    def test_the_view_depends_on_seed_and_batch_alone(self) -> None:
        module = self.build()
        draws = [module._generator(batch).initial_seed() for batch in (0, 1, 0)]
        assert draws[0] == draws[2] != draws[1]
        assert self.build(view_seed=1)._generator(0).initial_seed() != draws[0]

    def test_the_view_leaves_no_gradient_and_the_statistics_see_it(self) -> None:
        module = self.build(consistency_transform="flip")
        counts = {n: b.clone() for n, b in module.named_buffers() if "num_batches" in n}
        self.step(module)
        seen = {n: int(b - counts[n]) for n, b in module.named_buffers() if n in counts}
        assert {v for n, v in seen.items() if ".refine." not in n} == {2}, "image and view"
        assert {v for n, v in seen.items() if ".refine." in n} == {1}, "a view needs no classes"

    def test_gate_has_a_rate_of_its_own(self) -> None:
        module = self.build(gate_lr_mult=10.0)
        groups = {group["name"]: group for group in module.parameter_groups()}
        assert [p is module.measurement.gamma for p in groups["gate"]["params"]] == [True]
        assert groups["gate"]["lr"] == pytest.approx(1e-2)
        assert sum(len(g["params"]) for g in groups.values()) == len(list(module.parameters()))
        assert "gate" not in {group["name"] for group in self.build().parameter_groups()}

    def test_grids_that_are_made_smaller_learn_too(self, recorded) -> None:
        losses = {}
        for options in ({"shrink_factor": 2}, {"max_cells": 20}):
            module = self.build(**options)
            module.measurement.gamma.data.fill_(0.5)
            assert module.walk_through(make_batch()["image"]).shrink > 1
            self.step(module, make_batch(height=49, width=61)).backward()
            assert module.measurement.query.weight.grad.abs().sum() > 0
            (name,) = options
            losses[name] = loss_values(module)
        recorded(losses)

    def test_without_a_walk_it_is_the_partial_cross_entropy(self) -> None:
        options = {"stage": "certainty", "walk": False, "entropy_weight": 0.0}
        module = self.build(**options, entropy_boundaries=False, arch="unet")
        assert module.measurement is None
        loss = self.step(module)
        assert set(module.loss_terms) == {"pce"}
        plain = RegularizedModule(
            4, arch="unet", encoder=module.hparams["encoder"], encoder_weights=None
        ).train()
        plain.load_state_dict(module.state_dict(), strict=True)
        plain.log = plain.log_dict = lambda *_, **__: None
        assert torch.equal(plain.training_step(make_batch(), 0), loss)

    def test_padding_to_whole_cells_is_cropped_and_exact_sizes_are_not_padded(self) -> None:
        module = self.build()
        assert module.network.padded_size(57, 65) == (57, 65)
        assert module.network.padded_size(58, 64) == (65, 65)
        features = module.walk_through(torch.zeros(1, 3, 57, 65)).plain
        assert features.shape[2:] == (8, 9)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"stage": "first"}, "stage='first'"),
            ({"loss_preset": "joint"}, "loss_preset='joint'"),
            ({"entropy_weight": -1.0}, "entropy_weight=-1.0"),
            ({"consistency_weight": float("nan")}, "consistency_weight=nan"),
            ({"consistency_start": 1.0}, "consistency_start=1.0"),
            ({"shift": 1.5}, "shift=1.5"),
            ({"consistency_axis": "row"}, "consistency_axis='row'"),
            ({"consistency_feature": "p"}, "consistency_feature='p'"),
            ({"consistency_transform": "rotation"}, "consistency_transform='rotation'"),
            ({"walk": False}, "without a walk"),
            ({"walk": "false"}, "without quotes"),
            ({"max_cells": 0}, "max_cells=0"),
            ({"query_reduction": 64}, "only 32 channels"),
            ({"gate_lr_mult": 0.0}, "gate_lr_mult=0.0"),
            ({"entropy_weight": 0.0}, "superpixels would not be used"),
            ({"view_seed": -1}, "view_seed=-1"),
        ],
    )
    def test_options_are_checked(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(**options)


class TestRetrainStage(MethodContract):
    module_class = CC4SModule
    kwargs: ClassVar[dict[str, Any]] = {"stage": "retrain", "arch": "fpn", "lr": 1e-3}

    def step(self, module: CC4SModule, batch: GuardedBatch | None = None) -> torch.Tensor:
        batch = superpixel_graph(make_batch() if batch is None else batch)
        return module.training_step(module.on_before_batch_transfer(batch, 0), 0)

    def test_pseudo_labels_replace_the_scribbles(self) -> None:
        first, other = make_batch(), make_batch()
        other["scribble"] = torch.full_like(other["scribble"], 255)
        losses = [self.step(self.build(), batch) for batch in (first, other)]
        assert torch.equal(*losses)
        other["pseudo_label"] = torch.full_like(other["pseudo_label"], 255)
        module = self.build()
        self.step(module, other).backward()
        assert module.loss_terms["pce"] == 0
        assert first["scribble"].min() < 255, "the batch is left alone"

    def test_presets(self) -> None:
        terms = {}
        for preset in ("library", "reference", "paper"):
            module = self.build(loss_preset=preset, consistency_start=0.0)
            self.step(module)
            terms[preset] = module.loss_terms
        assert "colour" in terms["library"]
        assert "colour" not in terms["reference"]
        assert torch.equal(terms["library"]["consistency"], terms["reference"]["consistency"])
        assert not torch.equal(terms["library"]["consistency"], terms["paper"]["consistency"])
        assert (
            self.build(loss_preset="reference", colour_weight=0.5).options["colour_weight"] == 0.5
        )

    def test_colour_term_is_the_dense_laplacian(self) -> None:
        batch = superpixel_graph(make_batch(height=40, width=32))
        batch["superpixel"][1, :8, :8] = -1  # a superpixel that is not in the crop
        module = self.build().eval()
        module.training_step(batch, 0)
        with torch.no_grad():
            probs = module(batch["image"]).softmax(1)
        total = 0.0
        for b in range(2):
            ids, own = batch["superpixel"][b], batch["superpixel_image"] == b
            count = int(ids.max()) + 1
            means = torch.stack(
                [
                    probs[b][:, ids == s].mean(1) if (ids == s).any() else torch.full((4,), 9.0)
                    for s in range(count)
                ],
                dim=1,
            )
            weights = torch.zeros(count, count)
            for (s, t), w in zip(
                batch["superpixel_edges"][own], batch["superpixel_weights"][own], strict=True
            ):
                if (ids == s).any() and (ids == t).any():
                    weights[s, t] = weights[t, s] = w
            laplacian = torch.diag(weights.sum(0)) - weights
            total += float(2 / weights.norm() * torch.trace(means @ laplacian @ means.T)) / 2
        assert module.loss_terms["colour"].item() == pytest.approx(total, rel=1e-4)

    def test_counted_on_the_host_or_in_the_step_is_the_same(self) -> None:
        batch = superpixel_graph(make_batch())
        counted = self.build().on_before_batch_transfer(batch, 0)
        assert counted["superpixel_count"] == 64
        losses = [self.build().training_step(b, 0) for b in (batch, counted)]
        assert torch.equal(*losses)
        assert "superpixel_count" not in batch
        unused = self.build(colour_weight=0.0)
        assert unused.on_before_batch_transfer(batch, 0) is batch

    def test_images_without_edges(self, recorded) -> None:
        batch = superpixel_graph(make_batch())
        for name in ("edges", "weights", "image"):
            batch[f"superpixel_{name}"] = batch[f"superpixel_{name}"][:0]
        module = self.build()
        self.step(module).backward()
        loss = module.training_step(module.on_before_batch_transfer(batch, 0), 0)
        loss.backward()
        assert module.loss_terms["colour"] == 0
        assert torch.isfinite(loss)
        recorded(loss_values(module))


def test_every_class_is_exported() -> None:
    assert scribbleseg.CC4SModule is CC4SModule


class TestStart:
    def build(self, seed: int, **options: Any) -> CC4SModule:
        torch.manual_seed(seed)
        given = {**SMALL, "encoder": "tu-test_resnet.r160_in1k", "encoder_weights": None, **options}
        module = CC4SModule(3, **given)
        module.data_info = DataInfo(("background", "cat", "dog"), source="Folder")
        return module

    def save(self, module: torch.nn.Module, path) -> str:
        trainer = quiet_trainer()
        trainer.strategy.connect(module)
        trainer.save_checkpoint(path)
        return str(path)

    def test_the_next_stage_starts_from_these_weights(self, tmp_path) -> None:
        first, second = self.build(0), self.build(1, stage="consistency")
        first.measurement.gamma.data.fill_(0.4)
        load_start(second, self.save(first, tmp_path / "a.ckpt"))
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name

    def test_a_walk_is_added_to_a_network_without(self, tmp_path, caplog) -> None:
        first, second = self.build(0, walk=False, stage="certainty"), self.build(1)
        with caplog.at_level(logging.INFO, logger="scribbleseg"):
            load_start(second, self.save(first, tmp_path / "a.ckpt"))
        assert "it has no measurement" in caplog.text
        image = torch.randn(1, 3, 41, 41)
        with torch.no_grad():
            assert torch.equal(first.eval()(image), second.eval()(image)), "the gate is closed"

    def test_what_does_not_fit_is_named(self, tmp_path) -> None:
        path = self.save(self.build(0), tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError, match=r"do not fit.*arch=cc4s.*arch=unet"):
            load_start(self.build(1, arch="unet"), path)
        other = self.build(1)
        other.data_info = DataInfo(("background", "cat", "cow"), source="Folder")
        with pytest.raises(CheckpointError, match="start from a checkpoint of the same classes"):
            load_start(other, path)
        with pytest.raises(CheckpointError, match="does not exist"):
            load_start(other, str(tmp_path / "b.ckpt"))
        torch.save({"state_dict": {}}, tmp_path / "c.ckpt")
        with pytest.raises(CheckpointError, match="not written by scribbleseg"):
            load_start(other, str(tmp_path / "c.ckpt"))


def consistency_inputs(size=(4, 5), seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, *size, generator=generator, dtype=torch.float64) for _ in range(4)]


class TestEigenspaceConsistency:
    @pytest.mark.parametrize("axis", ["key", "query"])
    @pytest.mark.parametrize("chunk_size", [None, 1, 7, 20, 99])
    def test_factors_are_whole_matrices(self, axis: str, chunk_size: int | None) -> None:
        results = []
        for dense in (True, False):
            q, k, qv, kv = (x.clone().requires_grad_() for x in consistency_inputs())
            if dense:
                terms = eigenspace_consistency_from_logits(
                    transition_logits(q, k), transition_logits(qv, kv), axis=axis
                )
            else:
                terms = eigenspace_consistency(q, k, qv, kv, axis=axis, chunk_size=chunk_size)
            grads = torch.autograd.grad(terms.loss(0.3), (q, k))
            results.append((*terms, *grads))
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)

    def test_gradient(self) -> None:
        q, k, qv, kv = consistency_inputs((2, 3))
        assert torch.autograd.gradcheck(
            lambda a, b: eigenspace_consistency(a, b, qv, kv, chunk_size=4).loss(0.5),
            (q.requires_grad_(), k.requires_grad_()),
        )

    def test_axes_are_transposes(self) -> None:
        q, k, qv, kv = consistency_inputs()
        by_key = eigenspace_consistency(q, k, qv, kv, axis="key")
        by_query = eigenspace_consistency(k, q, kv, qv, axis="query")
        for one, other in zip(by_key, by_query, strict=True):
            torch.testing.assert_close(one, other)

    def test_equal_walks_agree_and_the_view_gets_no_gradient(self) -> None:
        q, k, qv, kv = (x.requires_grad_() for x in consistency_inputs())
        terms = eigenspace_consistency(q, k, q, k)
        assert terms.kl.abs() < 1e-12
        assert terms.trace_gap == 0
        matrix = transition_logits(q, k).softmax(dim=1)
        torch.testing.assert_close(terms.trace, matrix.diagonal(dim1=1, dim2=2).sum(1).mean())
        eigenspace_consistency(q, k, qv, kv).loss().backward()
        assert qv.grad is None
        assert kv.grad is None

    def test_order_of_the_cells_and_offsets_do_not_matter(self) -> None:
        inputs = consistency_inputs()
        order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
        shuffled = [x.flatten(2)[..., order].view_as(x) for x in inputs]
        first, other = (eigenspace_consistency(*x, chunk_size=6).loss() for x in (inputs, shuffled))
        torch.testing.assert_close(first, other)
        # a constant added to a column of logits: to all queries along one key
        q, k, qv, kv = inputs
        moved = eigenspace_consistency(q + 5, k, qv, kv)
        torch.testing.assert_close(moved.loss(), first)

    def test_sharp_walks_stay_finite(self, recorded) -> None:
        q, k, qv, kv = (100 * x.float() for x in consistency_inputs())
        q.requires_grad_()
        loss = eigenspace_consistency(q, k, qv, kv).loss()
        loss.backward()
        assert torch.isfinite(loss)
        assert q.grad.isfinite().all()
        recorded({"loss": loss.item(), "gradient": q.grad.norm().item()})

    def test_half_precision(self) -> None:
        inputs = consistency_inputs()
        half = [x.to(torch.bfloat16).requires_grad_() for x in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            loss = eigenspace_consistency(*half).loss()
        assert loss.dtype == torch.float32
        exact = eigenspace_consistency(*(x.detach().double() for x in half)).loss()
        torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-7)
        loss.backward()
        assert half[0].grad.dtype == torch.bfloat16

    def test_bad_input(self) -> None:
        q, k, qv, kv = consistency_inputs()
        with pytest.raises(ValueError, match="align the view"):
            eigenspace_consistency(q, k, qv[..., :2], kv[..., :2])
        with pytest.raises(ValueError, match="axis"):
            eigenspace_consistency(q, k, qv, kv, axis="row")
        with pytest.raises(ValueError, match="chunk_size"):
            eigenspace_consistency(q, k, qv, kv, chunk_size=0)
        with pytest.raises(ValueError, match="align the view"):
            eigenspace_consistency_from_logits(torch.zeros(1, 4, 4), torch.zeros(1, 3, 3))
        with pytest.raises(ValueError, match="differ"):
            feature_consistency_loss(q, k[..., :2])


def views(size: tuple[int, int], lattice: Lattice):
    yield HorizontalFlipView(size, lattice)
    for last in (False, True):
        for axis in ("vertical", "horizontal"):
            yield TranslationView(size, 2 * lattice.stride, last=last, axis=axis)


@pytest.mark.parametrize("lattice", [Lattice(1), Lattice(4), Lattice(4, 1), Lattice(8, 1)])
@pytest.mark.parametrize("size", [(33, 41), (35, 46), (40, 40)])
def test_aligned_cells_of_a_view_show_what_those_of_the_image_show(lattice, size) -> None:
    image = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))

    def cells(x: torch.Tensor) -> torch.Tensor:
        """Means of tiles, or points: both are exact under flips and shifts by whole cells."""
        if lattice.overlap:
            return x[..., :: lattice.stride, :: lattice.stride]
        return F.avg_pool2d(x, lattice.stride, ceil_mode=True)

    for view in views(size, lattice):
        own = view.crop_reference(cells(image), lattice)
        seen = view.align_view(cells(view.apply(image)), lattice)
        torch.testing.assert_close(own, seen)
        assert own.shape[2] > 1
        assert own.shape[3] > 1


def test_drawn_views_are_of_all_kinds_and_the_released_size() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [
        random_view("random", (465, 465), Lattice(8, 1), generator=generator) for _ in range(400)
    ]
    flips = sum(isinstance(view, HorizontalFlipView) for view in drawn)
    moved = [view for view in drawn if isinstance(view, TranslationView)]
    assert 150 < flips < 250
    assert 60 < sum(view.last for view in moved) < 140
    assert {view.offset for view in moved} == {80}
    assert moved[0].apply(torch.zeros(1, 1, 465, 465)).shape[2:] == (385, 465)
    assert moved[0].align_view(torch.zeros(1, 1, 49, 59), Lattice(8, 1)).shape[2:] == (49, 59)
    low = random_view("translation", (4, 40), Lattice(8), generator=generator)
    assert isinstance(low, HorizontalFlipView), "nothing could be left out of one row"


def test_certainty_weight_is_the_complement_of_the_boundaries() -> None:
    generator = np.random.default_rng(0)
    regions = np.repeat(np.repeat(generator.integers(-1, 5, (2, 5, 6)), 3, 1), 4, 2)
    found = certainty_weight(torch.from_numpy(regions))
    expected = np.stack([~region_boundaries(r) for r in regions])
    assert (found.numpy() == expected).all()
    valid = torch.zeros(found.shape, dtype=torch.bool)
    valid[:, 3:9] = True
    assert torch.equal(certainty_weight(torch.from_numpy(regions), valid), found * valid)
    assert certainty_weight(torch.zeros(1, 3, 3, dtype=torch.int32)).all(), "one superpixel"
    with pytest.raises(ValueError, match="regions"):
        certainty_weight(torch.zeros(3, 3))


class TestPictures:
    def module(self, **options: Any) -> CC4SModule:
        torch.manual_seed(0)
        given = {**SMALL, "encoder": "tu-test_resnet.r160_in1k", "encoder_weights": None, **options}
        module = CC4SModule(3, **given).train()
        module.data_info = DataInfo(("background", "cat", "dog"))
        return module

    def image(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (57, 73, 3), dtype=np.uint8)

    def test_walk_of_a_pixel_that_gathers_from_one_place(self) -> None:
        module = self.module()
        # queries are alike everywhere; the key of one cell is large
        query, key = torch.ones(1, 4, 8, 10), torch.zeros(1, 4, 8, 10)
        key[..., 2, 7] = 3.0
        module.measurement.factors = lambda *_: (query, key)
        picture = walk_column(module, self.image(), (40, 10), tile_height=57)
        assert picture.shape[1] == 3 * (73 + 4)
        tiles = [picture[26:83, 77 * n : 77 * n + 73].astype(int) for n in range(3)]
        red = tiles[1][..., 0] - tiles[1][..., 1]
        assert np.unravel_index((red * (tiles[1][..., 0] > 240)).argmax(), red.shape) == (16, 56)
        assert (tiles[2][..., 0] < 128 + 60).all(), "its features go to all cells alike"
        assert module.training
        with pytest.raises(ValueError, match="outside"):
            walk_column(module, self.image(), (57, 0))

    def test_eigenvalues_sum_to_the_trace(self) -> None:
        module = self.module().eval()
        image = torch.randn(1, 3, 57, 73)
        values = transition_eigenvalues(module, image)
        query, key = module.measurement.factors(module.walk_through(image).plain)
        matrix = transition_logits(query, key)[0].softmax(dim=1)
        assert len(values) == 80
        assert values[0].real.item() == pytest.approx(1.0)
        assert values.sum().real.item() == pytest.approx(matrix.trace().item(), rel=1e-4)
        assert eigenvalue_trace(module, self.image()).shape == (300, 420, 3)
        assert len(transition_eigenvalues(self.module(max_cells=None), torch.zeros(1, 3, 329, 329)))

    def test_certainty_is_dark_where_classes_tie(self) -> None:
        module = self.module()
        logits = torch.zeros(1, 3, 57, 73)
        logits[:, 1, :, 40:] = 30
        module.forward = lambda _: logits
        regions = np.zeros((57, 73), np.int32)
        regions[28:] = 1
        picture = certainty_map(module, self.image(), regions=regions, tile_height=57)
        tile = picture[26:83, 154:227].astype(int).sum(2)
        assert tile[5, 60] > 2 * tile[5, 20]
        assert (tile[27:29] == 0).all()

    def test_without_a_walk_there_is_nothing_to_show(self) -> None:
        module = self.module(walk=False, stage="certainty")
        with pytest.raises(ConfigError, match="walk=False"):
            walk_column(module, self.image(), (0, 0))
        certainty_map(module, self.image())
