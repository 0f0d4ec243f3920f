"""What every method must do; a method's test class inherits these tests."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import seed_everything

import scribbleseg
from scribbleseg import read_checkpoint
from scribbleseg.methods import ScribbleSegModule

TINY_ENCODER = "tu-test_resnet.r160_in1k"


class GuardedBatch(dict):
    """A batch that fails the test when dense ground truth is asked for."""

    def __getitem__(self, key: str) -> Any:
        assert key != "mask", "training must not read the dense mask"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        assert key != "mask", "training must not read the dense mask"
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        assert key != "mask", "training must not look for a dense mask"
        return super().__contains__(key)


def make_batch(
    *, size: int = 2, height: int = 64, width: int = 64, classes: int = 4, seed: int = 0
) -> GuardedBatch:
    """A training batch whose image shows the class, with 10 % of the pixels drawn.

    It also holds what only some methods ask for: superpixels (blocks of 8×8), pseudo-labels (a
    tenth of them wrong, a tenth left out) and distance maps. See :func:`superpixel_graph`.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, classes, (size, 1, 4, 4), generator=generator).float()
    truth = torch.nn.functional.interpolate(blocks, (height, width))[:, 0].long()
    colours = torch.randn(classes, 3, generator=generator)
    image = colours[truth].permute(0, 3, 1, 2)
    image = image + 0.1 * torch.randn(image.shape, generator=generator)
    drawn = torch.rand(size, height, width, generator=generator) < 0.1
    scribble = truth.masked_fill(~drawn, 255)
    tags = torch.stack([(scribble == c).flatten(1).any(1).float() for c in range(classes)], dim=1)
    raw = ((image - image.min()) / (image.max() - image.min()) * 255).to(torch.uint8)
    noise = torch.rand(truth.shape, generator=generator)
    wrong = (truth + 1) % classes
    pseudo = torch.where(noise < 0.1, wrong, truth).masked_fill(noise > 0.9, 255)
    rows, columns = torch.arange(height) // 8, torch.arange(width) // 8
    regions = rows[:, None] * (int(columns[-1]) + 1) + columns
    distances = torch.randint(0, 256, (2, *truth.shape), generator=generator, dtype=torch.uint8)
    return GuardedBatch(
        superpixel=regions.int().expand(truth.shape).clone(),
        pseudo_label=pseudo,
        scribble_distance=distances[0],
        pseudo_distance=distances[1],
        image=image,
        image_raw=raw,
        image_id=[f"image_{index}" for index in range(size)],
        index=torch.arange(size),
        scribble=scribble,
        valid=torch.ones(size, height, width, dtype=torch.bool),
        class_labels=tags,
    )


def superpixel_graph(batch: GuardedBatch) -> GuardedBatch:
    """The batch with the edges between its superpixels, weighted at random."""
    edges, weights, images = [], [], []
    for image, regions in enumerate(batch["superpixel"].long()):
        pairs = [
            torch.stack([regions[:, :-1].flatten(), regions[:, 1:].flatten()], 1),
            torch.stack([regions[:-1].flatten(), regions[1:].flatten()], 1),
        ]
        own = torch.cat(pairs).sort(1).values.unique(dim=0)
        own = own[own[:, 0] != own[:, 1]]
        seed = int(batch["index"][image])
        edges.append(own)
        weights.append(torch.rand(len(own), generator=torch.Generator().manual_seed(seed)))
        images.append(torch.full((len(own),), image))
    graph = {
        "superpixel_edges": torch.cat(edges),
        "superpixel_weights": torch.cat(weights),
        "superpixel_image": torch.cat(images),
    }
    return GuardedBatch({**batch, **graph})


class _Trainerless:
    """Stands in for ``self.log`` when no trainer is attached."""

    def __init__(self, module: ScribbleSegModule) -> None:
        self.values: dict[str, Any] = {}
        module.log = lambda name, value, **_: self.values.__setitem__(name, value)
        module.log_dict = lambda values, **_: self.values.update(values)


def part_of(name: str) -> str:
    """Part of a module that a parameter belongs to: ``network.encoder``, ``augmenter``."""
    return ".".join(name.split(".")[: 2 if name.startswith("network.") else 1])


