"""Label files that commands of this library wrote, among those of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.functional.manifest import check_manifest, read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["OwnLabels"]


class OwnLabels:
    """Tells label files that hold ids, whatever coding the data set's own files have.

    The ``manifest.json`` of their folder tells; it is read once.

    Args:
        class_names: Classes of the data set.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._folders: dict[Path, bool] = {}

    def wrote(self, path: Path, image_id: str) -> bool:
        """Whether a command such as ``synthesize`` wrote the label of an image.

        Args:
            path: Label file.
            image_id: Its image; the folder of the labels holds it under this name.

        Raises:
            LabelFormatError: If it was made for other classes (D401).
        """
        folder = path.parents[image_id.count("/")] if path.suffix == ".png" else None
        if folder is None or folder / f"{image_id}.png" != path:
            return False
        if folder not in self._folders:
            manifest = read_manifest(folder)
            command = "" if manifest is None else str(manifest.get("command", ""))
            own = command.startswith("scribbleseg")
            if own:
                check_manifest(folder, self._class_names)
            self._folders[folder] = own
        return self._folders[folder]
