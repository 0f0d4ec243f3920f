"""Images that weights were trained on, as checkpoints record them, against those to be scored."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribbleseg.data.findings import Finding, some_names
from scribbleseg.data.lists import image_key
from scribbleseg.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["leaked_images", "name_digest", "overlap_warning"]

_STARTS = ("encoder_weights", "init_from")  # hyper-parameters that may name a checkpoint
_BYTES = 6  # of a digest: two of 10^5 names have equal digests with a probability of 2 · 10^-5


def name_digest(name: str) -> bytes:
    """What a checkpoint records of an image: 6 bytes, so that no name of a patient goes with it.

    Example:
        >>> name_digest("JPEGImages/2008_000002") == name_digest("2008000002")
        True
    """
    return hashlib.blake2b(image_key(name).encode(), digest_size=_BYTES).digest()


def pack_digests(digests: Collection[bytes]) -> str:
    """Digests as text, sorted; 85 kB for the 10,582 images of VOC's train_aug."""
    return base64.b64encode(b"".join(sorted(set(digests)))).decode("ascii")


def unpack_digests(packed: str) -> frozenset[bytes]:
    """Inverse of :func:`pack_digests`; a ValueError if the text was not made by it."""
    data = base64.b64decode(packed, validate=True)
    if len(data) % _BYTES:
        raise ValueError(f"not a packed list of digests: {len(data)} bytes")
    return frozenset(data[i : i + _BYTES] for i in range(0, len(data), _BYTES))


def earlier_images(module: object | None, checkpoint: object = None) -> dict[str, frozenset[bytes]]:
    """Digests of the images that weights were trained on before a run, by where they are recorded.

    What the LightningModule remembers counts, and what the checkpoints record that its
    hyper-parameters ``encoder_weights`` and ``init_from`` name, or that is resumed or evaluated.
    Files that record nothing are left out.
    """
    remembered = getattr(getattr(module, "data_info", None), "train_images", "")
    found = {"the module": unpack_digests(remembered)}
    options: Mapping[str, Any] = getattr(module, "hparams", {})
    for name in (checkpoint, *(options.get(option) for option in _STARTS)):
        if isinstance(name, (str, Path)) and name and Path(name).is_file():
            found[str(name)] = _recorded(Path(name))
    return {place: digests for place, digests in found.items() if digests}


def _recorded(path: Path) -> frozenset[bytes]:
    try:
        return unpack_digests(read_facts(path)["data"].get("train_images", ""))
    except (AttributeError, CheckpointError, KeyError, TypeError, ValueError):
        return frozenset()


def read_facts(path: Path) -> Any:
    """What this library wrote into a checkpoint, ``None`` if nothing; weights stay on disk."""
    import torch  # here: commands that read no checkpoint need no torch

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); it is truncated, not a checkpoint, or holds "
            "pickled objects, which are never loaded"
        ) from error
    return state.get("scribbleseg") if isinstance(state, dict) else None


def leaked_images(
    earlier: Mapping[str, Collection[bytes]], scored: Collection[str]
) -> list[Finding]:
    """A warning (D302) for each place that records images which are to be scored.

    Args:
        earlier: Digests of image ids by where they are recorded.
        scored: Image ids of the validation or test split.
    """
    findings = (
        _warning(seen, scored, f"the training images recorded in {place}", "the split to be scored")
        for place, seen in earlier.items()
    )
    return [finding for finding in findings if finding is not None]


def overlap_warning(
    train_stems: Collection[str],
    val_stems: Collection[str],
    *,
    train_name: str = "the training list",
    val_name: str = "the validation list",
) -> Finding | None:
    """Whether weights trained on one data set have seen the validation images of another.

    VOC ids are compared without their folders, with or without underscore; other names as they are.

    Args:
        train_stems: Image names that the weights were trained on.
        val_stems: Image names that are to be scored.
        train_name: What the first list is, for the message.
        val_name: What the second list is, for the message.

    Returns:
        A D302 warning, or ``None`` if the lists have no image in common.
    """
    seen = set(map(name_digest, train_stems))
    return _warning(seen, val_stems, train_name, val_name)


def _warning(
    seen: Collection[bytes], scored: Collection[str], train_name: str, val_name: str
) -> Finding | None:
    common = [name for name in scored if name_digest(name) in seen]
    if not common:
        return None
    text = (
        f"{len(common)} of {len(scored)} images of {val_name} are in {train_name} "
        f"({some_names(common)}), expected none if weights trained on it are the start; they raise "
        "scores: start from weights that have not seen these images, such as ImageNet's"
    )
    return Finding("D302", "warning", text, common[0])
