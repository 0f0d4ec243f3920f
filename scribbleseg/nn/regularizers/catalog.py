"""The regularisers by name, and how they are built from a configuration."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import absent_class_loss, entropy_loss
from scribbleseg.functional.regularizers import (
    contour_length_loss,
    intensity_variance,
    level_set_loss,
    total_variation_loss,
)
from scribbleseg.nn.regularizers.base import (
    ImageScale,
    Regularizer,
    RegularizerInput,
    RegularizerView,
    scaled_image,
)
from scribbleseg.nn.regularizers.pairwise import (
    DenseCRF,
    GatedCRF,
    KernelCut,
    NormalizedCut,
)
from scribbleseg.nn.regularizers.tree import TreeEnergy
from scribbleseg.options import check_choice, check_flag, check_number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["REGULARIZERS", "build_regularizers"]


class Entropy(Regularizer):
    """Entropy of unlabelled pixels; see :func:`~scribbleseg.functional.losses.entropy_loss`."""

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """In [0, 1]: divided by log C, so that the weight does not depend on C."""
        logits, view = _scores(self, inputs)
        unlabelled = inputs.unlabelled if view is None else view.unlabelled
        return entropy_loss(logits, mask=unlabelled, base="classes", across_ranks=True)


class TotalVariation(Regularizer):
    """Total variation of the probabilities, mean over pixels."""

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over pixels of the summed absolute differences."""
        view = self.view(inputs)
        return total_variation_loss(view.probs, mask=view.valid)


class ContourLength(Regularizer):
    """Length of soft contours.

    Args:
        weight: Factor of the term.
        include_background: Whether class 0 counts too.
        options: See :class:`Regularizer`.
    """

    def __init__(
        self, weight: float = 0.01, *, include_background: bool = False, **options: Any
    ) -> None:
        super().__init__(weight, **options)
        check_flag(include_background=include_background)
        self.include_background = include_background

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over pixels and classes."""
        view = self.view(inputs)
        return contour_length_loss(
            view.probs,
            mask=view.valid,
            include_background=self.include_background,
            across_ranks=True,
        )


class MumfordShah(Regularizer):
    """Piecewise constant Mumford-Shah energy, mean over pixels.

    Args:
        weight: Factor of the term.
        length_weight: Factor of the total variation relative to the region term.
        image_scale: ``unit``: colours in [0, 1]; ``std``: in standard deviations of the image.
        options: See :class:`Regularizer`.
    """

    def __init__(
        self,
        weight: float = 0.1,
        *,
        length_weight: float = 1.0,
        image_scale: ImageScale = "std",
        **options: Any,
    ) -> None:
        super().__init__(weight, **options)
        check_number(length_weight=length_weight)
        if length_weight < 0:
            raise ConfigError(f"length_weight={length_weight}: expected 0 or more")
        check_choice("image_scale", image_scale, get_args(ImageScale))
        self.length_weight = length_weight
        self.image_scale: ImageScale = image_scale

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Region term per pixel and channel plus weighted total variation per pixel."""
        view = self.view(inputs)
        image = scaled_image(view, self.image_scale)
        region = level_set_loss(view.probs, image, mask=view.valid) / image.shape[1]
        length = total_variation_loss(view.probs, mask=view.valid)
        return region + self.length_weight * length


class IntensityVariance(Regularizer):
    """Spread of intensities within minus between the classes.

    Args:
        weight: Factor of the term.
        published_sign: Use inter - intra as the published code does, which rewards mixed classes.
        options: See :class:`Regularizer`.
    """

    def __init__(
        self, weight: float = 0.1, *, published_sign: bool = False, **options: Any
    ) -> None:
        super().__init__(weight, **options)
        check_flag(published_sign=published_sign)
        self.published_sign = published_sign

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """In intensity units of [0, 1]; may be negative."""
        view = self.view(inputs)
        gray = view.image.mean(1, keepdim=True)
        intra, inter = intensity_variance(view.probs, gray, mask=view.valid)
        return inter - intra if self.published_sign else intra - inter


class AbsentClass(Regularizer):
    """Push down classes that are not drawn anywhere in the image.

    Only for data in which every object of an image is scribbled.
    """

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over valid pixels, in nats."""
        logits, view = _scores(self, inputs)
        valid = inputs.valid if view is None else view.valid
        return absent_class_loss(logits, inputs.class_labels, mask=valid, across_ranks=True)


def _scores(term: Regularizer, inputs: RegularizerInput) -> tuple[Tensor, RegularizerView | None]:
    """Scores at the term's resolution; the exact ones, without a view, at full size."""
    if term.resolution == 1.0:
        return inputs.logits, None
    view = term.view(inputs)
    return view.probs.clamp_min(1e-12).log(), view


REGULARIZERS: dict[str, type[Regularizer]] = {
    "entropy": Entropy,
    "gated_crf": GatedCRF,
    "dense_crf": DenseCRF,
    "normalized_cut": NormalizedCut,
    "kernel_cut": KernelCut,
    "tree_energy": TreeEnergy,
    "total_variation": TotalVariation,
    "contour_length": ContourLength,
    "mumford_shah": MumfordShah,
    "intensity_variance": IntensityVariance,
    "absent_class": AbsentClass,
}


def build_regularizers(
    settings: Mapping[str, float | Mapping[str, Any]] | None, *, feature_dim: int
) -> nn.ModuleDict:
    """Modules from ``{name: weight}`` or ``{name: {weight: …, option: …}}``.

    Args:
        settings: The configuration; ``None`` = no regulariser. A name of :data:`REGULARIZERS`, or
            the import path of a :class:`Regularizer` of your own, ``mylab.losses.MyTerm``.
        feature_dim: Channels of the decoder features, for terms with an embedding.

    Returns:
        Name to :class:`Regularizer`, in the order given; an import path is named by its class.

    Raises:
        ConfigError: If a name or option is unknown, or a value is out of range.
    """
    built = nn.ModuleDict()
    for name, value in (settings or {}).items():
        kind = REGULARIZERS.get(name) or _imported(name)
        options, known = _mapping(name, value), _options(kind)
        for option in options:
            if option not in known or option == "feature_dim":  # that is the network's
                raise ConfigError(
                    f"regularizers.{name}: unknown option {option!r}{_hint(option, known)}"
                )
        if "feature_dim" in known:
            options["feature_dim"] = feature_dim
        try:
            built[name.rsplit(".", 1)[-1]] = kind(**options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"regularizers.{name}: {error}") from error
    return built


def _imported(path: str) -> type[Regularizer]:
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"regularizers: unknown name {path!r}{_hint(path, REGULARIZERS)}")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"regularizers: {path!r} cannot be imported ({error}); correct the path, or install "
            "the package"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Regularizer)):
        raise ConfigError(f"regularizers: {path!r} is no subclass of Regularizer")
    return kind


def _mapping(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"weight": value}
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(
        f"regularizers.{name}={value!r}: expected a weight such as 0.1, or options such as "
        "{weight: 0.1, start: 0.2}"
    )


def _options(kind: type[Regularizer]) -> list[str]:
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if base is nn.Module:
            break
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    names[name] = None
    return list(names)


def _hint(name: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    listed = f"known are {', '.join(known)}"
    return f"; did you mean {near[0]!r}? {listed}" if near else f"; {listed}"
