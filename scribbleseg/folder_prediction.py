"""Labelling a folder of images: resumable, tolerant of broken files, with pictures to look at."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.errors import ConfigError
from scribbleseg.functional.contact_sheet import contact_sheet, thumbnails
from scribbleseg.functional.image_files import find_images, unique_names, write_arrays, write_text
from scribbleseg.functional.images import overlay_labels, write_image, write_label
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.manifest import content_digest
from scribbleseg.inference import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from scribbleseg.predictor import Predictor

__all__ = ["FailedImage", "FolderReport", "predict_folder"]

logger = logging.getLogger(__name__)

_AHEAD = 2  # images decoded while the network is busy
_OVERVIEW_IMAGES = 12
_LOG_SECONDS = 30.0


class FailedImage(NamedTuple):
    """An image that has no prediction.

    Attributes:
        image: Name relative to the input folder.
        reason: What went wrong.
    """

    image: str
    reason: str


@dataclass(frozen=True)
class FolderReport:
    """Outcome of :func:`predict_folder`.

    Attributes:
        output: Folder of the results.
        written: Images predicted by this call.
        skipped: Images whose results were there already.
        failed: Images without a result.
        pixel_share: Class name to its share of the pixels of all results, in [0, 1].
    """

    output: Path
    written: int
    skipped: int
    failed: tuple[FailedImage, ...]
    pixel_share: dict[str, float]


class _Finished(NamedTuple):
    """Results that an earlier run left: pixels per id, int64, shape ``(256,)``."""

    pixels: NDArray[np.int64]


class _Broken(NamedTuple):
    """An image that cannot be decoded."""

    reason: str


@dataclass(frozen=True)
class _Job:
    """One image and the files that are made of it."""

    image: Path
    name: str
    label: Path
    overlay: Path | None
    probabilities: Path | None

    def load(
        self, overwrite: bool, read_image: Callable[[Path], NDArray[np.uint8]]
    ) -> _Finished | _Broken | NDArray[np.uint8]:
        """The earlier result, or else the pixels of the image; runs in a thread."""
        wanted = (self.label, self.overlay, self.probabilities)
        if not overwrite and all(path is None or path.is_file() for path in wanted):
            try:
                return _Finished(_count(_read_ids(self.label)))
            except (OSError, SyntaxError, ValueError):
                logger.warning("%s is damaged and made anew", self.label)
        try:
            return read_image(self.image)
        except Exception as error:  # noqa: BLE001 (decoders raise anything on damaged files)
            return _Broken(str(error) or type(error).__name__)


def predict_folder(
    predictor: Predictor,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    overwrite: bool = False,
    overlay: bool = True,
    save_prob: bool = False,
    progress: bool = True,
) -> FolderReport:
    """Label every image of a folder.

    Writes ``labels/<name>.png`` (palette PNG of ids at the size of the image),
    ``overlays/<name>.jpg``, ``probabilities/<name>.npz`` (key ``probs``, float16, shape
    ``(C, H, W)``), ``overview.jpg`` and ``report.json``. Sub-folders are kept. ``<name>`` is the
    relative path without suffix; where two images share it (``a.jpg``, ``a.png``), both keep theirs
    (``labels/a.jpg.png``). Files appear atomically, so an interrupted call continues where it
    stopped. An image that cannot be read or does not fit into memory is logged and reported; a
    later call tries it again.

    Args:
        predictor: Labels one image.
        images: Folder, pattern such as ``"photos/**/*.jpg"``, file, or sequence of files.
        output: Folder of the results; may lie inside the image folder.
        overwrite: Predict again what is there already.
        overlay: Write pictures with the labels drawn over the image.
        save_prob: Write the probabilities.
        progress: Show a progress bar, or log lines where stderr is no terminal.

    Returns:
        What was done; look at ``failed``.

    Raises:
        ScribbleNotFoundError: If there are no images.
        LabelFormatError: If a link leaves the folder (D501).
        ConfigError: If ``output`` holds predictions of other weights, classes or options.
    """
    output = Path(output).expanduser()
    made = [output / name for name in ("labels", "overlays", "probabilities", "overview.jpg")]
    files = find_images(images, exclude=made)
    jobs = [
        _Job(
            image=path,
            name=str(relative),
            label=output / "labels" / f"{name}.png",
            overlay=output / "overlays" / f"{name}.jpg" if overlay else None,
            probabilities=output / "probabilities" / f"{name}.npz" if save_prob else None,
        )
        for (path, relative), name in zip(
            files, unique_names([relative for _, relative in files]), strict=True
        )
    ]
    settings = _settings(predictor)
    report_file = output / "report.json"
    differing = _differing(report_file, jobs, settings)
    if differing and not overwrite:
        raise ConfigError(
            f"{output} holds predictions made otherwise ({differing}), and a folder holds those of "
            "one kind: choose another output folder, or overwrite=True (--overwrite true)"
        )
    if differing:  # a run that is stopped would leave a mixture, and so would other kinds of files
        for job in jobs:
            name = job.label.relative_to(output / "labels").with_suffix("")
            for folder, suffix in (
                ("labels", "png"),
                ("overlays", "jpg"),
                ("probabilities", "npz"),
            ):
                (output / folder / f"{name}.{suffix}").unlink(missing_ok=True)

    pixels = np.zeros(256, dtype=np.int64)
    done: list[_Job] = []
    failed: list[FailedImage] = []
    written = 0
    for job, loaded in _with_progress(
        _load_ahead(jobs, overwrite, predictor.read_image), len(jobs), progress
    ):
        if isinstance(loaded, _Finished):
            counts = loaded.pixels
        elif isinstance(loaded, _Broken):
            failed.append(_failure(job, loaded.reason))
            continue
        else:
            if not written:  # the settings, should this run be killed
                _write_report(report_file, {**settings, "complete": False})
            try:
                counts = _predict(predictor, job, loaded)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                failed.append(_failure(job, f"does not fit into memory: {error}"))
                continue
            written += 1
        pixels += counts
        done.append(job)

    names = predictor.data_info.class_names
    total = max(int(pixels.sum()), 1)
    share = {name: int(count) / total for name, count in zip(names, pixels, strict=False)}
    if done and (written or not (output / "overview.jpg").is_file()):
        _write_overview(predictor, done, output / "overview.jpg")
    _write_report(
        report_file,
        {
            **settings,
            "complete": True,
            "images": len(jobs),
            "predicted": len(done),
            "failed": [failure._asdict() for failure in failed],
            "pixels": {name: int(n) for name, n in zip(names, pixels, strict=False)},
            "pixel_share": {name: round(value, 6) for name, value in share.items()},
        },
    )
    return FolderReport(output, written, len(done) - written, tuple(failed), share)


def _failure(job: _Job, reason: str) -> FailedImage:
    logger.warning("no prediction for %s: %s", job.name, reason)
    return FailedImage(job.name, reason)


def _predict(predictor: Predictor, job: _Job, image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Write the results of one image, its labels last; pixels per id."""
    info = predictor.data_info
    palette = np.array(info.palette, dtype=np.uint8)
    labels, probabilities = predictor(image, probabilities=job.probabilities is not None)
    if job.probabilities is not None and probabilities is not None:
        write_arrays(job.probabilities, probs=probabilities.astype(np.float16))
    if job.overlay is not None:
        colours = rgb_view(image, info.rgb_channels)
        drawn = overlay_labels(colours, labels, palette, background=info.background)
        write_image(job.overlay, drawn)
    write_label(job.label, labels, palette)
    return _count(labels)


