"""Seeds of training images that an earlier stage, or somebody else, left as ``.npz`` files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scribbleseg.data.check.findings import some_names
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.manifest import check_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["SeedReader"]


class SeedReader:
    """Reads ``<id>.npz`` with ``classes``, int, ``(n,)``, and ``maps`` in [0, 1], ``(n, h, w)``.

    Args:
        source: Data set whose classes the seeds must have.
        records: Training samples; each needs a file.
        folder: Folder of the files, with or without ``manifest.json``.

    Raises:
        ScribbleNotFoundError: If the folder or files of training images are missing (D301).
        LabelFormatError: If its manifest names other classes (D401), is incomplete or stale (D403),
            or cannot be read (D202).
    """

    def __init__(
        self, source: ScribbleSource, records: Sequence[Record], folder: str | Path
    ) -> None:
        self.num_classes = source.num_classes
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise ScribbleNotFoundError(
                f"D301 {self.folder}: folder of seeds does not exist; run the stage that makes "
                "them, or correct `seed_dir`"
            )
        check_manifest(self.folder, source.class_names, complete=True)
        missing = [r.image_id for r in records if not self._file(r).is_file()]
        if missing:
            raise ScribbleNotFoundError(
                f"D301 {self.folder}: {len(missing)} of {len(records)} training images have no "
                f"seeds ({some_names(missing)}), expected STEM.npz for each; run the stage that "
                "makes them again, or correct `seed_dir`"
            )

    def _file(self, record: Record) -> Path:
        return self.folder / f"{record.image_id}.npz"

    def read(self, record: Record) -> Tensor:
        """Maps of one training image by class id; 0 for classes without a map.

        Args:
            record: Sample.

        Returns:
            Float32, shape ``(C, h, w)``.

        Raises:
            LabelFormatError: If the file is damaged or of another form (D202), or names a class
                that the data set does not have (D101).
        """
        path = self._file(record)
        try:
            with np.load(path, allow_pickle=False) as archive:
                classes, maps = archive["classes"], archive["maps"].astype(np.float32)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise LabelFormatError(
                f"D202 {path}: cannot be read as seeds ({error}); expected `classes` (n,) and "
                "`maps` (n, h, w): delete it and run the stage that makes them again"
            ) from error
        if maps.ndim != 3 or classes.shape != maps.shape[:1] or not np.isfinite(maps).all():
            raise LabelFormatError(
                f"D202 {path}: classes {classes.shape} and maps {maps.shape}: expected (n,) and "
                "finite (n, h, w)"
            )
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise LabelFormatError(
                f"D101 {path}: classes {classes.tolist()}, expected ids 0 to {self.num_classes - 1}"
            )
        full = torch.zeros(self.num_classes, *maps.shape[1:])
        full[torch.from_numpy(classes.astype(np.int64))] = torch.from_numpy(maps)
        return full
