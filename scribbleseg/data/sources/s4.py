"""Scribbles for All (s4): synthetic scribbles for VOC, Cityscapes, ADE20K and KITTI-360."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.labels import LabelCoding, read_label
from scribbleseg.data.sources.layouts import FOLDER, LayoutSource
from scribbleseg.data.sources.voc import VOCSource
from scribbleseg.data.volumes import open_hdf5, read_data_set
from scribbleseg.errors import ConfigError, LabelFormatError
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

LabelsFrom = Literal["auto", "png", "h5"]
S4Dataset = Literal["pascal", "cityscapes", "ade20k", "kitti360"]
"""Data set that the scribbles belong to."""

_SUFFIXES = {"auto": (".png", ".h5"), "png": (".png",), "h5": (".h5",)}
_KITTI_STEM = re.compile(r"(?:.*/)?([^/]+)/image_00/(data_rect|semantic|scribble)/([^/]+)")
_KITTI_FOLDER = {"image": "data_rect", "mask": "semantic", "scribble": "scribble"}
_KEYS = ("scribble", "scribble_values", "image_dims", "config")
_RELEASED_WIDTH = 3.0


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
        labels_from: ``"png"`` or ``"h5"``; ``"auto"`` prefers PNG, the published form, unless
            ``scribble_width`` is given.
        scribble_width: Width of strokes drawn from ``.h5``, pixels; 3 by default.
        kwargs: See :class:`~scribbleseg.data.sources.LayoutSource`; ``unlabelled_value`` is needed
            only for PNGs without ``.h5``.

    Raises:
        ScribbleNotFoundError: If ``root`` is not a folder of this data set.
        ConfigError: If an option is out of range.
    """

    _names = ()  # the folder is also one of its data set, and only the user knows which

    def __init__(
        self,
        root: str | Path,
        *,
        dataset: S4Dataset,
        labels_from: LabelsFrom = "auto",
        scribble_width: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("dataset", dataset, get_args(S4Dataset))
        check_choice("labels_from", labels_from, get_args(LabelsFrom))
        if labels_from == "png" and scribble_width is not None:
            raise ConfigError(
                f"scribble_width={scribble_width} with labels_from='png' would not be used: the "
                "width of a PNG is drawn in; set `labels_from: h5`"
            )
        self.dataset = dataset
        wide = scribble_width is not None and labels_from == "auto"
        self._scribble_suffixes = _SUFFIXES["h5" if wide else labels_from]
        self._noted: dict[Path, int | None] = {}
        layout, width = str(FOLDER / "s4" / f"{dataset}.yaml"), scribble_width or _RELEASED_WIDTH
        super().__init__(root, layout, scribble_width=width, **kwargs)
        self._voc = VOCSource(self.root) if dataset == "pascal" else None
        if self._voc is not None:
            self._voc.lists = self.lists

    def _stem(self, name: str, role: str) -> str | None:
        """Stem of a file from its path without suffix; of KITTI-360 only those of one camera."""
        if self.dataset != "kitti360":
            return super()._stem(name, role)
        match = _KITTI_STEM.fullmatch(name)
        return f"{match[1]}/{match[3]}" if match and match[2] == _KITTI_FOLDER[role] else None

    def _list_files(self) -> FileIndex:
        index = super()._list_files()
        kinds = " or ".join(self._scribble_suffixes)
        places = {**index.places, "scribble": f"{index.places['scribble']} ({kinds})"}
        if self._voc is None:
            return replace(index, places=places)
        return replace(self._voc.files, scribbles=index.scribbles, places=places)

    def _list_stems(self, split: Split) -> list[str]:
        return super()._list_stems(split) if self._voc is None else self._voc._list_stems(split)

    @cached_property
    def codings(self) -> dict[str, LabelCoding]:
        """What values of scribbles and masks mean; which of them is unlabelled each PNG notes."""
        codings = dict(super().codings)
        if codings["scribble"] == self.classes.coding(self.unlabelled_value):
            codings["scribble"] = self.classes.coding()
        return codings

    def _noted_value(self, path: Path) -> int | None:
        """Value that means unlabelled as the ``.h5`` beside a PNG notes it: each has its own."""
        if path not in self._noted:
            strokes = path.with_suffix(".h5")
            self._noted[path] = read_s4(strokes).unlabelled_value if strokes.is_file() else None
        return self._noted[path]

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; an ``.h5`` says which value of a PNG is none."""
        paths = super().inputs(record, role)
        noted = [path.with_suffix(".h5") for path in paths if role == "scribble"]
        return list(dict.fromkeys([*paths, *noted]))

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.coding == "mask" and self._voc is not None:
            return self._voc._read_map(label, record)
        coding = self.codings[label.coding]
        if label.coding == "scribble":
            ignore = (*coding.ignore, self._unlabelled_value(label.path))
            coding = replace(coding, ignore=ignore, colours={})
        return read_label(label.path, replace(coding, colours={}))

    def _unlabelled_value(self, path: Path) -> int:
        value = self.unlabelled_value
        if value is None:
            value = self._noted_value(path)
        if value is None:
            raise LabelFormatError(
                f"D101 {path}: there is no {path.with_suffix('.h5').name} beside it that notes "
                "which value means unlabelled; copy the .h5 files too, or set `unlabelled_value` "
                "(background_px_value of the generator)"
            )
        label = self.codings["scribble"].index_of().get(value, IGNORE_INDEX)
        if label != IGNORE_INDEX and self.unlabelled_value is None:
            raise LabelFormatError(
                f"D101 {path}: value {value} means unlabelled and class "
                f"{self.class_names[label]!r} (id {label}) in these PNGs, so strokes of that class "
                f"are lost; set `labels_from: h5`, or accept it with `unlabelled_value: {value}`"
            )
        return value

    def _classes_of(self, values: list[int], path: Path) -> list[int]:
        known = self.codings["scribble"].index_of()
        wrong = [value for value in values if value not in known]
        if wrong:
            highest = max(value for value in known if value != IGNORE_INDEX)
            raise LabelFormatError(
                f"D101 {path}: value {wrong[0]} on {values.count(wrong[0])} strokes, expected "
                f"{min(known)}-{highest} or 255; the file belongs to another data set, or "
                "`label_ids` is wrong"
            )
        return [known[value] for value in values]

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        path, drawn = label.path, self.strokes
        content, size = read_s4(path), self.image_size(record)
        if content.size != size:
            raise LabelFormatError(
                f"D201 {path}: was made for an image of {content.size[1]}x{content.size[0]} (width "
                f"x height), but the image has {size[1]}x{size[0]}; use the original image"
            )
        ids = self._classes_of([int(value) for value in content.values], path)
        strokes = [
            Stroke(label, points)
            for label, points in zip(ids, content.lines, strict=True)
            if label != IGNORE_INDEX
        ]
        return StrokeDrawing(strokes, size, drawn.width, drawn.renderer, drawn.offset)


class S4File(NamedTuple):
    """Content of one HDF5 file.

    Attributes:
        lines: Polylines as (x, y) in pixels, float64, shape ``(N, P, 2)``; already shortened by the
            generator's ``scribble_scale``.
        values: Label value of each line as in the label files, int64, shape ``(N,)``.
        size: Height and width of the image in pixels.
        width: Width at which the PNG was drawn, in OpenCV's count.
        unlabelled_value: Value of the PNG that means "not drawn"; ``None`` if the file has none.
    """

    lines: NDArray[np.float64]
    values: NDArray[np.int64]
    size: tuple[int, int]
    width: float
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
    raw = _read(path)
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
    if (values != values[:, :1]).any():
        wrong = values[(values != values[:, :1]).any(axis=1)][0]
        raise LabelFormatError(
            f"D103 {path}: a line has the value {wrong.tolist()}, expected three equal numbers; "
            "the scribbles were made from coloured pictures, not from label files"
        )
    config = _config(raw["config"], path)
    return S4File(
        lines,
        values[:, 0],
        (int(dims[0]), int(dims[1])),
        float(config.get("line_thickness", 3)),
        _unlabelled(config.get("background_px_value"), path),
    )


def _read(path: Path) -> dict[str, Any]:
    with open_hdf5(path, "scribble") as content:
        absent = [key for key in _KEYS if key not in content]
        if absent:
            raise LabelFormatError(
                f"D202 {path}: holds no {', '.join(absent)}, expected {', '.join(_KEYS)}; this is "
                "not a file of Scribbles for All"
            )
        return {key: read_data_set(content, key, path) for key in _KEYS}


def _config(text: Any, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, TypeError) as error:
        raise LabelFormatError(
            f"D202 {path}: config is not JSON ({error}); copy the file again from its release"
        ) from error
    if not isinstance(config, dict):
        raise LabelFormatError(
            f"D202 {path}: config is a {type(config).__name__}, expected an object; copy the file "
            "again from its release"
        )
    return config


def _unlabelled(value: Any, path: Path) -> int | None:
    if value is None:
        return None
    parts = set(value) if isinstance(value, list) else {value}
    found = next(iter(parts), None)
    if len(parts) != 1 or not isinstance(found, int) or not 0 <= found <= 255:
        raise LabelFormatError(
            f"D202 {path}: background_px_value is {value!r}, expected one value 0-255; set "
            "`unlabelled_value`"
        )
    return found
