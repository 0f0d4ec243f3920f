"""Markdown tables of what ``ops.py`` measured, and its bars."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """A limit for the first way of a case, at the sizes it is reported for.

    Attributes:
        case: Name of the case.
        unit: ``"s"`` and ``"MiB"`` limit our median and peak, ``"ratio"`` our median over that of
            another way.
        limit: Largest value that meets the bar.
        against: Label of the other way, for a ratio.
    """

    case: str
    unit: str
    limit: float
    against: str | None = None

    @property
    def name(self) -> str:
        limit = (
            f"{self.limit:g} × {self.against}" if self.against else f"{self.limit:g} {self.unit}"
        )
        return f"{self.case} ≤ {limit}"


# one core of a CPU; a GPU has no bars yet
BARS = (
    Bar("dense_crf", "s", 3.5),
    Bar("dense_crf", "ratio", 1.5, "pydensecrf"),
    Bar("tree_filter", "s", 0.5),
    Bar("sparse_random_walk", "s", 0.8),
    Bar("sparse_random_walk", "MiB", 100),
    Bar("spherical_kmeans", "ratio", 1.05, "faiss"),
)


def judge(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Value of each bar, and whether it is met; None if it was not measured."""
    found = {case["name"]: case["ways"] for case in cases}
    judged = []
    for bar in BARS:
        value = None
        for way in found.get(bar.case, [])[: None if bar.against else 1]:
            if bar.against is None:
                value = way.get("peak_mib" if bar.unit == "MiB" else "median_s")
            elif way["label"] == bar.against:
                value = way.get("ratio")
        met = None if value is None else value <= bar.limit
        judged.append({"bar": bar.name, **asdict(bar), "value": value, "met": met})
    return judged


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 0.1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [_row(head), "|" + "---|" * len(head), *map(_row, rows), ""]


def case_rows(case: dict[str, Any]) -> list[list[str]]:
    sizes = ", ".join(f"{key} {value}" for key, value in case["sizes"].items())
    rows = []
    for number, way in enumerate(case["ways"]):
        head = [f"{case['about']} (`{case['name']}`; {sizes})" if not number else ""]
        head += [way["kind"], way["label"]]
        if "skipped" in way:
            rows.append([*head, f"skipped: {way['skipped']}", *["–"] * 5])
            continue
        rows.append(
            [
                *head,
                seconds(way["median_s"]),
                seconds(way["iqr_s"]),
                seconds(way["min_s"]),
                _number(way.get("ratio"), ".3g"),
                _number(way.get("peak_mib"), ".0f"),
                _number(way.get("deviation"), ".0e"),
            ]
        )
    return rows


def markdown(header: dict[str, Any], results: dict[str, Any]) -> str:
    """The whole report."""
    head = ["case", "", "way", "median", "IQR", "min", "ours / it", "peak MiB", "differs by"]
    lines = [
        f"{header['device']}; {header['settings']['threads']} thread(s); {header['date']}; "
        f"commit {header['commit'][:12]}{'+changes' if header['commit'].endswith('s') else ''}.",
        "",
        "Rounds run all ways in turns. Ours / it: ratio of medians, below 1 we are faster. Peak: "
        "memory above the inputs, result included. Differs by: sum of the differences from our "
        "first way over the sum of its values.",
        "",
        *_table(head, [row for case in results["cases"] for row in case_rows(case)]),
    ]
    if results["bars"]:
        words = {True: "met", False: "missed", None: "not measured"}
        rows = [
            [bar["bar"], _number(bar["value"], ".3g"), words[bar["met"]]] for bar in results["bars"]
        ]
        lines += _table(["bar", "measured", ""], rows)
    if results["growth"]:
        lines += ["Growth, best of three:", "", *growth_table(results["growth"])]
    return "\n".join(lines)


def growth_table(rows: list[dict[str, Any]]) -> list[str]:
    sides = sorted({row["side"] for row in rows})
    lines: dict[tuple[str, int], dict[int, str]] = {}
    for row in rows:
        cells = lines.setdefault((row["about"], row["batch"]), {})
        cells[row["side"]] = seconds(row["min_s"])
    head = ["block", "batch", *(f"{side}²" for side in sides)]
    return _table(
        head,
        [
            [about, str(batch), *(cells.get(side, "–") for side in sides)]
            for (about, batch), cells in lines.items()
        ],
    )
