"""The embedding network of SPML, what of it is frozen, and its optimiser groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.methods.partial import PartiallySupervisedModule
from scribbleseg.methods.spml.head import embedding_head
from scribbleseg.nn.encoder_stages import first_stages
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.nn.network import Arch, SegNetwork

__all__ = ["EmbeddingModule"]

_HEADS = {"spml_aspp": "aspp", "spml_psp": "psp"}
_LEAST_VOTE = 1e-5  # share of the votes; what a dense CRF would raise smaller ones to as well


class EmbeddingModule(PartiallySupervisedModule):
    """Base of SPML: an embedding per cell, and a small classifier that reads it.

    Args:
        num_classes: Number of classes, background included.
        stage: ``embedding``; or ``classifier``, in which all but the classifier is frozen.
        arch: ``spml_aspp`` (published for VOC) or ``spml_psp`` (for DensePose) on a dilated
            encoder, with an embedding at stride 4; or any other architecture, whose decoder is
            followed by one convolution.
        encoder: ``tu-resnet101s`` is the published one; any works with other architectures.
        embedding_dim: D; 64 as published, 32 on DensePose.
        embedding_stride: Pixels per cell of the embedding; decoders that are coarser stay so.
        head_dropout: Dropout of the classifier, in [0, 1).
        frozen_stages: Parts of a ResNet that keep their weights: stem, ``layer1``, …; ``null`` = 2
            for ``spml_aspp`` and ``spml_psp`` as published, else 0.
        frozen_norm: Whether their BatchNorm statistics stay, too.
        norm_momentum: Momentum of the encoder's BatchNorm statistics; ``null`` = its own.
        bias_lr_mult: Factor on the learning rate of biases; other than 1 they do not decay.
        kwargs: See :class:`~scribbleseg.methods.partial.PartiallySupervisedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        stage: Literal["embedding", "classifier"] = "embedding",
        arch: Arch | Literal["spml_aspp", "spml_psp"] = "spml_aspp",
        encoder: str = "tu-resnet101s",
        embedding_dim: int = 64,
        embedding_stride: int = 4,
        head_dropout: float = 0.75,
        frozen_stages: int | None = None,
        frozen_norm: bool = False,
        norm_momentum: float | None = None,
        bias_lr_mult: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_choice("stage", stage, ("embedding", "classifier"))
        check_whole(1, embedding_dim=embedding_dim, embedding_stride=embedding_stride)
        check_number(head_dropout=head_dropout, bias_lr_mult=bias_lr_mult)
        check_flag(frozen_norm=frozen_norm)
        if not 0 <= head_dropout < 1:
            raise ConfigError(f"head_dropout={head_dropout}: expected a probability below 1")
        if bias_lr_mult <= 0:
            raise ConfigError(f"bias_lr_mult={bias_lr_mult}: expected a number above 0")
        super().__init__(num_classes, arch=cast("Arch", arch), encoder=encoder, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        frozen = self._freeze(frozen_stages)
        self._asleep = frozen if frozen_norm else []
        if stage == "classifier":
            self._asleep = [self.network.encoder, self.network.decoder]
            for part in self._asleep:
                part.requires_grad_(False)
        for part in self._asleep:
            part.eval()  # a fit does not call train() first
        if norm_momentum is not None:
            check_number(norm_momentum=norm_momentum)
            for layer in _batch_norms(self.network.encoder):
                layer.momentum = norm_momentum

    def make_network(self, arch: Arch, encoder: str, **options: Any) -> SegNetwork:
        """Encoder, embedding and classifier.

        Args:
            arch: Architecture; of ``spml_aspp`` and ``spml_psp`` only the encoder is taken over.
            encoder: Encoder name.
            options: See :func:`~scribbleseg.nn.network.build_network`.
        """
        head = _HEADS.get(arch, "decoder")
        if head != "decoder":
            stride = options["output_stride"] or 8
            built = super().make_network(
                "deeplabv3", encoder, **{**options, "output_stride": stride}
            )
        else:
            built = super().make_network(arch, encoder, **options)
        return embedding_head(
            built,
            self.hparams["embedding_dim"],
            head=head,
            in_channels=options["in_channels"],
            dropout=self.hparams["head_dropout"],
            stride=self.hparams["embedding_stride"],
            freeze_batchnorm=options["freeze_batchnorm"],
            channels_last=options["channels_last"],
        )

    def _freeze(self, stages: int | None) -> list[nn.Module]:
        if stages is None:
            stages = 2 if self.hparams["arch"] in _HEADS else 0
        check_whole(0, frozen_stages=stages)
        layers = first_stages(self.network.encoder, stages)
        if layers is None:
            raise ConfigError(
                f"frozen_stages={stages} with encoder {self.hparams['encoder']!r}: expected at "
                "most 5, and a ResNet; use 0 for other encoders"
            )
        for layer in layers:
            layer.requires_grad_(False)
        return layers

    def train(self, mode: bool = True) -> EmbeddingModule:
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._asleep:
            part.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Encoder, embedding and classifier, each with its biases apart if they learn faster."""
        hparams = self.hparams
        groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
        faster = hparams["bias_lr_mult"] != 1
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            part = name.split(".")[1] if name.startswith("network.") else "other"
            bias = faster and name.endswith(".bias")
            decays = not bias and (hparams["decay_norm_and_bias"] or parameter.ndim > 1)
            groups.setdefault((part, bias, bool(decays)), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": hparams["lr"]
                * (1.0 if part == "encoder" else hparams["head_lr_mult"])
                * (hparams["bias_lr_mult"] if bias else 1.0),
                "weight_decay": hparams["weight_decay"] if decays else 0.0,
                "name": part + ("_bias" if bias else "" if decays else "_no_decay"),
            }
            for (part, bias, decays), parameters in groups.items()
        ]

    def embed(self, image: Tensor) -> Tensor:
        """Embedding ``(B, D, h, w)`` of the padded image ``(B, K, H, W)``, of any length."""
        features: Tensor = self.network.decoder(self.network.encode(image))
        return features


def _batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    kind = nn.modules.batchnorm._BatchNorm
    return [layer for layer in module.modules() if isinstance(layer, kind)]