def _load_ahead(
    jobs: list[_Job], overwrite: bool, read_image: Callable[[Path], NDArray[np.uint8]]
) -> Iterator[tuple[_Job, _Finished | _Broken | NDArray[np.uint8]]]:
    """Load images in order, in a thread that is a few images ahead of the consumer."""
    waiting = iter(jobs)
    queue: deque[tuple[_Job, Future[_Finished | _Broken | NDArray[np.uint8]]]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
    try:
        while True:
            for job in islice(waiting, _AHEAD + 1 - len(queue)):
                queue.append((job, pool.submit(job.load, overwrite, read_image)))
            if not queue:
                return
            job, future = queue.popleft()
            yield job, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _with_progress(items: Iterator[Any], total: int, enabled: bool) -> Iterator[Any]:
    """Pass items on; show how many there were, and the time left."""
    if enabled and sys.stderr.isatty():
        yield from tqdm(items, total=total, unit="image", desc="predict")
        return
    start = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if enabled and (number == total or now - last >= _LOG_SECONDS):
            last = now
            left = (now - start) / number * (total - number)
            logger.info("predicted %d of %d images, %.0f s left", number, total, left)


def _settings(predictor: Predictor) -> dict[str, Any]:
    """What the results depend on, as it comes back from JSON."""
    info = predictor.data_info
    facts = {
        "classes": list(info.class_names),
        "colors": info.palette[: info.num_classes],
        "resize": info.resize,
        "inference": predictor.inference.to_dict(),
        "weights": content_digest(getattr(predictor.module, "state_dict", dict)()),
        "checkpoint": getattr(predictor.module, "checkpoint_info", None),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def _differing(report_file: Path, jobs: list[_Job], settings: dict[str, Any]) -> str:
    """What the results that are there were made with otherwise, for a message."""
    if not any(job.label.is_file() for job in jobs):
        return ""
    try:
        earlier = json.loads(report_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"no {report_file.name} says how"
    keys = [key for key in settings if key != "checkpoint" and earlier.get(key) != settings[key]]
    return "; ".join(
        f"{key}: {_brief(earlier.get(key))}, now {_brief(settings[key])}" for key in keys
    )


def _brief(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 40 else str(value)


def _write_report(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_overview(predictor: Predictor, jobs: list[_Job], path: Path) -> None:
    """Contact sheet of images spread evenly over the run."""
    info = predictor.data_info
    palette = np.array(info.palette, dtype=np.uint8)
    chosen = np.unique(np.linspace(0, len(jobs) - 1, _OVERVIEW_IMAGES).round().astype(int))
    rows, names = [], []
    for job in (jobs[index] for index in chosen):
        try:
            image, labels = predictor.read_image(job.image), _read_ids(job.label)
        except (OSError, ValueError) as error:  # changed since it was predicted
            logger.warning("%s is left out of the overview: %s", job.name, error)
            continue
        image = rgb_view(image, info.rgb_channels)
        rows.append(thumbnails(image, labels, palette, background=info.background))
        names.append(job.name)
    if rows:
        write_image(path, contact_sheet(rows, names))


def _read_ids(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        if image.mode not in {"P", "L"}:
            raise ValueError(f"{path} is no palette PNG of ids")
        return np.array(image, dtype=np.uint8)


def _count(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=256).astype(np.int64)
