"""The data check as files: ``report.html`` to read, ``report.json``, and ``contact_sheet.png``."""

from __future__ import annotations

import base64
import html
import io as streams
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from scribbleseg.data.findings import loading_sentence
from scribbleseg.data.report_charts import bar_chart, class_chart
from scribbleseg.data.report_sheet import draw_sheet
from scribbleseg.errors import ConfigError
from scribbleseg.functional.image_files import write_text
from scribbleseg.functional.images import write_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scribbleseg.data.findings import CheckReport, Finding
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Split

__all__ = ["write_check_report"]

_PER_CODE = 20
_SPLIT_ROWS = (
    ("images", "images", "{:,}"),
    ("checked", "looked at", "{:,}"),
    ("labelled_percent", "labelled pixels of an image, %", "{:.3g}"),
    ("disagreement_percent", "labelled pixels that contradict the mask, %", "{:.3g}"),
    ("on_void_percent", "labelled pixels on void, %", "{:.3g}"),
    ("without_scribble", "images without scribble", "{:,}"),
    ("empty_scribbles", "empty scribbles", "{:,}"),
    ("images_with_unscribbled_class", "images with a class that is not scribbled", "{:,}"),
    ("strokes_per_image", "strokes per image", "{:.1f}"),
    ("stroke_width", "stroke width, px", "{:.1f}"),
    ("mean", "channel mean", "{:.3f}"),
    ("std", "channel standard deviation", "{:.3f}"),
)
_CLASS_COLUMNS = (
    ("scribble_px", "scribble px"),
    ("images_scribbled", "in images"),
    ("mask_px", "mask px"),
    ("images_present", "in images"),
    ("images_unscribbled", "unscribbled in"),
    ("strokes_per_image", "strokes per image"),
    ("stroke_width", "stroke px"),
)

_STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --soft: #5c6675; --line: #dfe3e8;
  --back: #ffffff; --card: #f6f7f9; --accent: #2f6fde; --second: #e08a1e;
  --bad: #b3261e; --warn: #8a5a00; --good: #1b7a3d; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9aa4b2; --line: #333a44;
  --back: #14181d; --card: #1c2127; --accent: #6ea2ff; --second: #f0ab4f;
  --bad: #ff8a80; --warn: #ffc65c; --good: #6fd893; } }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
p.place { color: var(--soft); margin: 0 0 1.25rem; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem 1rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em;
  vertical-align: -.05em; border: 1px solid var(--line); }
.finding { border-left: 3px solid currentColor; background: var(--card); padding: .5rem .9rem;
  margin: .5rem 0; border-radius: 0 6px 6px 0; }
