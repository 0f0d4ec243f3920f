"""The data check as numbers and files: ``report.html``, ``report.json``, ``contact_sheet.png``."""

from __future__ import annotations

import json
import time
import warnings
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.check.findings import loading_sentence, tables
from scribbleseg.data.check.judge import Group
from scribbleseg.data.findings import printable
from scribbleseg.data.jobs.job import draw_labels, picture_of, write_overview
from scribbleseg.errors import ConfigError, ScribbleSegError
from scribbleseg.functional.image_files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from scribbleseg.data.check.findings import CheckReport
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["write_check_report"]

_PICTURES, _BARS = 8, 40
_CHARTS = {
    "coverage_histogram": "labelled share of an image in percent, number of images",
    "longer_side_histogram": "longer side in pixels, number of images",
    "sizes": "width x height in pixels, number of images",
}
# lower ends of bins, and their names
_COVERAGE = {0.0: "0-0.1", 0.1: "0.1-0.5", 0.5: "0.5-1", 1.0: "1-2", 2.0: "2-5", 5.0: "5-10"}
_COVERAGE |= {10.0: "10-50", 50.0: "50-100"}
_SIDES = {0.0: "0-127", 128.0: "128-255", 256.0: "256-383", 384.0: "384-511", 512.0: "512-767"}
_SIDES |= {768.0: "768-1023", 1024.0: "1024-1535", 1536.0: "1536-2047", 2048.0: "2048-4095"}
_SIDES |= {4096.0: "4096 and more"}


def statistics_of(source: ScribbleSource, groups: Sequence[Group]) -> dict[str, Any]:
    """Counts of every split, of all of them and of every class, as plain Python values."""
    images = sum(group.images for group in groups)
    samples = [item for group in groups for item in group.samples]
    everything = Group(samples, source.num_classes, images=images)
    return {
        "splits": {group.split: _of_split(group) for group in groups},
        "all": _of_split(everything),
        "classes": _of_classes(source.class_names, everything),
    }


def _of_split(group: Group) -> dict[str, Any]:
    """Counts, shares in percent, moments of the channels / 255, strokes in pixels.

    ``labelled_percent`` is the mean over images, strokes are of the images on which they were
    measured; ``None`` where nothing could be measured.
    """
    coverage = 100 * group.labelled[group.drawn] / group.scribble[group.drawn].sum(axis=1)
    compared = group.labelled[group.compared].sum() / 100
    sizes = [item.size for item in group.samples if item.size is not None]
    sides = _histogram([max(size) for size in sizes], _SIDES)
    mean, std = _moments(group)
    strokes, width, length = group.strokes.sum(axis=1)
    unscribbled = int(group.unscribbled.any(axis=1).sum())
    return {
        "images": group.images,
        "checked": len(group.samples),
        "sizes": dict(Counter(f"{width}x{height}" for height, width in sizes).most_common()),
        "longer_side_histogram": {name: images for name, images in sides.items() if images},
        "labelled_percent": float(np.mean(coverage)) if len(coverage) else None,
        "coverage_histogram": _histogram(coverage, _COVERAGE),
        "disagreement_percent": _ratio(group.contradicting.sum(), compared),
        "on_void_percent": _ratio(group.on_void.sum(), compared),
        "without_scribble": len(group.samples) - len(coverage),
        "empty_scribbles": int((coverage == 0).sum()),
        "images_with_unscribbled_class": unscribbled if group.compared.any() else None,
        "mean": mean,
        "std": std,
        "strokes_per_image": _ratio(strokes, group.measured),
        "stroke_width": _ratio(width, length),
    }


def _of_classes(names: Sequence[str], group: Group) -> list[dict[str, Any]]:
    """Pixels and images of every class in scribbles and masks, and its strokes."""
    counts = {
        "scribble_px": group.scribble,
        "images_scribbled": group.scribble > 0,
        "mask_px": group.mask,
        "images_present": group.mask > 0,
        "images_unscribbled": group.unscribbled,
    }
    totals = {key: images.sum(axis=0).tolist() for key, images in counts.items()}
    return [
        {
            "id": label,
            "name": name,
            **{key: total[label] for key, total in totals.items()},
            "strokes_per_image": _ratio(group.strokes[0, label], group.measured),
            "stroke_width": _ratio(*group.strokes[1:, label]),
        }
        for label, name in enumerate(names)
    ]


