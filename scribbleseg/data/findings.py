"""What the data check found: coded findings, statistics, and their printed form."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from scribbleseg.errors import DataCheckError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CheckReport", "Finding", "finding_from_error", "loading_sentence", "some_names"]

_CODE = re.compile(r"(D\d{3}):? (.*)", re.DOTALL)
_SHOWN_PER_CODE = 5


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        code: Stable code, such as ``"D101"``.
        severity: ``"error"`` stops training, ``"warning"`` does not.
        message: What is wrong, where, the value, what was expected, the likely cause and the fix.
        file: File or folder that is concerned, if there is one.
    """

    code: str
    severity: Literal["error", "warning"]
    message: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


def finding_from_error(error: Exception, code: str, file: str | None) -> Finding:
    """An exception of a reader as finding; the code in its message wins over ``code``."""
    message = str(error) or type(error).__name__
    match = _CODE.match(message)
    if match:
        code, message = match[1], match[2]
    elif file is not None and file not in message:
        message = f"{file}: {message}"
    return Finding(code, "error", message, file)


def some_names(names: Sequence[str]) -> str:
    """The first five names and the number of the others, for messages."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


@dataclass
class CheckReport:
    """Result of a data check.

    Attributes:
        findings: Problems in the order of their codes; errors of one code before its warnings.
        statistics: ``splits`` (images, sizes, shares in percent), ``classes`` (pixel and image
            counts) and, where it was measured, ``loading``; plain Python values.
    """

    findings: list[Finding] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop training."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that do not stop training."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {
            "ok": not self.errors,
            "findings": [asdict(finding) for finding in self.findings],
            "statistics": self.statistics,
        }

    def raise_if_errors(self) -> None:
        """Stop if there are errors.

        Raises:
            DataCheckError: Listing the first findings of each code and the number of the others.
        """
        if self.errors:
            listed = "\n".join(_shorten(self.errors))
            raise DataCheckError(
                f"the data check found {len(self.errors)} error(s):\n{listed}\n"
                "`python -m scribbleseg.data check ROOT` prints the whole report"
            )

    def format(self) -> str:
        """The report as text: splits, classes, findings."""
        lines = [*_split_lines(self.statistics), "", *_class_lines(self.statistics), ""]
        if "loading" in self.statistics:
            lines += [loading_sentence(self.statistics["loading"]), ""]
        for title, findings in (("errors", self.errors), ("warnings", self.warnings)):
            lines += [f"{len(findings)} {title}", *_shorten(findings)]
        return "\n".join(lines)


def loading_sentence(loading: dict[str, Any]) -> str:
    """What reading costs, from :func:`~scribbleseg.data.loading.measure_loading`."""
    return (
        f"reading: {loading['ms_per_sample']:.1f} ms for an image and its scribble (median of "
        f"{loading['measured']}), so {loading['epoch_seconds']:.1f} s of one worker for an epoch "
        f"of {loading['images']:,} images, without augmentation; the largest sample is "
        f"{loading['sample_mib']:.1f} MiB, so a worker holds about {loading['worker_mib']:.0f} MiB "
        "for two batches of 8, besides its libraries"
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shorten(findings: list[Finding]) -> list[str]:
    total = Counter(finding.code for finding in findings)
    shown: Counter[str] = Counter()
    lines = []
    for finding in findings:
        shown[finding.code] += 1
        if shown[finding.code] <= _SHOWN_PER_CODE:
            lines.append(f"  {finding}")
        elif shown[finding.code] == total[finding.code]:
            lines.append(f"  {finding.code} … and {total[finding.code] - _SHOWN_PER_CODE} more")
    return lines


def _split_lines(statistics: dict[str, Any]) -> list[str]:
    lines = []
    splits = statistics.get("splits", {})
    both = {"all": statistics["all"]} if len(splits) > 1 else {}
    for name, split in {**splits, **both}.items():
        checked = "" if split["checked"] == split["images"] else f" ({split['checked']} checked)"
        lines.append(f"{name}: {split['images']} images{checked}")
        if split["sizes"]:
            sizes = ", ".join(f"{size} ({n})" for size, n in list(split["sizes"].items())[:4])
            more = f" and {len(split['sizes']) - 4} more" if len(split["sizes"]) > 4 else ""
            lines.append(f"  sizes (width x height): {sizes}{more}")
        for key, text in (
            ("labelled_percent", "of an image is labelled on average"),
            ("disagreement_percent", "of the labelled pixels contradict the mask"),
            ("on_void_percent", "of the labelled pixels lie on void"),
        ):
            if split[key] is not None:
                lines.append(f"  {split[key]:.3g} % {text}")
        if split["images_with_unscribbled_class"] is not None:
            lines.append(
                f"  {split['images_with_unscribbled_class']} images show a class they have no "
                "scribble of"
            )
        if split.get("strokes_per_image") is not None:
            lines.append(
                f"  {split['strokes_per_image']:.1f} strokes per image, {split['stroke_width']:.1f}"
                " px wide on average"
            )
        if split["mean"] is not None:
            mean, std = (", ".join(f"{v:.3f}" for v in split[key]) for key in ("mean", "std"))
            name = "RGB" if len(split["mean"]) == 3 else "channel"
            lines.append(f"  {name} mean {mean}; std {std}")
    return lines


def _class_lines(statistics: dict[str, Any]) -> list[str]:
    columns = {
        "id": "id",
        "name": "class",
        "scribble_px": "scribble px",
        "images_scribbled": "in images",
        "mask_px": "mask px",
        "images_present": "in images",
        "images_unscribbled": "unscribbled in",
        "stroke_width": "stroke px",
    }
    table = [list(columns.values())]
    table += [[_cell(row.get(key)) for key in columns] for row in statistics.get("classes", [])]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if i == 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
