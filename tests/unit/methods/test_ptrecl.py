from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.contract import TINY_ENCODER, MethodContract, make_batch

from scribbleseg import CheckpointError, ConfigError, DataInfo, InferenceConfig
from scribbleseg.functional import cluster_set
from scribbleseg.methods import (
    PrototypePairs,
    PtReClModule,
    ReclassifiedMaps,
    conditioned_cross_entropy,
    label_by_margin,
    label_conditioning_mask,
    margin_panel,
    reclassify_masks,
)


class TestPtReCl(MethodContract):
    module_class = PtReClModule
    kwargs: ClassVar[dict[str, Any]] = {"arch": "unet", "num_prototypes": 3, "top_m": (1, 2)}

    def with_prototypes(self, **options: Any) -> PtReClModule:
        """A module of random prototypes."""
        module = self.build(**options).eval()
        bank, generator = module.prototypes, torch.Generator().manual_seed(1)
        for name in ("foreground", "background"):
            random = torch.randn(getattr(bank, name).shape, generator=generator)
            getattr(bank, name).copy_(F.normalize(random, dim=2))
            getattr(bank, f"num_{name}").fill_(3)
        return module

    def test_absent_classes_take_no_part_in_the_loss(self) -> None:
        module, batch = self.build().eval(), make_batch()
        batch["class_labels"] = torch.tensor([[1.0, 1, 0, 0], [1.0, 0, 1, 0]])
        module.training_step(batch, 0)
        own = module.loss_terms["masks"]
        other = type(batch)({**batch, "pseudo_label": batch["pseudo_label"].clone()})
        labels = other["pseudo_label"]
        labels[0][labels[0] == 3], labels[1][labels[1] == 1] = 2, 3
        module.training_step(other, 0)
        assert own == module.loss_terms["masks"]
        plain = self.build(label_conditioning="none").eval()
        plain.training_step(batch, 0)
        assert plain.loss_terms["masks"] > own

    def test_gate_trains_and_validation_knows_no_tags(self) -> None:
        module, batch = self.build(label_conditioning="gate"), make_batch()
        module.training_step(batch, 0).backward()
        assert module.gate.weight.grad.abs().sum() > 0
        module.eval()
        with torch.no_grad():
            features = module.network.decoder(module.network.encode(batch["image"]))
            every = module._classify(features, torch.ones(2, 4))
            full = module.upsample_logits(every, (64, 64))
        torch.testing.assert_close(full, module.predict_logits(batch["image"]))

    def test_images_without_tags_and_undecided_masks_are_exact_zeros(self) -> None:
        module, batch = self.build(), make_batch()
        batch["pseudo_label"] = torch.full_like(batch["pseudo_label"], 255)
        loss = self.step(module, batch)
        assert loss == 0
        loss.backward()
        module.data_info = DataInfo(("a", "b", "c", "d"), background=None)
        batch = make_batch()
        batch["class_labels"] = torch.zeros_like(batch["class_labels"])
        assert self.step(module, batch) == 0

    def test_agreement_with_the_masks_is_logged(self) -> None:
        module = self.build()
        self.step(module)
        assert 0 <= module.logged["train/agreement"] <= 1

    @pytest.mark.parametrize("flip", [False, True])
    def test_padding_displaces_nothing(self, flip: bool) -> None:
        """The margin of a bar lies on the bar, whatever size the network pads the image to."""
        module = self.build(
            arch="fpn", feature_level="decoder", inference=InferenceConfig((1.5,), flip)
        ).eval()
        module.cell_features = lambda image: F.avg_pool2d(
            F.pad(image, (0, -image.shape[3] % 32, 0, -image.shape[2] % 32)), 4
        )
        module._stride = 4
        for index in range(1, module.num_classes):
            module.prototypes.foreground[index, 0] = 0
            module.prototypes.foreground[index, 0, 0] = 1
            module.prototypes.background[index, 0] = 0
            module.prototypes.background[index, 0, 1] = 1
        module.prototypes.num_foreground[:] = module.prototypes.num_background[:] = 1
        dim = module.prototypes.foreground.shape[2]
        image = torch.zeros(1, dim, 96, 96)
        image[:, 1] = 1
        image[:, 0, :, 80:88], image[:, 1, :, 80:88] = 1, 0
        tags = torch.ones(1, module.num_classes)
        found = module.reclassified_maps(image, tags)
        columns = found.margin[0, 1].relu().sum(0)
        middle = (columns * torch.arange(96)).sum() / columns.sum()
        assert abs(float(middle) - 83.5) < 1
        columns = found.seeds[0, 1].sum(0)
        middle = (columns * (torch.arange(24) * 4 + 1.5)).sum() / columns.sum()
        assert abs(float(middle) - 83.5) < 1.5

    def test_reclassified_maps_of_mirrored_images_are_mirrored(self) -> None:
        config = InferenceConfig(scales=(1.0, 0.5), flip=True)
        module = self.with_prototypes(inference=config)
        image, tags = torch.randn(1, 3, 64, 64), torch.tensor([[1.0, 1, 0, 1]])
        with torch.no_grad():
            ours = module.reclassified_maps(image, tags)
            mirrored = module.reclassified_maps(image.flip(-1), tags)
        torch.testing.assert_close(mirrored.margin.flip(-1), ours.margin, atol=1e-5, rtol=1e-4)
        assert ours.seeds.shape == (1, 4, 16, 16)
        assert ours.margin.shape == (1, 4, 64, 64)
        assert (ours.margin[:, [0, 2]] == 0).all()
        labels = module.labels_of(ours.margin, tags)
        assert set(labels.unique().tolist()) <= {0, 1, 3}

    def test_modelled_background_competes(self) -> None:
        module = self.with_prototypes(model_background=True)
        tags = torch.tensor([[1.0, 1, 0, 0]])
        margin = torch.tensor([0.3, 0.2, 0.0, 0.0]).view(1, 4, 1, 1)
        assert module.labels_of(margin, tags).item() == 0
        assert module.labels_of(-margin, tags).item() == 1, "the better of two bad ones"
        plain = self.with_prototypes()
        assert plain.labels_of(-margin, tags).item() == 0
        plain.data_info = DataInfo(("a", "b", "c", "d"), background=None)
        assert plain.labels_of(-margin, tags).item() == 255

    @pytest.mark.parametrize(
        ("arch", "level", "stride"),
        [("unet", "encoder", 32), ("unet", "decoder", 1), ("deeplab_v2", "encoder", 32)],
    )
    def test_cells_cover_the_padded_image(self, arch: str, level: str, stride: int) -> None:
        module = self.build(arch=arch, feature_level=level).eval()
        assert module.cell_stride == stride
        with torch.no_grad():
            features = module.cell_features(torch.zeros(1, 3, 65, 70))
        assert features.shape[2:] == module.cell_grid((65, 70))
        assert features.shape[1] == module.prototypes.foreground.shape[2]

    def test_prototypes_are_kept_in_checkpoints_and_files(self, tmp_path) -> None:
        module, other = self.with_prototypes(), self.build()
        module.prototypes.save(tmp_path / "p.npz")
        other.prototypes.load(tmp_path / "p.npz")
        for name, value in module.prototypes.state_dict().items():
            assert torch.equal(value, other.prototypes.state_dict()[name])
        with pytest.raises(CheckpointError, match="num_prototypes"):
            self.build(num_prototypes=4).prototypes.load(tmp_path / "p.npz")
        with pytest.raises(CheckpointError, match="cannot be read"):
            other.prototypes.load(tmp_path / "missing.npz")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"label_conditioning": "soft"}, "label_conditioning='soft'"),
            ({"vote": "all"}, "vote='all'"),
            ({"top_m": 0}, "top_m"),
            ({"top_m": ()}, "at least one"),
            ({"num_prototypes": 0}, "num_prototypes=0"),
            ({"threshold": "best"}, "threshold='best'"),
            ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
            ({"balance": "yes"}, "without quotes"),
            ({"arch": "aspp_v2", "encoder": "resnet18"}, "points, not at cells"),
        ],
    )
    def test_options_are_checked(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(**options)

    def test_maps_need_prototypes_and_whole_images(self) -> None:
        image, tags = torch.zeros(1, 3, 64, 64), torch.ones(1, 4)
        with pytest.raises(ConfigError, match="no prototypes"):
            self.build().reclassified_maps(image, tags)
        module = self.with_prototypes(inference=InferenceConfig(window=64))
        with pytest.raises(ConfigError, match="window=64"):
            module.reclassified_maps(image, tags)


class TestConditionedCrossEntropy:
    def inputs(self) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
        target = torch.randint(0, 4, (2, 3, 5), generator=generator)
        target[0, 0] = 255
        return logits, target, label_conditioning_mask(torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]]))

    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    def test_gradients(self, smoothing: float) -> None:
        logits, target, allowed = self.inputs()
        assert torch.autograd.gradcheck(
            lambda x: conditioned_cross_entropy(x, target, allowed, label_smoothing=smoothing),
            (logits.requires_grad_(),),
        )

    def test_without_conditioning_it_is_the_usual_one(self) -> None:
        logits, target, allowed = self.inputs()
        every = torch.ones_like(allowed)
        for smoothing in (0.0, 0.4):
            ours = conditioned_cross_entropy(
                logits, target, every, balance=False, label_smoothing=smoothing
            )
            usual = F.cross_entropy(logits, target, ignore_index=255, label_smoothing=smoothing)
            torch.testing.assert_close(ours, usual)

    def test_shifts_of_logits_and_absent_logits_do_not_matter(self) -> None:
        logits, target, allowed = self.inputs()
        loss = conditioned_cross_entropy(logits, target, allowed)
        moved = logits + 3
        moved[~allowed] = 99.0
        torch.testing.assert_close(conditioned_cross_entropy(moved, target, allowed), loss)

    def test_shapes_are_checked(self) -> None:
        logits, target, allowed = self.inputs()
        with pytest.raises(ValueError, match="disagree"):
            conditioned_cross_entropy(logits, target[:, 1:], allowed)


