"""The parts of a ResNet from the input on, for those that keep their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import nn

__all__ = ["first_stages"]

_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


def first_stages(encoder: nn.Module, count: int) -> list[nn.Module] | None:
    """Stem, ``layer1`` to ``layer4`` of a ResNet, the first few of them.

    Args:
        encoder: Encoder of segmentation-models-pytorch, its own or one of timm.
        count: How many, 1 = the stem alone.

    Returns:
        The layers; ``None`` if the encoder is no ResNet or has fewer stages.
    """
    root = getattr(encoder, "model", encoder)
    if count > len(_STAGES) or (count and not hasattr(root, "layer4")):
        return None
    names = [name for stage in _STAGES[:count] for name in stage]
    return [cast("nn.Module", getattr(root, name)) for name in names]
