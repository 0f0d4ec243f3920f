from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.contract import MethodContract, make_batch

from scribbleseg import ConfigError, DataInfo, InferenceConfig
from scribbleseg.functional import boundary_to_affinity
from scribbleseg.methods import (
    BoundaryHead,
    DisplacementHead,
    IRNModule,
    affinity_loss,
    affinity_targets,
    boundary_panel,
    centroid_clusters,
    displacement_loss,
    instance_labels,
    refine_centroids,
)


def clean(batch):
    """The batch with the true labels, a tenth of them unsure."""
    wrong = batch["pseudo_label"]
    blocks = wrong.unfold(1, 16, 16).unfold(2, 16, 16)  # a class each
    rows, columns = blocks.shape[1:3]
    truth = blocks.reshape(len(wrong), rows, columns, -1).mode(dim=-1).values
    truth = truth.repeat_interleave(16, 1).repeat_interleave(16, 2)
    size = wrong.shape[1:]
    truth = torch.nn.functional.pad(
        truth, (0, size[1] - truth.shape[2], 0, size[0] - truth.shape[1]), value=255
    )
    return type(batch)({**batch, "pseudo_label": truth})


class TestIRN(MethodContract):
    module_class = IRNModule
    kwargs: ClassVar[dict[str, Any]] = {"radius": 4}

    def step(self, module: IRNModule, batch=None) -> torch.Tensor:
        return module.training_step(clean(make_batch() if batch is None else batch), 0)

    def test_loss_falls_when_overfitting_one_batch(self) -> None:
        # two small heads on random maps that stay as they are: faster steps, and more of them
        module, batch = self.build(), make_batch()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        losses = []
        for _ in range(60):
            loss = self.step(module, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0], losses

    def test_displacement_is_an_addition_that_changes_nothing_else(self) -> None:
        alone, both = (
            self.build(encoder="resnet18"),
            self.build(encoder="resnet18", displacement=True),
        )
        assert alone.train_inputs == {"pseudo_label"}
        assert both.train_inputs == {"pseudo_label", "unaugmented_images"}
        self.step(alone)
        loss = self.step(both)
        assert torch.equal(alone.loss_terms["boundary"], both.loss_terms["boundary"])
        assert set(both.loss_terms) == {"boundary", "displacement"}
        loss.backward()
        assert all(p.grad is not None for p in both.displacement.parameters())
        groups = {group["name"]: group["lr"] for group in both.parameter_groups()}
        assert groups == {"head": 0.1, "displacement": 1.0}

    def test_the_encoder_stays_as_it_is(self) -> None:
        module = self.build()
        before = {k: v.clone() for k, v in module.network.encoder.state_dict().items()}
        assert not any(part.training for part in module.network.encoder.modules())
        loss = self.step(module)
        loss.backward()
        assert all(p.grad is None for p in module.network.encoder.parameters())
        assert all(
            torch.equal(before[k], v) for k, v in module.network.encoder.state_dict().items()
        )
        assert module.network.decoder.training

    def test_unsure_labels_alone_and_one_class_alone(self) -> None:
        module, batch = self.build(displacement=False), make_batch()
        batch["pseudo_label"] = torch.full_like(batch["pseudo_label"], 255)
        loss = module.training_step(batch, 0)
        assert loss == 0
        loss.backward()
        own = module.network.decoder.parameters()
        assert all((p.grad == 0).all() for p in own), "an exact zero with gradients"
        batch["pseudo_label"] = torch.zeros_like(batch["pseudo_label"])
        module.training_step(batch, 0)
        assert module.logged["train/affinity_different"] == 0
        assert module.logged["train/affinity_background"] > 0

    @pytest.mark.parametrize(("background", "first"), [(0, 0), (2, 0), (None, 1)])
    def test_the_background_of_the_data_is_the_background_of_the_pairs(
        self, background: int | None, first: int
    ) -> None:
        module = self.build()
        module.data_info = DataInfo(("a", "b", "c", "d"), background=background)
        labels = torch.full((1, 64, 64), 255)
        labels[:, :, :32] = 0 if background is None else background
        cells = module._cell_labels(labels)
        assert cells.shape == (1, 16, 16)
        assert cells[0, 0].tolist() == [first] * 8 + [-1] * 8

    def test_boundaries_of_a_mirrored_image_are_mirrored(self) -> None:
        module = self.build(inference=InferenceConfig(flip=True)).eval()
        image = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            ours, mirrored = module.boundaries(image), module.boundaries(image.flip(-1))
        assert ours.shape == (1, 16, 24)
        torch.testing.assert_close(mirrored.flip(-1), ours)

    def test_mean_displacement_is_taken_away_before_the_last_checkpoint(self) -> None:
        module = self.build(encoder="resnet18", displacement=True)
        images = torch.randn(3, 3, 64, 64)
        module.unaugmented_images = lambda: [{"image": images[:2]}, {"image": images[2:]}]
        module.on_train_epoch_end()
        assert module.training
        assert module.displacement.mean_shift.training
        head = module.eval().displacement
        with torch.no_grad():
            plain = (
                head(module.network.encode(images)) + head.mean_shift.running_mean[:, None, None]
            )
        means = [plain[:2].mean(dim=(0, 2, 3)), plain[2:].mean(dim=(0, 2, 3))]
        torch.testing.assert_close(
            head.mean_shift.running_mean, torch.stack(means).mean(0), atol=1e-6, rtol=1e-4
        )
        found = module.displacements(images[:1])
        assert found.shape == (1, 2, 16, 16)
        assert module.instance_labels(images[:1], torch.ones(64, 64).long()).shape == (64, 64)

    def test_validation_scores_pairs_of_the_masks(self) -> None:
        module = self.build().eval()
        wall = torch.zeros(1, 16, 16)
        wall[:, :, 8] = 1.0
        module.boundaries = lambda _: wall
        mask = torch.zeros(1, 64, 64, dtype=torch.int64)
        mask[:, :, 34:] = 3
        batch = {
            "image": torch.zeros(1, 3, 64, 64),
            "mask": mask,
            "input_size": torch.tensor([[64, 64]]),
            "orig_size": torch.tensor([[64, 64]]),
            "image_id": ["a"],
        }
        module.on_validation_epoch_start()
        result = module.validation_step(batch, 0)
        module._log_scores("val")
        assert module.logged["val/affinity_separated"] == 0
        assert module.logged["val/affinity_joined"] > 0.7
        assert (result["prediction"][0] == 255).any()
        assert set(result["prediction"][0].unique().tolist()) == {0, 255}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"arch": "unet"}, "arch='unet'"),
            ({"radius": 1}, "radius=1"),
            ({"radius": 65}, "radius=65"),
            ({"displacement": "yes"}, "without quotes"),
            ({"boundary_threshold": 1.0}, "boundary_threshold=1.0"),
            ({"displacement": True, "encoder": "mit_b0"}, "five maps"),
        ],
    )
    def test_options_are_checked(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(**options)

    def test_crops_without_a_pair_and_windows_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="crop_size"):
            self.build(radius=10).training_step(make_batch(), 0)
        batch = make_batch(height=32, width=32)  # 8 by 8 cells
        assert self.build(radius=4).training_step(batch, 0) > 0
        with pytest.raises(ConfigError, match="at least 20 rows and 36 columns"):
            self.build(radius=5).training_step(batch, 0)
        module = self.build(inference=InferenceConfig(scales=(1.0, 2.0))).eval()
        with pytest.raises(ConfigError, match="one scale"):
            module.boundaries(torch.zeros(1, 3, 64, 64))
        with pytest.raises(ConfigError, match="displacement=False"):
            module.displacements(torch.zeros(1, 3, 64, 64))


