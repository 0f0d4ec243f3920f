"""The data check as files: ``report.html`` to read, ``report.json``, and ``contact_sheet.png``."""

from __future__ import annotations

import json
import warnings
from base64 import b64encode
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.check.findings import printable
from scribbleseg.data.check.statistics import loading_sentence, tables
from scribbleseg.data.jobs.job import draw_labels, picture_of, write_overview
from scribbleseg.errors import ConfigError, ScribbleSegError
from scribbleseg.functional.image_files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

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
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = templates.get_template("report.html.jinja").render(
        title=printable(title or type(source).__name__),
        kind=f"{type(source).__name__}, {source.num_classes} classes · scribbleseg {__version__}",
        report=report,
        tables=tables(report.statistics) if report.statistics else (),
        loading=loading and loading_sentence(loading),
        pictures={kind: b64encode(data).decode() for kind, data in pictures.items() if data},
    )
    write_text(folder / "report.html", page)
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
    captions: dict[str, str] = {}
    for split in splits if report.statistics else ():
        with suppress(ScribbleSegError):  # the report says why
            for record in source.records(split):
                mask = source.with_mask(record).mask
                files = map(str, (record.scribble, record.image, mask, record.image_id))
                finding = next((findings[file] for file in files if file in findings), None)
                code, severity = (finding.code, finding.severity) if finding else ("", "")
                groups[severity].append(record)
                caption = printable(f"{code} {split} {record.image_id}".strip())
                captions.setdefault(record.image_id, caption)
    shown, rest = (groups["error"] + groups["warning"])[:_PICTURES], groups[""]
    count = min(_PICTURES - len(shown), len(rest))
    shown += [rest[place * len(rest) // count] for place in range(count)]
    if not shown:
        return b""
    write_overview(
        path,
        shown,
        lambda record: _tiles(source, record),
        lambda record: captions[record.image_id],
    )
    return path.read_bytes()


def _tiles(source: ScribbleSource, record: Record) -> dict[str, NDArray[np.uint8]]:
    """The image, and the image with its scribble; grey where it cannot be read."""
    picture = drawn = np.full((240, 320, 3), 200, np.uint8)
    with suppress(Exception):  # a finding says why
        picture = drawn = picture_of(source, record)
        drawn = draw_labels(picture, source.read_scribble(record), source, strokes=True)
    return {"image": picture, "scribble": drawn}