def gradient_norms(module: torch.nn.Module) -> dict[str, float]:
    """Norm of the gradient of each part of a module; parts without any are left out."""
    squares: dict[str, float] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            square = parameter.grad.double().square().sum().item()
            squares[part_of(name)] = squares.get(part_of(name), 0.0) + square
    return {part: square**0.5 for part, square in squares.items()}


def loss_values(module: ScribbleSegModule) -> dict[str, float]:
    """The losses that the last step logged."""
    return {
        name: float(value)
        for name, value in sorted(module.logged.items())
        if name.startswith("train/loss")
    }


class MethodContract:
    """Set ``module_class`` and ``kwargs``; every test below then applies."""

    module_class: ClassVar[type[ScribbleSegModule]]
    kwargs: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _only_subclasses(self) -> None:
        if type(self) is MethodContract:
            pytest.skip("the contract itself")

    def build(self, seed: int = 0, **kwargs: Any) -> ScribbleSegModule:
        """A tiny module with a logger that needs no trainer."""
        seed_everything(seed, verbose=False)
        options = {"num_classes": 4, "encoder": TINY_ENCODER, "encoder_weights": None}
        module = self.module_class(**{**options, **self.kwargs, **kwargs})
        module.logged = _Trainerless(module).values
        return module.train()

    def step(self, module: ScribbleSegModule, batch: GuardedBatch | None = None) -> torch.Tensor:
        return module.training_step(make_batch() if batch is None else batch, 0)

    def test_loss_falls_when_overfitting_one_batch(self) -> None:
        module, batch = self.build(), make_batch()
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        losses = []
        for _ in range(12):
            loss = self.step(module, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0], losses

    def test_every_trainable_parameter_gets_a_finite_gradient(self, recorded) -> None:
        module = self.build()
        self.step(module).backward()
        missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, missing
        infinite = [
            n
            for n, p in module.named_parameters()
            if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        assert not infinite, infinite
        recorded(gradient_norms(module), rtol=1e-2)  # BatchNorm over few cells: rounding shows

    def test_logs_the_loss_and_its_terms(self) -> None:
        module = self.build()
        loss = self.step(module)
        assert torch.equal(module.logged["train/loss"], loss.detach())
        assert any(name.startswith("train/loss_") for name in module.logged)

    def test_batch_without_scribbles(self, recorded) -> None:
        module, batch = self.build(), make_batch()
        batch["scribble"] = torch.full_like(batch["scribble"], 255)
        batch["class_labels"] = torch.zeros_like(batch["class_labels"])
        loss = self.step(module, batch)
        assert torch.isfinite(loss)
        loss.backward()
        recorded(loss_values(module))

    def test_absent_class(self, recorded) -> None:
        module, batch = self.build(), make_batch()
        batch["scribble"][batch["scribble"] == 2] = 255
        batch["class_labels"][:, 2] = 0
        assert torch.isfinite(self.step(module, batch))
        recorded(loss_values(module))

    def test_odd_sizes(self, recorded) -> None:
        module, batch = self.build(), make_batch(height=65, width=70)
        assert torch.isfinite(self.step(module, batch))
        losses = loss_values(module)
        with torch.no_grad():
            logits = module.eval().predict_logits(batch["image"][:1])
        assert logits.shape == (1, 4, 65, 70)
        spread = {"mean": logits.mean().item(), "std": logits.std().item()}
        recorded({"losses": losses, "logits": spread})

    def test_bfloat16(self) -> None:
        reference = self.step(self.build())
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.step(self.build())
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, reference, rtol=1e-2, atol=0)

    def test_one_seed_repeats_and_two_differ(self) -> None:
        first, again, other = (self.step(self.build(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_checkpoint_reloads_without_arguments(self, tmp_path) -> None:
        from helpers.training import quiet_trainer

        module = self.build()
        trainer = quiet_trainer()
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        assert (
            read_checkpoint(tmp_path / "model.ckpt")["hyper_parameters"]["encoder_weights"] is None
        )
        loaded = scribbleseg.load(tmp_path / "model.ckpt")
        assert type(loaded) is self.module_class
        assert loaded.inference == module.inference
        ours, theirs = module.state_dict(), loaded.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(module.eval().predict_logits(image), loaded.predict_logits(image))