def _histogram(values: ArrayLike, bins: Mapping[float, str]) -> dict[str, int]:
    """Number of images by a range of values, whose lower ends are the keys of ``bins``."""
    counts = np.histogram(values, [*bins, np.inf])[0].tolist()
    return dict(zip(bins.values(), counts, strict=True))


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _moments(group: Group) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation of each channel / 255 over all pixels."""
    seen = [item for item in group.samples if item.moments.size]
    if len({item.moments.shape for item in seen}) != 1:
        return None, None
    weights = [np.prod(item.size or 0) for item in seen]
    mean, square = np.average([item.moments for item in seen], axis=0, weights=weights)
    return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist()


def measure_loading(source: ScribbleSource, records: Sequence[Record]) -> dict[str, Any] | None:
    """What reading up to 24 samples costs, in this process; ``None`` if none can be read.

    ``epoch_seconds`` is that of one worker, ``sample_mib`` of float32 image, int64 labels and bool
    mask of the largest sample, ``worker_mib`` of two batches of 8 and one sample more.
    """
    times, sizes = [], []
    places = np.linspace(0, len(records) - 1, 24 if records else 0).round().astype(int)
    for record in (records[place] for place in np.unique(places)):
        with suppress(ScribbleSegError, OSError):  # broken files are findings of the check
            start = time.perf_counter()
            height, width, channels = source.read_image(record).shape
            source.read_scribble(record)
            times.append(time.perf_counter() - start)
            sizes.append(height * width * (4 * channels + 8 + 1) / 2**20)
    if not times:
        return None
    median = float(np.median(times))
    return {
        "images": len(records),
        "measured": len(times),
        "ms_per_sample": 1000 * median,
        "epoch_seconds": median * len(records),
        "sample_mib": max(sizes),
        "worker_mib": 17 * max(sizes),
    }


def write_check_report(
    source: ScribbleSource,
    report: CheckReport,
    folder: str | Path,
    *,
    splits: Sequence[Split] = ("train", "val"),
    title: str = "",
) -> Path:
    """Write a checked data set as ``report.html``, ``report.json`` and ``contact_sheet.png``.

    The page needs no other file, no script and no network.

    Args:
        source: Data set, for pictures and colours.
        report: What the check found.
        folder: Folder to write to; files of an earlier report there are replaced.
        splits: Splits that were checked; eight images are shown, those with findings first.
        title: Where the data are, for the head of the page.

    Returns:
        Path of the page.

    Raises:
        ConfigError: If ``folder`` is a file.
    """
    from jinja2 import Environment, FileSystemLoader

    from scribbleseg import __version__

    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--report {folder} is a file, expected a folder; choose another")
    write_text(folder / "report.json", json.dumps(report.to_dict(), indent=2) + "\n")
    pictures = {"png": _draw_sheet(source, report, splits, folder / "contact_sheet.png")}
    if report.statistics:
        pictures["svg+xml"] = _charts(source, report.statistics)
    loading = report.statistics.get("loading")
    page = {
        "title": printable(title or type(source).__name__),
        "kind": f"{type(source).__name__}, {source.num_classes} classes",
        "version": __version__,
        "report": report,
        "tables": tables(report.statistics) if report.statistics else (),
        "loading": loading and loading_sentence(loading),
        "pictures": {kind: b64encode(data).decode() for kind, data in pictures.items() if data},
    }
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    write_text(folder / "report.html", templates.get_template("report.html.jinja").render(page))
    return folder / "report.html"


def _charts(source: ScribbleSource, statistics: Mapping[str, Any]) -> bytes:
    """Bar charts of the classes, of the labelled shares and of the sizes, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    pixels = np.array([(row["scribble_px"], row["mask_px"]) for row in statistics["classes"]])
    percent = 100 * pixels / np.maximum(pixels.sum(axis=0), 1)
    top = np.sort(np.argsort(-percent.max(axis=1), kind="stable")[:_BARS])
    names = [f"{source.class_names[i]}  {percent[i, 0]:.1f} | {percent[i, 1]:.1f} %" for i in top]
    panels = [("share of scribble pixels | of mask pixels", names, percent[top])]
    for key, title in _CHARTS.items():
        bars = list(statistics["all"][key].items())[:10]
        counts = np.array([[images] for _, images in bars]).reshape(-1, 1)
        panels.append((title, [f"{name}  {images:,}" for name, images in bars], counts))
    heights = [2 + len(names) for _, names, _ in panels]
    figure = Figure(figsize=(8, 0.25 * sum(heights)), layout="constrained")
    subplots = figure.subplots(len(panels), height_ratios=heights)
    for axes, (title, names, values) in zip(subplots, panels, strict=True):
        places, thick = np.arange(len(names)), 0.8 / values.shape[1]
        own = source.palette[top] / 255 if axes is subplots[0] else "#2f6fde"
        for series, colour in zip(values.T, (own, "#9aa4b2"), strict=False):
            axes.barh(places, series, thick, color=colour, edgecolor="#9aa4b2", align="edge")
            places = places + thick
        # names of classes and files are no formulas
        ticks = np.arange(len(names)) + 0.4
        axes.set_yticks(ticks, [printable(name) for name in names], parse_math=False)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.invert_yaxis()
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
    stream = BytesIO()
    # text stays text: browsers have the letters of more languages than matplotlib's font
    with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(stream, format="svg")
    return stream.getvalue()


def _draw_sheet(
    source: ScribbleSource, report: CheckReport, splits: Sequence[Split], path: Path
) -> bytes:
    """Eight samples, those with errors first, then those with warnings; empty if there are none."""
    findings = {finding.file: finding for finding in [*report.errors, *report.warnings][::-1]}
    groups: dict[str, list[Record]] = {"error": [], "warning": [], "": []}
    captions: dict[Record, str] = {}
    for split in splits if report.statistics else ():
        with suppress(ScribbleSegError):  # the report says why
            for record in source.records(split):
                mask = source.with_mask(record).mask
                files = map(str, (record.scribble, record.image, mask, record.image_id))
                finding = next((findings[file] for file in files if file in findings), None)
                code, severity = (finding.code, finding.severity) if finding else ("", "")
                groups[severity].append(record)
                captions[record] = printable(f"{code} {split} {record.image_id}".strip())
    shown, rest = (groups["error"] + groups["warning"])[:_PICTURES], groups[""]
    count = min(_PICTURES - len(shown), len(rest))
    shown += [rest[place * len(rest) // count] for place in range(count)]
    if not shown:
        return b""
    write_overview(path, shown, lambda record: _tiles(source, record), captions.__getitem__)
    return path.read_bytes()


def _tiles(source: ScribbleSource, record: Record) -> dict[str, NDArray[np.uint8]]:
    """The image, and the image with its scribble; grey where it cannot be read."""
    picture = drawn = np.full((240, 320, 3), 200, np.uint8)
    with suppress(Exception):  # a finding says why
        picture = drawn = picture_of(source, record)
        drawn = draw_labels(picture, source.read_scribble(record), source, strokes=True)
    return {"image": picture, "scribble": drawn}
