"""Scribbles for All (s4): synthetic scribbles for VOC, Cityscapes, ADE20K and KITTI-360."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.labels import LabelCoding, read_label
from scribbleseg.data.sources.layouts import FOLDER, LayoutSource
from scribbleseg.data.sources.voc import VOCSource
from scribbleseg.data.volumes import open_hdf5, read_data_set
from scribbleseg.errors import LabelFormatError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.functional.strokes import Stroke
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole
    from scribbleseg.data.sources.index import FileIndex
    from scribbleseg.types import Label, Record, Split

__all__ = ["S4File", "S4Source", "read_s4"]

S4Dataset = Literal["pascal", "cityscapes", "ade20k", "kitti360"]
"""Data set that the scribbles belong to."""

_KITTI_STEM = re.compile(r"(?:.*/)?([^/]+)/image_00/(data_rect|semantic|scribble)/([^/]+)")
_KITTI_FOLDER = {"image": "data_rect", "mask": "semantic", "scribble": "scribble"}
_RELEASED_WIDTH = 3.0
_KEYS = ("scribble", "scribble_values", "image_dims", "config")


class S4Source(LayoutSource):
    """A data set with the scribbles of Scribbles for All unpacked in it.

    ========== ========================== ===================================================
    pascal     ``VOC2012/JPEGImages``     ``VOC2012/scribbles``
    cityscapes ``leftImg8bit``            ``scribbles/gtFine/train/CITY``
    ade20k     ``images``                 ``scribbles/training``
    kitti360   ``data_2d_raw``            ``data_2d_semantics/train/DRIVE/image_00/scribble``
    ========== ========================== ===================================================

    Each image has a PNG of three equal channels and an ``.h5`` with the strokes, from which
    scribbles of another width or length are made. The value that means unlabelled is noted in the
    ``.h5``. Without lists, VOC trains on train_aug, KITTI-360 on its list of frames, and the others
    on their training folder.

    Args:
        root: Folder of the data set.
        dataset: ``"pascal"``, ``"cityscapes"``, ``"ade20k"`` or ``"kitti360"``.
        scribble_width: Draw the strokes of the ``.h5`` files, this many pixels wide; by default
            PNGs are read, the published form, and an ``.h5`` without PNG is drawn 3 pixels wide.
        kwargs: See :class:`~scribbleseg.data.sources.LayoutSource`; ``unlabelled_value`` is needed
            only for PNGs without ``.h5``.

    Raises:
        ScribbleNotFoundError: If ``root`` is not a folder of this data set.
        ConfigError: If an option is out of range.
    """

    _layouts = ()  # the folder is also one of its data set, and only the user knows which

    def __init__(
        self,
        root: str | Path,
        *,
        dataset: S4Dataset,
        scribble_width: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("dataset", dataset, get_args(S4Dataset))
        self.dataset = dataset
        self._scribble_suffixes = (".png", ".h5") if scribble_width is None else (".h5",)
        width = _RELEASED_WIDTH if scribble_width is None else scribble_width
        layout = str(FOLDER / "s4" / f"{dataset}.yaml")
        super().__init__(root, layout, scribble_width=width, **kwargs)
        self._voc = VOCSource(self.root) if dataset == "pascal" else None
        if self._voc is not None:
            self._voc.lists = self.lists
        self._noted: dict[Path, int | None] = {}

    def _stem(self, name: str, role: str) -> str | None:
        """Stem of a file from its path without suffix; of KITTI-360 only those of one camera."""
        if self.dataset != "kitti360":
            return super()._stem(name, role)
        match = _KITTI_STEM.fullmatch(name)
        return f"{match[1]}/{match[3]}" if match and match[2] == _KITTI_FOLDER[role] else None

    def _list_files(self) -> FileIndex:
        index = super()._list_files()
        place = f"{index.places['scribble']} ({' or '.join(self._scribble_suffixes)})"
        index = replace(index, places={**index.places, "scribble": place})
        if self._voc is None:
            return index
        masks = self._voc.files.masks if self.mask_dir is None else index.masks
        return replace(index, images=self._voc.files.images, masks=masks)

    def _list_stems(self, split: Split) -> list[str]:
        return super()._list_stems(split) if self._voc is None else self._voc._list_stems(split)

    def _find_codings(self) -> dict[str, LabelCoding]:
        codings = super()._find_codings()
        # which value is unlabelled each PNG notes
        if codings["scribble"] == self.classes.coding(self.unlabelled_value):
            codings["scribble"] = self.classes.coding()
        return codings

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; an ``.h5`` says which value of a PNG is none."""
        paths = super().inputs(record, role)
        noted = [path.with_suffix(".h5") for path in paths if role == "scribble"]
        return list(dict.fromkeys([*paths, *noted]))

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.coding == "mask" and self._voc is not None:
            return self._voc._read_map(label, record)
        coding = replace(self.codings[label.coding], colours={})
        if label.coding == "scribble":
            coding = replace(coding, ignore=(*coding.ignore, self._unlabelled_value(label.path)))
        return read_label(label.path, coding)

    def _unlabelled_value(self, path: Path) -> int:
        """Value that means unlabelled: the option, or what the ``.h5`` beside a PNG notes."""
        if self.unlabelled_value is not None:
            return self.unlabelled_value
        strokes = path.with_suffix(".h5")
        if path not in self._noted:
            self._noted[path] = read_s4(strokes).unlabelled_value if strokes.is_file() else None
        value = self._noted[path]
        if value is None:
            raise LabelFormatError(
                f"D101 {path}: there is no {strokes.name} beside it that notes which value means "
                "unlabelled; copy the .h5 files too, or set `unlabelled_value` "
                "(background_px_value of the generator)"
            )
        label = self.codings["scribble"].index_of().get(value, IGNORE_INDEX)
        if label != IGNORE_INDEX:
            raise LabelFormatError(
                f"D101 {path}: value {value} means unlabelled and class "
                f"{self.class_names[label]!r} (id {label}) in these PNGs, so strokes of that class "
                f"are lost; set `scribble_width: 3` to draw the .h5 files, or accept it with "
                f"`unlabelled_value: {value}`"
            )
        return value

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        path, drawn = label.path, self.strokes
        content, size = read_s4(path), self.image_size(record)
        if content.size != size:
            raise LabelFormatError(
                f"D201 {path}: was made for an image of {content.size[1]}x{content.size[0]} (width "
                f"x height), but the image has {size[1]}x{size[0]}; use the original image"
            )
        index_of, values = self.codings["scribble"].index_of(), content.values.tolist()
        for value in values:
            if value not in index_of:
                raise LabelFormatError(
                    f"D101 {path}: value {value} on {values.count(value)} strokes, expected one of "
                    f"{sorted(index_of)}; the file belongs to another data set, or `label_ids` is "
                    "wrong"
                )
        strokes = [
            Stroke(index_of[value], line)
            for value, line in zip(values, content.lines, strict=True)
            if index_of[value] != IGNORE_INDEX
        ]
        return StrokeDrawing(strokes, size, drawn.width, drawn.renderer, drawn.offset)