# ------------------------------------------------------- synthetic features of noisy masks


def mode_features(seed: int, modes: tuple[int, int], confusion: float):
    """Features of foreground and background in modes; a mask in which some modes are swapped."""
    rng = np.random.default_rng(seed)
    dim, count = 64, 6000

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    base = 0.7 * np.abs(rng.normal(size=dim))
    means, owner = [], []
    for polarity, (number, weight) in enumerate(zip(modes, (1.0, 0.5), strict=True)):
        shared = np.maximum(0, rng.normal(size=dim))
        raw = np.maximum(0, rng.normal(size=(number, dim))) + base + weight * shared
        means.append(unit(raw))
        owner += [polarity == 0] * number
    mode = rng.integers(0, sum(modes), count)
    means, owner = np.concatenate(means), np.array(owner)
    noise = 0.8 * rng.normal(size=(count, dim)) / np.sqrt(dim)
    x, truth = unit(np.maximum(0, means[mode] + noise)), owner[mode]
    mask = truth.copy()
    n_fg, n_bg = modes
    if confusion:
        wrong_bg = n_fg + rng.choice(n_bg, max(1, n_bg // 6), replace=False)
        wrong_fg = rng.choice(n_fg, max(1, n_fg // 4), replace=False)
        swapped = (np.isin(mode, wrong_bg) | np.isin(mode, wrong_fg)) & (
            rng.random(count) < 2 * confusion
        )
        mask[swapped] = ~mask[swapped]
    flipped = rng.random(count) < 0.05
    mask[flipped] = ~mask[flipped]
    tensors = (torch.from_numpy(a) for a in (x.astype(np.float32), truth, mask))
    return tuple(tensors)


def iou(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found & truth).sum() / (found | truth).sum())


ROWS = (((4, 20), 0.25), ((15, 30), 0.25), ((3, 12), 0.3))


def gains(modes: tuple[int, int], confusion: float, seed: int) -> dict[str, float]:
    """IoU above that of the noisy mask: at the best threshold, at 0, and at the automatic one."""
    x, truth, mask = mode_features(seed, modes, confusion)
    fit, score = slice(0, 4000), slice(4000, None)
    bank = PrototypePairs(1, k=20, dim=x.shape[1])
    sides = [x[fit][mask[fit]], x[fit][~mask[fit]]]
    bank.set_class(0, *(cluster_set(side, 20, redo=1, seed=seed) for side in sides))
    theta = bank.fit_threshold(0, *((side, torch.ones(len(side))) for side in sides))
    margin = bank.margin(x[score].T[None, :, :, None], torch.ones(1, 1))[0, 0, :, 0]
    before = iou(mask[score], truth[score])
    best = max(iou(margin > t, truth[score]) for t in margin.quantile(torch.linspace(0, 0.99, 97)))
    return {
        "best": best - before,
        "zero": iou(margin > 0, truth[score]) - before,
        "auto": iou(margin > theta, truth[score]) - before,
    }


@pytest.mark.parametrize(("modes", "confusion"), ROWS)
def test_many_prototypes_outvote_structured_noise(modes, confusion: float) -> None:
    found = [gains(modes, confusion, seed) for seed in range(5)]
    mean = {key: np.mean([one[key] for one in found]) for key in found[0]}
    assert mean["best"] >= 0.13, mean
    assert mean["auto"] >= 0.10, mean


def test_mean_gain_at_the_natural_threshold() -> None:
    found = [gains(*row, seed)["zero"] for row in ROWS for seed in range(5)]
    assert np.mean(found) >= 0.10, found


class TestPrototypes:
    def bank(self) -> tuple[PrototypePairs, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        bank = PrototypePairs(2, k=4, dim=8)
        for name in ("foreground", "background"):
            random = torch.randn(2, 4, 8, generator=generator)
            getattr(bank, name).copy_(F.normalize(random, dim=2))
            getattr(bank, f"num_{name}").copy_(torch.tensor([4, 2]))
        return bank, torch.randn(1, 8, 3, 3, generator=generator)

    def test_order_of_the_prototypes_does_not_matter(self) -> None:
        bank, features = self.bank()
        tags = torch.tensor([[1.0, 0.0]])
        before = bank.margin(features, tags, top_m=(1, 3))
        bank.foreground[0] = bank.foreground[0, [2, 0, 3, 1]].clone()
        torch.testing.assert_close(bank.margin(features, tags, top_m=(1, 3)), before)

    def test_all_prototypes_are_the_difference_of_mean_similarities(self) -> None:
        bank, features = self.bank()
        u = F.normalize(features, dim=1)
        own = torch.einsum("bdhw,ckd->bchw", u, bank.foreground)[:, :1] / 4
        around = torch.einsum("bdhw,ckd->bchw", u, bank.background)[:, :1] / 4
        found = bank.margin(features, torch.tensor([[1.0, 0.0]]), top_m=4)
        torch.testing.assert_close(found[:, :1], own - around)

    def test_a_class_without_foreground_has_no_prototypes(self) -> None:
        bank, features = self.bank()
        x = torch.randn(9, 8)
        facts = bank.set_class(1, cluster_set(x[:0], 4), cluster_set(x, 4))
        assert bank.num_background[1] == 0
        assert facts["overlap"] == 0
        assert (bank.margin(features, torch.ones(1, 2))[:, 1] == 0).all()
        bank.num_background[1] = 3  # as a file of others may say
        assert (bank.margin(features, torch.ones(1, 2))[:, 1] == 0).all()

    def test_equal_prototypes_and_contamination_are_reported(self) -> None:
        bank, _ = self.bank()
        twice = torch.eye(8)[[0, 0, 1]]
        facts = bank.set_class(0, cluster_set(twice, 4), cluster_set(torch.eye(8)[1:3], 4))
        assert facts["duplicates"] == 1
        assert facts["overlap"] == 1

    def test_ties_and_thresholds_of_each_class(self) -> None:
        margin = torch.tensor([[0.1, 0.5, 0.4], [0.1, 0.6, 0.2]]).view(2, 3, 1, 1)
        tags = torch.tensor([[0.0, 1, 1], [1.0, 1, 1]])
        found = label_by_margin(margin, tags, torch.tensor([0.0, 0.7, 0.0]))
        assert found.flatten().tolist() == [0, 0], "the best class, below its own threshold"


class TestReclassifyMasks:
    def images(self, count: int = 6):
        """Two classes and a background, whose features differ; masks with wrong corners."""
        generator = torch.Generator().manual_seed(0)
        truth = torch.zeros(count, 16, 16, dtype=torch.int64)
        truth[::2, 4:12, 4:12] = 1
        truth[1::2, 2:9, 6:14] = 2
        directions = torch.eye(3, 12)
        features = directions[truth].permute(0, 3, 1, 2)
        features = features + 0.1 * torch.randn(features.shape, generator=generator)
        masks = truth.clone()
        masks[::3, :5] = masks.amax(dim=(1, 2))[::3, None, None]
        tags = torch.stack([(truth == c).flatten(1).any(1) for c in range(3)], 1).float()
        return masks, features, tags, truth

    def test_wrong_regions_are_corrected(self) -> None:
        masks, features, tags, truth = self.images()
        options = {"num_prototypes": 4, "top_m": 2}
        cleaned = torch.stack(list(reclassify_masks(masks, features, tags, **options)))
        before, after = ((m == truth).float().mean() for m in (masks, cleaned))
        assert after > 0.99 > before
        again = list(reclassify_masks(masks, features.__getitem__, tags, **options))
        assert all(torch.equal(a, b) for a, b in zip(cleaned, again, strict=True))

    def test_scribbles_stay_and_help(self) -> None:
        masks, features, tags, truth = self.images()
        strokes = torch.full_like(truth, 255)
        strokes[:, 7, 6:9] = truth[:, 7, 6:9]
        odd = strokes.clone()
        odd[0, 0, 0] = 2
        cleaned = list(
            reclassify_masks(masks, features, tags, scribbles=odd, num_prototypes=3, top_m=1)
        )
        assert cleaned[0][0, 0] == 2, "drawn pixels stay, whatever the features say"
        assert (torch.stack(cleaned) == truth).float().mean() > 0.99

    def test_no_background_leaves_pixels_undecided(self) -> None:
        masks, features, tags, _ = self.images()
        found = next(
            reclassify_masks(
                masks, features, tags, background=None, num_prototypes=3, top_m=1, threshold=9.0
            )
        )
        assert (found == 255).all()


def test_picture_shows_the_margin_of_each_class() -> None:
    module = PtReClModule(3, arch="unet", encoder=TINY_ENCODER, encoder_weights=None)
    module.data_info = DataInfo(("ground", "cat", "dog"))
    margin = torch.zeros(1, 3, 32, 64)
    margin[0, 1, :, :32] = 0.2
    module.reclassified_maps = lambda *_: ReclassifiedMaps(margin[..., ::4, ::4], margin)
    image = np.full((32, 64, 3), 128, np.uint8)
    picture = margin_panel(module, image, [0, 1], tile_height=32)
    assert picture.shape == (26 + 36, 2 * 68, 3), "the image and one class"
    cat = picture[26:58, 68:132].astype(int)
    assert (cat[:, :24, 0] > cat[:, :24, 2]).all(), "red where the margin is largest"
    assert (cat[:, 40:, 2] > cat[:, 40:, 0]).all()
