"""Pseudo-labels that training samples carry beside their scribbles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.check.findings import some_names
from scribbleseg.data.labels import read_label
from scribbleseg.data.sources.index import find_pseudo_labels
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["PseudoLabelReader"]


class PseudoLabelReader:
    """Reads the pseudo-label of each training image from a folder of PNGs.

    Args:
        source: Data set whose classes the labels must have.
        records: Training samples; each needs a label.
        folder: Folder of label PNGs of image size, with or without ``manifest.json``.
        paste_scribbles: Write the scribble over the pseudo-label.

    Raises:
        ScribbleNotFoundError: If the folder or labels of training images are missing (D301).
        LabelFormatError: If its manifest names other classes (D401), is incomplete or stale (D403),
            or cannot be read (D202).
    """

    def __init__(
        self,
        source: ScribbleSource,
        records: Sequence[Record],
        folder: str | Path,
        *,
        paste_scribbles: bool = False,
    ) -> None:
        self.num_classes, self.paste_scribbles = source.num_classes, paste_scribbles
        path = Path(folder).expanduser()
        self._files = find_pseudo_labels(path, source.class_names)
        missing = [record.image_id for record in records if record.image_id not in self._files]
        if missing:
            raise ScribbleNotFoundError(
                f"D301 {path}: {len(missing)} of {len(records)} training images have no "
                f"pseudo-label ({some_names(missing)}), expected STEM.png for each; run the stage "
                "that makes them again, or correct `pseudo_label_dir`"
            )

    def read(self, record: Record, scribble: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pseudo-label of one training image.

        Args:
            record: Sample.
            scribble: Its scribble as it is trained on, 255 = not drawn.

        Returns:
            Ids, 255 = undecided, uint8, shape ``(H, W)``.

        Raises:
            LabelFormatError: If the file is faulty (D101 to D103, D202) or of another size (D201).
        """
        path = self._files[record.image_id].path
        label = read_label(path, self.num_classes)
        if label.shape != scribble.shape:
            raise LabelFormatError(
                f"D201 {path}: pseudo-label is {label.shape[1]}×{label.shape[0]} (width×height), "
                f"image {record.image or record.image_id} is {scribble.shape[1]}×"
                f"{scribble.shape[0]}; it was made from a resized copy: make it again"
            )
        if self.paste_scribbles:
            label = label.copy()
            drawn = scribble != IGNORE_INDEX
            label[drawn] = scribble[drawn]
        return label
