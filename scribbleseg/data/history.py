"""Images that weights were trained on, as checkpoints record them, against those to be scored."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribbleseg.data.comparison import read_facts
from scribbleseg.data.leaks import overlap_warning
from scribbleseg.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from scribbleseg.data.findings import Finding

__all__ = ["earlier_images", "leaked_images", "pack_names", "unpack_names"]

_STARTS = ("encoder_weights", "init_from")  # hyper-parameters that may name a checkpoint


def pack_names(names: Iterable[str]) -> str:
    """Names as a short text: sorted, one a line, deflated, base64. 10,582 VOC ids need 40 kB.

    Example:
        >>> unpack_names(pack_names(["b", "a", "b"]))
        ['a', 'b']
    """
    lines = "\n".join(sorted(set(names)))
    return base64.b64encode(zlib.compress(lines.encode(), 9)).decode("ascii") if lines else ""


def unpack_names(packed: str) -> list[str]:
    """Inverse of :func:`pack_names`.

    Raises:
        ValueError: If the text was not made by it.
    """
    try:
        lines = zlib.decompress(base64.b64decode(packed, validate=True)) if packed else b""
    except zlib.error as error:
        raise ValueError(f"not a packed list of names: {error}") from error
    return lines.decode().split("\n") if lines else []


def earlier_images(module: object | None, checkpoint: object = None) -> dict[str, list[str]]:
    """Images that the weights of a run were trained on before it, as far as that is recorded.

    Args:
        module: The LightningModule of the run. What it remembers counts, as well as checkpoints
            that its hyper-parameters ``encoder_weights`` and ``init_from`` name.
        checkpoint: Path of a checkpoint that is resumed or evaluated, if there is one.

    Returns:
        Image ids by where they are recorded. Files that are no checkpoints of this library, or of
        a version that did not record it, are left out.
    """
    remembered = getattr(getattr(module, "data_info", None), "train_images", "")
    found = {"the module": unpack_names(remembered)}
    options: Mapping[str, Any] = getattr(module, "hparams", {})
    for name in (checkpoint, *(options.get(option) for option in _STARTS)):
        if isinstance(name, (str, Path)) and name and Path(name).is_file():
            found[str(name)] = _recorded(Path(name))
    return {place: names for place, names in found.items() if names}


def _recorded(path: Path) -> list[str]:
    try:
        return unpack_names(read_facts(path)["data"].get("train_images", ""))
    except (AttributeError, CheckpointError, KeyError, TypeError, ValueError):
        return []


def leaked_images(earlier: Mapping[str, Sequence[str]], scored: Collection[str]) -> list[Finding]:
    """Warnings about images to be scored that the weights have seen.

    Args:
        earlier: From :func:`earlier_images`.
        scored: Image ids of the validation or test split.

    Returns:
        One D302 warning per place that records such images.
    """
    findings = (
        overlap_warning(
            names,
            scored,
            train_name=f"the training images recorded in {place}",
            val_name="the split to be scored",
        )
        for place, names in earlier.items()
    )
    return [finding for finding in findings if finding is not None]
