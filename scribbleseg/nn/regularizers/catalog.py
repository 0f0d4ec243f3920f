"""The regularisers by name, and how they are built from a configuration."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import (
    absent_class_loss,
    entropy_loss,
    partial_cross_entropy,
)
from scribbleseg.functional.pseudo_labels import filter_pseudo_labels
from scribbleseg.nn.regularizers.base import (
    Regularizer,
    RegularizerInput,
    RegularizerView,
)
from scribbleseg.nn.regularizers.pairwise import (
    DenseCRF,
    GatedCRF,
    KernelCut,
    NormalizedCut,
)
from scribbleseg.nn.regularizers.tree import TreeEnergy
from scribbleseg.nn.regularizers.variational import (
    ContourLength,
    IntensityVariance,
    MumfordShah,
    TotalVariation,
)
from scribbleseg.options import check_flag, check_number

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


class AbsentClass(Regularizer):
    """Push down classes that are not drawn anywhere in the image.

    Only for data in which every object of an image is scribbled.
    """

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over valid pixels, in nats."""
        logits, view = _scores(self, inputs)
        valid = inputs.valid if view is None else view.valid
        return absent_class_loss(logits, inputs.class_labels, mask=valid, across_ranks=True)


class PseudoLabel(Regularizer):
    """Cross-entropy with the network's own confident predictions on unlabelled pixels.

    See :func:`~scribbleseg.functional.pseudo_labels.filter_pseudo_labels`. The labels are the
    predictions of the same step without gradient, so this sharpens what is sure already; ramp it up
    with ``start`` and ``ramp``.

    Args:
        weight: Factor of the term.
        confidence: Smallest probability of a label, in [0, 1]; ``null`` = any.
        entropy: Largest entropy relative to log C, in [0, 1]; ``null`` = any.
        present_only: Label only with classes that are drawn in the image.
        options: See :class:`Regularizer`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        confidence: float | None = 0.9,
        entropy: float | None = None,
        present_only: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(weight, **options)
        for name, share in (("confidence", confidence), ("entropy", entropy)):
            if share is None:
                continue
            check_number(**{name: share})
            if not 0 <= share <= 1:
                raise ConfigError(f"{name}={share}: expected 0 to 1; 90 % is 0.9")
        check_flag(present_only=present_only)
        self.confidence, self.entropy, self.present_only = confidence, entropy, present_only

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over the pixels that got a label, in nats."""
        logits, view = _scores(self, inputs)
        labels = filter_pseudo_labels(
            logits.detach().softmax(dim=1) if view is None else view.probs,
            present=inputs.class_labels if self.present_only else None,
            valid=inputs.unlabelled if view is None else view.unlabelled,
            confidence=self.confidence,
            entropy=self.entropy,
            background=None,  # it is among the drawn classes where there is one
        )
        return partial_cross_entropy(logits, labels, across_ranks=True)


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
    "pseudo_label": PseudoLabel,
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