class TestLosses:
    def inputs(self) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, 12, 12, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 3, (2, 12, 12), generator=generator)
        return (logits, *affinity_targets(labels, radius=3))

    def test_gradients(self) -> None:
        logits, *pairs = self.inputs()
        logits = logits.requires_grad_()

        def loss(x: torch.Tensor) -> torch.Tensor:
            return affinity_loss(boundary_to_affinity(x.sigmoid(), radius=3), *pairs).loss()

        assert torch.autograd.gradcheck(loss, (logits,))
        field = torch.randn(2, 2, *pairs[0].shape[1:], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda x: displacement_loss(x, pairs[0], pairs[1], radius=3).loss(), (field,)
        )

    def test_unsure_pairs_do_not_matter(self) -> None:
        logits, *pairs = self.inputs()
        affinity = boundary_to_affinity(logits.sigmoid(), radius=3)
        nowhere = ~(pairs[0] | pairs[1] | pairs[2])
        pairs[2] = pairs[2].clone()
        pairs[2][0] = False
        nowhere = ~(pairs[0] | pairs[1] | pairs[2])
        changed = affinity.masked_fill(nowhere, 0.123)
        assert affinity_loss(affinity, *pairs).loss() == affinity_loss(changed, *pairs).loss()

    def test_16_bits_have_no_infinite_logarithm(self) -> None:
        ones = torch.ones(1, 4, 4, dtype=torch.bfloat16)
        pairs = [torch.ones(1, 4, 4, dtype=torch.bool)] * 3
        assert all(term.isfinite() for term in affinity_loss(ones, *pairs))

    def test_shapes_are_checked(self) -> None:
        logits, *pairs = self.inputs()
        with pytest.raises(ValueError, match="disagree"):
            affinity_loss(logits[:, None], *pairs)
        with pytest.raises(ValueError, match="same radius"):
            displacement_loss(torch.zeros(2, 2, 3, 4), *pairs[:2], radius=3)


