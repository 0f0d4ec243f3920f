"""Folders of pseudo-labels that an earlier stage made, as supervision of a file source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.manifest import check_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["check_pseudo_options", "find_pseudo_labels"]


def check_pseudo_options(label_type: str, pseudo_label_dir: Path | None) -> None:
    """Refuse pseudo-labels without a folder, and a folder that would not be used.

    Raises:
        ConfigError: If one of the two options is missing.
    """
    if label_type == "pseudo" and pseudo_label_dir is None:
        raise ConfigError(
            "label_type='pseudo' without `pseudo_label_dir`: set it to a folder of label PNGs, "
            "such as `python -m scribbleseg.data spread` or a predict run writes"
        )
    if label_type != "pseudo" and pseudo_label_dir is not None:
        raise ConfigError(
            f"pseudo_label_dir={str(pseudo_label_dir)!r} with label_type={label_type!r}: the "
            "folder would not be used; set `label_type: pseudo`, or remove it"
        )


def find_pseudo_labels(folder: Path, class_names: Sequence[str]) -> dict[str, Path]:
    """PNGs of a folder by stem.

    Args:
        folder: Folder of pseudo-labels, with or without ``manifest.json``.
        class_names: Classes of the data set that is to train on them.

    Returns:
        Stem relative to ``folder`` to file.

    Raises:
        ScribbleNotFoundError: If the folder is missing (D301).
        LabelFormatError: If its manifest names other classes (D401), is incomplete or stale (D403),
            or cannot be read (D202).
    """
    if not folder.is_dir():
        raise ScribbleNotFoundError(
            f"D301 {folder}: folder of pseudo-labels does not exist; make them, or correct "
            "`pseudo_label_dir`"
        )
    check_manifest(folder, class_names, complete=True)
    return io.find_images(folder, suffixes=(".png",))