.finding p { color: var(--text); margin: 0; overflow-wrap: anywhere; }
.finding b { margin-right: .5rem; }
.charts { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--text); font-size: 12px; }
svg .soft { fill: var(--soft); } svg .first { fill: var(--accent); }
svg .second { fill: var(--second); }
img { max-width: 100%; height: auto; border-radius: 6px; }
"""


def write_check_report(
    source: ScribbleSource,
    report: CheckReport,
    folder: str | Path,
    *,
    splits: Sequence[Split] = ("train", "val"),
    title: str = "",
) -> Path:
    """Write a checked data set as ``report.html``, ``report.json`` and ``contact_sheet.png``.

    The page needs no other file, no script and no network. Time: about 30 ms per picture on the
    sheet, of which there are at most 24.

    Args:
        source: Data set, for pictures and colours.
        report: What the check found.
        folder: Folder to write to; files of an earlier report there are replaced.
        splits: Splits that were checked; pictures are drawn from them.
        title: Where the data are, for the head of the page.

    Returns:
        Path of the page.

    Raises:
        ConfigError: If ``folder`` is a file.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--report {folder} is a file, expected a folder; choose another")
    content = report.to_dict()
    write_text(folder / "report.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    sheet = draw_sheet(source, report.findings, splits=splits)
    picture = None
    if sheet is not None:
        write_image(folder / "contact_sheet.png", sheet)
        picture = _inline(sheet)
    path = folder / "report.html"
    write_text(path, _page(source, report, picture, title or type(source).__name__))
    return path


def _inline(sheet: Any) -> str:
    """A JPEG for the page: a tenth of the PNG's size."""
    stream = streams.BytesIO()
    Image.fromarray(sheet).save(stream, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _page(source: ScribbleSource, report: CheckReport, picture: str | None, title: str) -> str:
    from scribbleseg import __version__

    statistics = report.statistics
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Data check: {html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        "<h1>Data check</h1>",
        f'<p class="place">{html.escape(title)} &middot; {html.escape(type(source).__name__)}, '
        f"{source.num_classes} classes &middot; scribbleseg {html.escape(__version__)}</p>",
        _tiles(report),
        "<h2>Findings</h2>",
        *_findings(report),
    ]
    if statistics:
        parts += ["<h2>Splits</h2>", _split_table(statistics), *_charts(source, statistics)]
        parts += ["<h2>Classes</h2>", _class_table(source, statistics)]
        if statistics.get("loading"):
            sentence = loading_sentence(statistics["loading"])
            parts += [
                "<h2>Reading</h2>",
                f"<p>{html.escape(sentence[:1].upper() + sentence[1:])}.</p>",
            ]
    if picture is not None:
        parts += [
            "<h2>Images with their scribbles</h2>",
            f'<p class="place">{_SHEET_NOTE}</p>',
            f'<img alt="images with scribbles drawn over them" src="{picture}">',
        ]
    return "\n".join([*parts, "</body></html>", ""])


_SHEET_NOTE = (
    "Files named by a finding come first, framed; then images spread evenly over the splits. "
    "Strokes are thickened where the picture is reduced."
)


def _tiles(report: CheckReport) -> str:
    everything = report.statistics.get("all", {})
    errors, warnings = len(report.errors), len(report.warnings)
    tiles = [
        (f"{errors}", "errors", "bad" if errors else "good"),
        (f"{warnings}", "warnings", "warn" if warnings else "good"),
        (_text(everything.get("images"), "{:,}"), "images", ""),
        (_text(everything.get("labelled_percent"), "{:.3g} %"), "of an image labelled", ""),
        (_text(everything.get("disagreement_percent"), "{:.2g} %"), "contradict the mask", ""),
        (_text(everything.get("strokes_per_image"), "{:.1f}"), "strokes per image", ""),
    ]
    cells = "".join(
        f'<div class="tile"><b class="{kind}">{value}</b><span>{name}</span></div>'
        for value, name, kind in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _text(value: Any, form: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(form.format(part) for part in value)
    return form.format(value)


def _findings(report: CheckReport) -> Iterable[str]:
    if not report.findings:
        yield '<p class="good">Nothing was found.</p>'
    for kind, findings in (("bad", report.errors), ("warn", report.warnings)):
        codes: dict[str, list[Finding]] = {}
        for finding in findings:
            codes.setdefault(finding.code, []).append(finding)
        for code, group in codes.items():
            for finding in group[:_PER_CODE]:
                yield (
                    f'<div class="finding {kind}"><p><b class="{kind}">{code} '
                    f"{finding.severity}</b>{html.escape(finding.message)}</p></div>"
                )
            if len(group) > _PER_CODE:
                yield f"<p>{code}: and {len(group) - _PER_CODE} more, see report.json.</p>"


def _split_table(statistics: Mapping[str, Any]) -> str:
    columns = dict(statistics["splits"])
    if len(columns) > 1:
        columns["all"] = statistics["all"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = [
        f"<tr><td>{label}</td>"
        + "".join(f"<td>{_text(split.get(key), form)}</td>" for split in columns.values())
        + "</tr>"
        for key, label, form in _SPLIT_ROWS
        if any(split.get(key) is not None for split in columns.values())
    ]
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _charts(source: ScribbleSource, statistics: Mapping[str, Any]) -> list[str]:
    everything = statistics["all"]
    colours = ["#{:02x}{:02x}{:02x}".format(*source.palette[i]) for i in range(source.num_classes)]
    charts = [
        ("share of the scribble pixels and of the mask pixels, by class", class_chart(
            statistics["classes"], colours
        )),
        ("labelled share of an image in percent, number of images",
         bar_chart(everything["coverage_histogram"])),
        ("longer side in pixels, number of images", bar_chart(everything["longer_side_histogram"])),
        ("width x height in pixels, number of images",
         bar_chart(dict(list(everything["sizes"].items())[:10]))),
    ]  # fmt: skip
    figures = "".join(
        f"<figure><figcaption>{caption}</figcaption>{chart}</figure>"
        for caption, chart in charts
        if chart
    )
    return ["<h2>Distributions</h2>", f'<div class="charts">{figures}</div>']


def _class_table(source: ScribbleSource, statistics: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{title}</th>" for _, title in _CLASS_COLUMNS)
    rows = []
    for row in statistics["classes"]:
        red, green, blue = (int(part) for part in source.palette[row["id"]])
        cells = "".join(
            f"<td>{_text(row.get(key), '{:.1f}' if isinstance(row.get(key), float) else '{:,}')}"
            "</td>"
            for key, _ in _CLASS_COLUMNS
        )
        rows.append(
            f'<tr><td><span class="chip" style="background:rgb({red},{green},{blue})"></span>'
            f"{row['id']} {html.escape(str(row['name']))}</td>{cells}</tr>"
        )
    return f'<div class="scroll"><table><tr><th>class</th>{head}</tr>{"".join(rows)}</table></div>'
