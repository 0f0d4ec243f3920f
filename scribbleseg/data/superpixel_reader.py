"""Superpixels of training images while they are read: computed or from files, and their graph."""

from __future__ import annotations

import logging
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from scribbleseg.data.check.findings import some_names
from scribbleseg.data.jobs.settings import is_fresh
from scribbleseg.data.label_maps import resize_map
from scribbleseg.data.superpixels import find_superpixels, read_superpixels
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.manifest import read_manifest
from scribbleseg.functional.preprocess import resize_image
from scribbleseg.functional.regions import RegionGraph, superpixel_affinity
from scribbleseg.functional.superpixels import SuperpixelMethod, SuperpixelOptions, over_segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["SuperpixelReader", "Superpixels"]

logger = logging.getLogger(__name__)

_COMMAND = "python -m scribbleseg.data superpixels {root} --out DIR"
_MEMORY = 256 << 20  # bytes of remembered results in all loader processes together
_METHODS = get_args(SuperpixelMethod)


class Superpixels(NamedTuple):
    """Over-segmentation of one image at network scale.

    Attributes:
        regions: Ids from 0, -1 = none, int32, shape ``(H, W)``.
        graph: Adjacent ids and their affinity, if asked for.
    """

    regions: NDArray[np.int32]
    graph: RegionGraph | None


class _Packed(NamedTuple):
    """Compressed result: ids of large regions repeat, so little is left of them."""

    pixels: bytes
    dtype: str
    shape: tuple[int, int]
    edges: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def size(self) -> int:
        return len(self.pixels) + self.edges.nbytes + self.weights.nbytes


def _pack(result: Superpixels) -> _Packed:
    regions, graph = result
    small = regions.astype(np.int16 if regions.max(initial=0) < 1 << 15 else np.int32)
    empty = RegionGraph(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    edges, weights = graph or empty
    pixels = zlib.compress(small.tobytes(), 1)
    height, width = regions.shape
    return _Packed(pixels, small.dtype.str, (height, width), edges.astype(np.int32), weights)


class _Memory:
    """Results used last, up to a number of bytes; a copy in another process starts empty."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._kept: OrderedDict[int, _Packed] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "used": 0, "_kept": OrderedDict()}

    def get(self, index: int) -> _Packed | None:
        if index in self._kept:
            self._kept.move_to_end(index)
        return self._kept.get(index)

    def put(self, index: int, packed: _Packed) -> None:
        self._kept[index] = packed
        self.used += packed.size
        while self.used > self.limit and self._kept:
            self.used -= self._kept.popitem(last=False)[1].size


class SuperpixelReader:
    """Superpixels of training images, computed when they are first needed or read from a folder.

    Results are remembered compressed: about 45 kB for 800 superpixels of 500×375 pixels, 25 kB more
    with the graph. All loader processes together keep at most 256 MiB; what does not fit is made
    again in each epoch, so large data sets should use a folder.

    Args:
        source: Data set.
        records: Training samples.
        superpixels: ``"slic"``, ``"felzenszwalb"``, ``"grid"``, or a folder of files.
        options: Options of the method; none for a folder.
        resize: Network input size, see :func:`~scribbleseg.functional.preprocess.resized_shape`.
        graph: Also build the graph of adjacent superpixels.
        processes: Loader processes that share the memory.

    Raises:
        ConfigError: If ``superpixels`` is neither a method nor a folder, or an option is wrong.
        MissingExtraError: If scikit-image is not installed (extra ``regions``) and needed.
        ScribbleNotFoundError: If the folder lacks files of training images (D301).
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
        processes: int = 1,
    ) -> None:
        self.source, self.resize, self.graph = source, resize, graph
        self.method = superpixels if superpixels in _METHODS else None
        self.memory = _Memory(_MEMORY // max(processes, 1))
        self._files: dict[str, Path] = {}
        self._arguments: dict[str, Any] = {}
        if self.method is None:
            self._files = self._find(Path(superpixels).expanduser(), records)
        else:
            self._arguments = (options or SuperpixelOptions()).arguments(self.method)
            # a package that is missing is one sentence now, not a failing loader process
            over_segment(np.zeros((2, 2, source.in_channels), np.uint8), self.method, {})

    def _find(self, folder: Path, records: Sequence[Record]) -> dict[str, Path]:
        command = _COMMAND.format(root=getattr(self.source, "root", "ROOT"))
        if not folder.is_dir():
            raise ConfigError(
                f"superpixels={str(folder)!r}: neither a method ({', '.join(_METHODS)}) nor a "
                f"folder; correct it, or make the folder with `{command}`"
            )
        files = find_superpixels(folder)
        missing = [record.image_id for record in records if record.image_id not in files]
        if missing:
            raise ScribbleNotFoundError(
                f"D301 {folder}: {len(missing)} of {len(records)} training images have no "
                f"superpixels ({some_names(missing)}), expected STEM.png for each; make them with "
                f"`{command}`, which goes on where it stopped"
            )
        # copied files of other projects have times that say nothing
        if read_manifest(folder) is not None:
            old = [r.image_id for r in records if not is_fresh(files[r.image_id], r.image)]
            if old:
                logger.warning(
                    "%s: %d of %d superpixel files are older than their image (%s), so they may "
                    "show an earlier one; run `%s` again, it makes only those anew",
                    *(folder, len(old), len(records), some_names(old), command),
                )
        return files

    def read(self, record: Record, index: int, image: NDArray[np.uint8]) -> Superpixels:
        """Superpixels of one training image.

        Args:
            record: Sample.
            index: Its position in the training split.
            image: Its pixels at original size, uint8, shape ``(H, W, K)``.

        Returns:
            Ids and, if asked for, the graph at network scale, of the whole image.

        Raises:
            LabelFormatError: If a file is faulty (D101, D202) or has another size (D201).
        """
        packed = self.memory.get(index)
        if packed is None:
            result = self._make(record, image)
            self.memory.put(index, _pack(result))
            return result
        stored = np.frombuffer(zlib.decompress(packed.pixels), packed.dtype)
        regions = stored.reshape(packed.shape).astype(np.int32)
        graph = RegionGraph(packed.edges.astype(np.int64), packed.weights) if self.graph else None
        return Superpixels(regions, graph)

    def _make(self, record: Record, image: NDArray[np.uint8]) -> Superpixels:
        scaled = resize_image(image, self.resize)
        channels = self.source.rgb_channels
        if self.method is None:
            height, width = image.shape[:2]
            stored = read_superpixels(self._files[record.image_id], size=(height, width))
            height, width = scaled.shape[:2]
            regions = resize_map(stored, (height, width))
        else:
            regions = over_segment(scaled, self.method, self._arguments, rgb_channels=channels)
        graph = superpixel_affinity(rgb_view(scaled, channels), regions) if self.graph else None
        return Superpixels(regions, graph)
