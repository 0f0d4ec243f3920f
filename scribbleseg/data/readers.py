"""What training samples get from folders: superpixels and their graph, seeds, pseudo-labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast, get_args

import numpy as np
import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.documents import read_npz
from scribbleseg.data.findings import some_names
from scribbleseg.data.jobs.settings import is_fresh
from scribbleseg.data.jobs.superpixels import check_origin, superpixel_folder
from scribbleseg.data.label_maps import resize_map
from scribbleseg.data.labels import read_label
from scribbleseg.data.sources.index import find_pseudo_labels
from scribbleseg.data.superpixels import find_superpixels, read_superpixels
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.manifest import check_manifest, read_manifest
from scribbleseg.functional.preprocess import resize_image, resized_shape
from scribbleseg.functional.regions import RegionGraph, superpixel_affinity
from scribbleseg.functional.superpixels import SuperpixelMethod, SuperpixelOptions

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["PseudoLabelReader", "SeedReader", "SuperpixelReader", "Superpixels"]

logger = logging.getLogger(__name__)


class Superpixels(NamedTuple):
    """Over-segmentation of one image at network scale.

    Attributes:
        regions: Ids from 0, -1 = none, int32, shape ``(H, W)``.
        graph: Adjacent ids and their affinity, if asked for.
    """

    regions: NDArray[np.int32]
    graph: RegionGraph | None


class SuperpixelReader:
    """Reads the superpixels of each training image from a folder, which a method fills if need be.

    Args:
        source: Data set.
        records: Training samples.
        superpixels: ``"slic"``, ``"felzenszwalb"`` or ``"grid"``, kept at network size in the
            folder that :func:`~scribbleseg.data.superpixel_folder` chooses; or a folder of files
            of image size.
        options: Options of the method; none for a folder.
        resize: Network input size, see :func:`~scribbleseg.functional.preprocess.resized_shape`.
        graph: Also build the graph of adjacent superpixels.
        workers: Processes that fill the folder; 0 = this one.

    Raises:
        ConfigError: If ``superpixels`` is neither a method nor a folder, or an option is wrong.
        MissingExtraError: If scikit-image is not installed (extra ``regions``) and needed.
        ScribbleNotFoundError: If the folder lacks files of training images (D301).
        ScribbleSegError: If superpixels cannot be made of an image.
    """

    def __init__(
        self,
        source: ScribbleSource,
        records: Sequence[Record],
        superpixels: str,
        options: SuperpixelOptions | None = None,
        *,
        resize: int | tuple[int, int] | None = None,
        graph: bool = False,
        workers: int = 0,
    ) -> None:
        self.source, self.resize, self.graph = source, resize, graph
        self.own = superpixels in get_args(SuperpixelMethod)
        if not self.own:
            self.files = self._find(Path(superpixels).expanduser(), records)
            return
        method = cast("SuperpixelMethod", superpixels)
        folder = superpixel_folder(source, records, method, options, resize=resize, workers=workers)
        self.files = {r.image_id: folder / f"{r.image_id}.png" for r in records}

    def _find(self, folder: Path, records: Sequence[Record]) -> dict[str, Path]:
        root = getattr(self.source, "root", "ROOT")
        command = f"python -m scribbleseg.data superpixels {root} --out DIR"
        if not folder.is_dir():
            raise ConfigError(
                f"superpixels={str(folder)!r}: neither a method "
                f"({', '.join(get_args(SuperpixelMethod))}) nor a folder; correct it, or make the "
                f"folder with `{command}`"
            )
        files = find_superpixels(folder)
        cure = f"make them with `{command}`, which goes on where it stopped"
        _require(folder, records, files, "superpixels", ".png", cure)
        # copied files of other projects have times that say nothing
        if read_manifest(folder) is not None:
            made_of = {r.image_id: self.source.inputs(r, "image") for r in records}
            old = [name for name, images in made_of.items() if not is_fresh(files[name], *images)]
            if old:
                logger.warning(
                    "%s: %d of %d superpixel files are older than their image (%s), so they may "
                    "show an earlier one; run `%s` again, it makes only those anew",
                    *(folder, len(old), len(records), some_names(old), command),
                )
        return files

    def read(self, record: Record, image: NDArray[np.uint8]) -> Superpixels:
        """Superpixels of one training image.

        Args:
            record: Sample.
            image: Its pixels at original size, uint8, shape ``(H, W, K)``.

        Returns:
            Ids and, if asked for, the graph at network scale, of the whole image.

        Raises:
            LabelFormatError: If the file is faulty (D101, D202), has another size (D201), or was
                made of other pixels (D403).
        """
        path, (height, width) = self.files[record.image_id], image.shape[:2]
        size = resized_shape(height, width, self.resize)
        stored = read_superpixels(path, size=size if self.own else (height, width))
        if self.own and not self.source.inputs(record, "image"):
            check_origin(path, image)
        regions, graph = resize_map(stored, size), None
        if self.graph:
            scaled = resize_image(image, self.resize)
            graph = superpixel_affinity(rgb_view(scaled, self.source.rgb_channels), regions)
        return Superpixels(regions, graph)


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
        self.num_classes, folder = source.num_classes, Path(folder).expanduser()
        if not folder.is_dir():
            raise ScribbleNotFoundError(
                f"D301 {folder}: folder of seeds does not exist; run the stage that makes them, or "
                "correct `seed_dir`"
            )
        check_manifest(folder, source.class_names, complete=True)
        files = {r.image_id: folder / f"{r.image_id}.npz" for r in records}
        self._files = {name: path for name, path in files.items() if path.is_file()}
        cure = "run the stage that makes them again, or correct `seed_dir`"
        _require(folder, records, self._files, "seeds", ".npz", cure)

    def read(self, record: Record) -> Tensor:
        """Maps of one training image by class id; 0 for classes without a map.

        Args:
            record: Sample.

        Returns:
            Float32, shape ``(C, h, w)``.

        Raises:
            LabelFormatError: If the file is damaged or of another form (D202), names a class that
                the data set does not have (D101), or holds pickled objects (D501).
        """
        path = self._files[record.image_id]
        cure = "delete it and run the stage that makes them again"
        arrays = read_npz(path, "file of seeds", cure)
        if not {"classes", "maps"} <= arrays.keys():
            raise LabelFormatError(
                f"D202 {path}: cannot be read as seeds: holds {sorted(arrays)}, expected `classes` "
                f"(n,) and `maps` (n, h, w); {cure}"
            )
        classes, maps = arrays["classes"], arrays["maps"].astype(np.float32)
        if maps.ndim != 3 or classes.shape != maps.shape[:1] or not np.isfinite(maps).all():
            raise LabelFormatError(
                f"D202 {path}: classes {classes.shape} and maps {maps.shape}: expected (n,) and "
                f"finite (n, h, w); {cure}"
            )
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise LabelFormatError(
                f"D101 {path}: classes {classes.tolist()}, expected ids 0 to "
                f"{self.num_classes - 1}; {cure}"
            )
        full = torch.zeros(self.num_classes, *maps.shape[1:])
        full[torch.from_numpy(classes.astype(np.int64))] = torch.from_numpy(maps)
        return full


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
        folder = Path(folder).expanduser()
        self._files = find_pseudo_labels(folder, source.class_names)
        cure = "run the stage that makes them again, or correct `pseudo_label_dir`"
        _require(folder, records, self._files, "pseudo-label", ".png", cure)

    def read(self, record: Record, scribble: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pseudo-label of one training image.

        Args:
            record: Sample.
            scribble: Its scribble as it is trained on, 255 = unlabelled.

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
            label = np.where(scribble == IGNORE_INDEX, label, scribble)
        return label


def _require(
    folder: Path,
    records: Sequence[Record],
    files: Container[str],
    what: str,
    suffix: str,
    cure: str,
) -> None:
    """Refuse a folder that lacks files of training images (D301)."""
    missing = [record.image_id for record in records if record.image_id not in files]
    if missing:
        raise ScribbleNotFoundError(
            f"D301 {folder}: {len(missing)} of {len(records)} training images have no {what} "
            f"({some_names(missing)}), expected STEM{suffix} for each; {cure}"
        )