def test_groups_of_the_normalisation_are_those_published() -> None:
    def groups(head: torch.nn.Module) -> list[tuple[int, int]]:
        norms = [part for part in head.modules() if isinstance(part, torch.nn.GroupNorm)]
        return sorted((norm.num_channels, norm.num_groups) for norm in norms)

    maps = (3, 64, 64, 128, 256, 512)  # of a ResNet-18
    assert groups(BoundaryHead(maps)) == [(32, 4)] * 5
    wide = [(256, 16)] * 5  # three branches, and both that join them
    assert groups(DisplacementHead(maps)) == [(64, 8), (128, 16), *wide]


def test_cells_that_point_at_one_place_are_one_object() -> None:
    field = torch.zeros(2, 12, 20)
    for centre in (4, 15):
        columns = slice(0, 10) if centre == 4 else slice(10, 20)
        field[0, :, columns] = (6 - torch.arange(12))[:, None]
        field[1, :, columns] = centre - torch.arange(20)[columns]
    centroids = refine_centroids(field, iterations=100)
    assert set(centroids[1].unique().tolist()) == {4, 15}
    clusters = centroid_clusters(field, centroids)
    labels = torch.ones(12, 20, dtype=torch.int64)
    labels[0] = 0
    numbers = instance_labels(labels, clusters)
    assert numbers[0].eq(0).all()
    assert numbers.max() == 2
    assert numbers[5, 3] != numbers[5, 16]
    tiny = torch.zeros_like(labels)
    tiny[0, 0] = 1
    assert (instance_labels(tiny, clusters) == 0).all()


def test_picture_shows_boundaries_and_displacements() -> None:
    module = IRNModule(3, encoder="resnet18", encoder_weights=None, displacement=True)
    wall = torch.zeros(1, 8, 16)
    wall[:, :, 8:] = 1.0
    module.boundaries = lambda _: wall
    image = np.full((32, 64, 3), 128, np.uint8)
    picture = boundary_panel(module, image, tile_height=32)
    assert picture.shape == (26 + 36, 3 * 68, 3), "image, boundary, displacement"
    shown = picture[26:58, 68:132].astype(int)
    assert (shown[:, 40:, 0] > shown[:, 40:, 2]).all(), "red where there is one"
    assert (shown[:, :24, 2] > shown[:, :24, 0]).all(), "blue where there is none"
    assert module.training
    assert not module.network.encoder.training