class S4File(NamedTuple):
    """Content of one HDF5 file.

    Attributes:
        lines: Polylines as (x, y) in pixels, float64, shape ``(N, P, 2)``; already shortened by the
            generator's ``scribble_scale``.
        values: Label value of each line as in the label files, int64, shape ``(N,)``.
        size: Height and width of the image in pixels.
        unlabelled_value: Value of the PNG that means unlabelled; ``None`` if the file has none.
    """

    lines: NDArray[np.float64]
    values: NDArray[np.int64]
    size: tuple[int, int]
    unlabelled_value: int | None


def read_s4(path: Path) -> S4File:
    """Strokes of one image.

    Args:
        path: HDF5 file with ``scribble``, ``scribble_values``, ``image_dims`` and ``config``.

    Returns:
        Lines and what the generator noted.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is not such a file (D202), or a value has unequal channels (D103).
        MissingExtraError: If h5py is not installed.
    """
    with open_hdf5(path, "scribble") as content:
        absent = [key for key in _KEYS if key not in content]
        if absent:
            raise LabelFormatError(
                f"D202 {path}: holds no {', '.join(absent)}, expected {', '.join(_KEYS)}; this is "
                "not a file of Scribbles for All"
            )
        raw = {key: read_data_set(content, key, path) for key in _KEYS}
    lines = np.asarray(raw["scribble"], dtype=np.float64)
    values = np.asarray(raw["scribble_values"], dtype=np.int64)
    dims = np.asarray(raw["image_dims"]).ravel()
    if len(lines) == 0:  # the shape of an empty list of lines
        lines, values = np.zeros((0, 1, 2)), np.zeros((0, 3), dtype=np.int64)
    shapes = lines.ndim == 3 and lines.shape[2] == 2 and values.shape == (len(lines), 3)
    if not shapes or len(dims) < 2 or not np.isfinite(lines).all():
        raise LabelFormatError(
            f"D202 {path}: scribble {lines.shape}, scribble_values {values.shape}, image_dims "
            f"{dims.tolist()}, expected finite (N, P, 2), (N, 3) and height, width; copy the file "
            "again from its release"
        )
    for value in values.tolist():
        if len(set(value)) > 1:
            raise LabelFormatError(
                f"D103 {path}: a line has the value {value}, expected three equal numbers; the "
                "scribbles were made from coloured pictures, not from label files"
            )
    size = (int(dims[0]), int(dims[1]))
    return S4File(lines, values[:, 0], size, _noted_value(raw["config"], path))


def _noted_value(text: Any, path: Path) -> int | None:
    """Unlabelled value of the PNG in the settings of the generator."""
    try:
        value = json.loads(text).get("background_px_value")
    except (ValueError, TypeError, AttributeError) as error:
        raise LabelFormatError(
            f"D202 {path}: config is not a JSON object ({error}); copy the file again from its "
            "release"
        ) from error
    parts = set(value) if isinstance(value, list) else {value}
    found = next(iter(parts), None)
    if value is not None and not (len(parts) == 1 and isinstance(found, int) and 0 <= found <= 255):
        raise LabelFormatError(
            f"D202 {path}: background_px_value is {value!r}, expected one value 0-255; set "
            "`unlabelled_value`"
        )
    return found
