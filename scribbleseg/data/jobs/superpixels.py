"""``superpixels``: over-segmentations as 16-bit PNGs, and the cache that training reads."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import zlib
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scribbleseg.data.jobs.job import ImageJob, picture_of, some_ids
from scribbleseg.data.jobs.settings import image_settings, is_fresh, source_settings
from scribbleseg.data.lists import safe_id
from scribbleseg.data.superpixels import find_superpixels, read_superpixels
from scribbleseg.errors import LabelFormatError, ScribbleSegError
from scribbleseg.functional.image_files import write_atomic
from scribbleseg.functional.superpixels import (
    MOST_SUPERPIXELS,
    SuperpixelMethod,
    SuperpixelOptions,
    over_segment,
    region_boundaries,
)
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["superpixel_folder", "write_superpixels"]

logger = logging.getLogger(__name__)

_LINE = (255, 221, 0)
_MADE_OF = "image"  # text in a PNG: checksum of the pixels
_CAN_COPY = multiprocessing.get_all_start_methods()[0] == "fork"


def write_superpixels(
    source: ScribbleSource,
    output: str | Path,
    *,
    splits: Sequence[Split] = ("train",),
    method: SuperpixelMethod = "slic",
    options: SuperpixelOptions | None = None,
    workers: int = 0,
    progress: bool = True,
) -> ImageJob:
    """Over-segment the images of some splits into a folder of 16-bit PNGs.

    Writes ``STEM.png`` of image size (ids from 0), ``manifest.json`` and ``overview.png``. SLIC
    needs 240 ms for 500×281 pixels on one core, Felzenszwalb 280 ms, a grid the time to write the
    file. See :class:`~scribbleseg.data.ImageJob` for failures and interruptions.

    Args:
        source: Data set; only images are read.
        output: Folder to write.
        splits: Splits to segment; ``"predict"`` = all images.
        method: ``"slic"`` (about equal sizes), ``"felzenszwalb"`` (irregular, follow edges) or
            ``"grid"`` (rectangles, no package needed).
        options: Options of the method.
        workers: Processes; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``. ``found``: superpixels by image id, ``counts``.

    Raises:
        ConfigError: If an option is out of range or not of the method, or ``output`` holds
            anything else.
        MissingExtraError: If scikit-image is not installed (extra ``regions``) and needed.
        ScribbleNotFoundError: If images or lists are missing (D301).
        ScribbleSegError: If a worker process was killed.
    """
    check_whole(0, workers=workers)
    settings = _settings(source, method, options)
    records = list({r.image_id: r for split in splits for r in source.records(split)}.values())
    output = Path(output).expanduser()
    return _fill(source, output, records, settings, workers=workers, progress=progress)


def _settings(
    source: ScribbleSource,
    method: SuperpixelMethod,
    options: SuperpixelOptions | None,
    resize: int | tuple[int, int] | None = None,
) -> dict[str, Any]:
    """What decides about the files; the network size only where they have it."""
    arguments = (options or SuperpixelOptions()).arguments(method)
    # a package that is missing is one sentence, not one per image
    over_segment(np.zeros((2, 2, source.in_channels), np.uint8), method, {})
    settings = {"data": image_settings(source), "method": method, "options": arguments}
    if resize is None:
        return settings
    return {**settings, "resize": resize if isinstance(resize, int) else list(resize)}


def _fill(
    source: ScribbleSource,
    output: Path,
    records: Sequence[Record],
    settings: dict[str, Any],
    **how: Any,
) -> ImageJob:
    """Do the job; ``how`` goes to :meth:`ImageJob.run`."""
    job = ImageJob(output, "superpixels", settings, source.class_names, of_classes=False)
    counts: dict[str, int] = {}

    def tiles(record: Record) -> dict[str, NDArray[np.uint8]]:
        image = _resized(picture_of(source, record), settings)
        lined = image.copy()
        lined[region_boundaries(read_superpixels(output / f"{record.image_id}.png"))] = _LINE
        return {"image": image, "superpixels": lined}

    def caption(record: Record) -> str:
        return f"{record.image_id}: {counts[record.image_id]:,}"

    make = partial(_segment, source, output, settings)
    done = job.run(make, records, lambda r, n: counts.update({r.image_id: n}), **how)
    job.finish(done, tiles, caption=caption, files=len(find_superpixels(output)))
    job.found["counts"] = counts
    job.summary.append(job.headline("over-segmentations in"))
    if counts:
        numbers = np.array(list(counts.values()))
        job.summary += [
            f"superpixels per image: {numbers.min():,} to {numbers.max():,}, median "
            f"{int(np.median(numbers)):,}",
            f"look at {job.overview}: lines should follow the borders of objects",
        ]
    return job


def _segment(
    source: ScribbleSource, output: Path, settings: dict[str, Any], record: Record
) -> tuple[bool, int]:
    """Write the superpixels of one image if need be; their number."""
    target = output / f"{safe_id(record.image_id)}.png"
    if is_fresh(target, *source.inputs(record, "image")):
        with suppress(LabelFormatError):  # damaged files are made anew
            return False, int(read_superpixels(target).max()) + 1
    image = source.read_image(record)
    arguments, channels = settings["options"], source.rgb_channels
    scaled = _resized(image, settings)
    regions = over_segment(scaled, settings["method"], arguments, rgb_channels=channels)
    number = int(regions.max()) + 1
    if number > MOST_SUPERPIXELS:
        raise LabelFormatError(
            f"{target}: {number:,} superpixels do not fit into 16 bits, at most "
            f"{MOST_SUPERPIXELS:,}; ask for fewer, or tile the image"
        )
    stored, facts = Image.fromarray(regions.astype(np.uint16)), PngInfo()
    facts.add_text(_MADE_OF, _checksum(image))
    write_atomic(target, lambda stream: stored.save(stream, format="PNG", pnginfo=facts))
    return True, number


def _checksum(image: NDArray[np.uint8]) -> str:
    return f"{zlib.crc32(image.tobytes()):08x}"


def _resized(image: NDArray[np.uint8], settings: dict[str, Any]) -> NDArray[np.uint8]:
    if "resize" not in settings:
        return image
    from scribbleseg.functional.preprocess import resize_image  # here: it needs torch

    return resize_image(image, settings["resize"])


def superpixel_folder(
    source: ScribbleSource,
    records: Sequence[Record],
    method: SuperpixelMethod,
    options: SuperpixelOptions | None = None,
    *,
    resize: int | tuple[int, int] | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """The folder in which the superpixels of a data set are kept; what is missing is made.

    It is named by method, options and images, and lies in ``.superpixel_cache/`` of the data set,
    or in ``$XDG_CACHE_HOME/scribbleseg`` if the data set cannot be written to. Any number of
    processes may call this at the same time: one does the work, the others wait.

    Args:
        source: Data set; only images are read.
        records: Images; those of an earlier call are made anew if their image has changed.
        method: How superpixels are found, see :func:`write_superpixels`.
        options: Options of the method.
        resize: Segment images at network size, see
            :func:`~scribbleseg.functional.preprocess.resized_shape`; the files have that size.
        workers: Processes, where the system can copy this one (Linux); 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        The folder: one 16-bit PNG per image, see
        :func:`~scribbleseg.data.superpixels.read_superpixels`.

    Raises:
        ConfigError: If an option is out of range or not of the method.
        MissingExtraError: If scikit-image is not installed (extra ``regions``) and needed.
        ScribbleSegError: If superpixels cannot be made of an image, or a worker was killed.
    """
    settings = _settings(source, method, options, resize)
    folder = _place(source, settings)

    def there() -> bool:
        files = ((folder / f"{r.image_id}.png", source.inputs(r, "image")) for r in records)
        return all(is_fresh(file, *inputs) for file, inputs in files)

    if there():
        return folder
    logger.info(
        "%s: superpixels of %d images are made and kept here; of several processes one makes them, "
        "the others wait",
        *(folder, len(records)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as alone:
        # a killed process leaves no lock behind; without locks work may be done twice
        with suppress(NotImplementedError):
            alone.enter_context(FileLock(folder / ".lock"))
        if there():
            return folder
        # workers that are no copies import the script, which trains if it has no `if __name__ …`
        how = {"start": "fork", "workers": workers} if _CAN_COPY else {"workers": 0}
        job = _fill(source, folder, records, settings, progress=progress, **how)
    if job.failed:
        reasons = [f"{name}: {reason}" for name, reason in job.failed.items()]
        raise ScribbleSegError(
            f"{len(reasons)} of {len(records)} images have no superpixels ({some_ids(reasons)}); "
            "correct them: the next call does only what is missing"
        )
    return folder


def check_origin(path: Path, image: NDArray[np.uint8]) -> None:
    """Refuse superpixels in the cache that were made of other pixels (D403).

    For images that no file holds: nothing else tells that they have changed.
    """
    with Image.open(path) as stored:
        made_of = stored.info.get(_MADE_OF)
    if made_of != _checksum(image):
        raise LabelFormatError(
            f"D403 {path}: superpixels of an image that the data set no longer makes like this; "
            f"delete the folder {path.parent}, and the next start makes them again"
        )


def _place(source: ScribbleSource, settings: dict[str, Any]) -> Path:
    """Folder of the cache, by what decides about its files; data that move keep theirs."""
    data = settings["data"]
    root = data["options"].pop("root", None)
    if root is None:  # images that are made
        settings["data"] = source_settings(source)
    name = f"{settings['method']}_{next(iter(settings['options'].values())):g}_{_hash(settings)}"
    if root is not None:
        beside = Path(root) / ".superpixel_cache" / name
        with suppress(OSError):
            beside.mkdir(parents=True, exist_ok=True)
            if os.access(beside, os.W_OK):
                return beside
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "scribbleseg" / "superpixels" / _hash(root) / name


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
