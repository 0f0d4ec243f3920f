"""A network with a random walk over similar cells in front of its classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from scribbleseg.checkpoint import load_start
from scribbleseg.errors import ConfigError
from scribbleseg.methods.cc4s.head import CC4SNetwork
from scribbleseg.methods.cc4s.similarity import SimilarityMeasurement
from scribbleseg.methods.cc4s.views import Lattice
from scribbleseg.methods.partial import PartiallySupervisedModule
from scribbleseg.options import check_flag, check_number, check_whole
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.nn.network import Arch, SegNetwork

__all__ = ["WalkOutput", "WalkingModule"]

_LEAST_QUERY_CHANNELS = 16


class WalkOutput(NamedTuple):
    """What one pass through encoder, decoder and walk leaves.

    Attributes:
        plain: Features before the walk, x, ``(B, D, h, w)``.
        walked: Features after it, z, which the classifier reads; x itself without a walk.
        factors: Query and key on the grid of the walk, ``(B, d, h', w')``; empty without a walk.
        shrink: How much smaller that grid is.
    """

    plain: Tensor
    walked: Tensor
    factors: tuple[Tensor, ...]
    shrink: int


class WalkingModule(PartiallySupervisedModule):
    """Base of CC4S: its network, the walk, and starting from the weights of another stage.

    Args:
        num_classes: Number of classes, background included.
        arch: ``cc4s`` is the published head at stride 8; any other works: the walk comes before its
            classifier.
        encoder: ``resnet50`` and ``resnet101`` as published; ``cc4s`` needs one that can be
            dilated.
        head_channels: Channels of ``cc4s``.
        walk: Whether there is a random walk at all.
        query_reduction: Feature channels per channel of query and key; ``null`` = 8, as published,
            unless fewer than 16 channels would be left.
        shrink_factor: The walk takes place on a grid smaller by this factor.
        max_cells: The factor grows until the grid has at most so many cells; ``null`` = never.
        chunk_size: Rows of the transition matrix in memory at a time; ``null`` = all.
        gate_lr_mult: Factor on the learning rate of the gate of the walk, which starts closed;
            above 1 it opens sooner in short trainings.
        init_from: Checkpoint whose weights a fit starts from, such as that of the stage before.
        kwargs: See :class:`~scribbleseg.methods.partial.PartiallySupervisedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arch: Arch | Literal["cc4s"] = "cc4s",
        encoder: str = "resnet50",
        head_channels: int = 512,
        walk: bool = True,
        query_reduction: int | None = None,
        shrink_factor: int = 1,
        max_cells: int | None = 3500,
        chunk_size: int | None = 512,
        gate_lr_mult: float = 1.0,
        init_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        counts = {"shrink_factor": shrink_factor, "head_channels": head_channels}
        optional = {
            "query_reduction": query_reduction,
            "max_cells": max_cells,
            "chunk_size": chunk_size,
        }
        check_whole(1, **counts, **{k: v for k, v in optional.items() if v is not None})
        check_flag(walk=walk)
        check_number(gate_lr_mult=gate_lr_mult)
        if gate_lr_mult <= 0:
            raise ConfigError(f"gate_lr_mult={gate_lr_mult}: expected a number above 0")
        super().__init__(num_classes, arch=cast("Arch", arch), encoder=encoder, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        self.measurement: SimilarityMeasurement | None = None
        if walk:
            channels = self.feature_dim
            if query_reduction is not None and query_reduction > channels:
                raise ConfigError(
                    f"query_reduction={query_reduction}: the features have only {channels} "
                    "channels; use less, or null"
                )
            least = max(min(channels // _LEAST_QUERY_CHANNELS, 8), 1)
            self.measurement = SimilarityMeasurement(
                channels,
                reduction=least if query_reduction is None else query_reduction,
                shrink_factor=shrink_factor,
                max_cells=max_cells,
                pooling="corners" if self.network.remainder else "mean",
                chunk_size=chunk_size,
            )

    def make_network(self, arch: Arch, encoder: str, **options: Any) -> SegNetwork:
        """The published network for ``arch: cc4s``, else that of the architecture.

        Args:
            arch: Decoder architecture.
            encoder: Encoder name.
            options: See :func:`~scribbleseg.nn.network.build_network`.
        """
        if cast("str", arch) != "cc4s":
            return super().make_network(arch, encoder, **options)
        stride = options["output_stride"] or 8
        # only for its encoder, which is dilated and initialised alike
        built: Any = super().make_network(
            "deeplabv3", encoder, **{**options, "output_stride": stride}
        )
        return CC4SNetwork(
            built.encoder,
            built.encoder.out_channels[-1],
            options["num_classes"],
            channels=self.hparams["head_channels"],
            stride=stride,
            freeze_batchnorm=options["freeze_batchnorm"],
            channels_last=options["channels_last"],
        )

    def walk_through(self, image: Tensor, *, shrink: int | None = None) -> WalkOutput:
        """Features of an image and their walk.

        Args:
            image: Normalised, float, shape ``(B, K, H, W)``.
            shrink: Factor of the grid of the walk; by default as the options say.
        """
        plain = self.network.decoder(self.network.encode(image))
        if self.measurement is None:
            return WalkOutput(plain, plain, (), 1)
        found = self.measurement(plain, shrink)
        return WalkOutput(plain, found.features, (found.query, found.key), found.shrink_factor)

    def forward_features(self, image: Tensor) -> SegOutput:
        """Logits and walked features at decoder resolution; see :meth:`upsample_logits`."""
        walked = self.walk_through(image).walked
        return SegOutput(self.network.classify(walked), walked)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, C, H, W)`` of normalised images ``(B, K, H, W)`` of any size."""
        size = (image.shape[-2], image.shape[-1])
        return self.upsample_logits(self.forward_features(image).logits, size)

    def lattice(self, features: Tensor, size: tuple[int, int]) -> Lattice:
        """Where the cells of a feature map lie in the image.

        Args:
            features: Of the image on the canvas that the network saw, shape ``(B, D, h, w)``.
            size: Height and width of the image in pixels.
        """
        overlap = self.network.remainder
        height = self.network.padded_size(*size)[0]
        return Lattice((height - overlap) // (features.shape[2] - overlap), overlap)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As of every method, with the gate of the walk in a group of its own if it is faster."""
        groups, factor = super().parameter_groups(), self.hparams["gate_lr_mult"]
        if self.measurement is None or factor == 1:
            return groups
        gate, made = self.measurement.gamma, []
        for group in groups:
            others = [p for p in group["params"] if p is not gate]
            if len(others) < len(group["params"]):
                lr = group["lr"] * factor
                made.append({**group, "params": [gate], "lr": lr, "name": "gate"})
            made.append({**group, "params": others})
        return [group for group in made if group["params"]]

    def on_fit_start(self) -> None:
        """Start from the weights of another stage, unless this run is resumed.

        Raises:
            CheckpointError: If they cannot be read or do not fit.
        """
        path = self.hparams["init_from"]
        if path is not None and self.trainer.ckpt_path is None:
            load_start(self, path)
