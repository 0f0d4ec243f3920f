"""What the data check found: coded findings, statistics, and their printed form."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from scribbleseg.data.findings import Finding, printable
from scribbleseg.errors import DataCheckError, ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["CheckReport"]

_SHOWN_PER_CODE = 5


def finding_from_error(error: Exception, code: str, file: str) -> Finding:
    """An exception of a reader as finding; the code in its message wins over ``code``."""
    message = str(error) or type(error).__name__
    if not isinstance(error, ScribbleSegError):
        message = f"cannot be read ({type(error).__name__}: {error}); copy it again from its source"
    coded = re.match(r"(D\d{3}):? (.*)", message, re.DOTALL)
    if coded:
        return Finding(coded[1], "error", coded[2], file)
    return Finding(code, "error", message if file in message else f"{file}: {message}", file)


@contextmanager
def caught(findings: list[Finding], code: str, file: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a finding: a broken file must not hide the others."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        findings.append(finding_from_error(error, code, file))


@dataclass
class CheckReport:
    """Result of a data check.

    Attributes:
        findings: Problems in the order of their codes; errors of one code before its warnings.
        statistics: ``splits``, ``all``, ``classes`` and, where it was measured, ``loading``: plain
            Python values; shares in percent, ``mean`` and ``std`` of channels divided by 255.
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
        findings = [asdict(finding) for finding in self.findings]
        return {"ok": not self.errors, "findings": findings, "statistics": self.statistics}

    def raise_if_errors(self) -> None:
        """Stop if there are errors.

        Raises:
            DataCheckError: Listing the first findings of each code and the number of the others.
        """
        if self.errors:
            raise DataCheckError(
                f"the data check found {len(self.errors)} error(s):\n{shortened(self.errors)}\n"
                "`python -m scribbleseg.data check ROOT` prints the whole report"
            )

    def format(self) -> str:
        """The report as text for a terminal: splits, classes, findings."""
        parts = []
        for table in tables(self.statistics):
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            for first, *others in table:
                row = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
                parts.append("  ".join(row).rstrip())
            parts.append("")
        if "loading" in self.statistics:
            parts += [loading_sentence(self.statistics["loading"]), ""]
        for title, findings in (("errors", self.errors), ("warnings", self.warnings)):
            parts.append(f"{len(findings)} {title}\n{shortened(findings)}".rstrip())
        return "\n".join(parts)


def shortened(findings: Sequence[Finding]) -> str:
    """Lines with the first findings of every code, and the number of the others."""
    lines = []
    for code in dict.fromkeys(finding.code for finding in findings):
        group = [f"  {finding}" for finding in findings if finding.code == code]
        more = f"  {code} … and {len(group) - _SHOWN_PER_CODE} more"
        lines += [*group[:_SHOWN_PER_CODE], *[more][: max(0, len(group) - _SHOWN_PER_CODE)]]
    return "\n".join(lines)


def loading_sentence(loading: Mapping[str, Any]) -> str:
    """What :func:`measure_loading` found, for the report."""
    return (
        "reading: {ms_per_sample:.1f} ms for an image and its scribble (median of {measured}), so "
        "{epoch_seconds:.1f} s of one worker for an epoch of {images:,} images, without "
        "augmentation; the largest sample is {sample_mib:.1f} MiB, so a worker holds about "
        "{worker_mib:.0f} MiB for two batches of 8, besides its libraries"
    ).format_map(loading)


def tables(statistics: Mapping[str, Any]) -> list[list[list[str]]]:
    """Rows of text: what was counted, a column per split, and a row per class."""
    splits: dict[str, Any] = dict(statistics.get("splits", {}))
    if len(splits) > 1:
        splits["all"] = statistics["all"]
    rows = [["", *splits]]
    for key in next(iter(splits.values()), {}):
        values = [split[key] for split in splits.values()]
        if "histogram" not in key and values.count(None) < len(values):
            rows.append([key.replace("_", " "), *map(_cell, values)])
    classes = statistics.get("classes", [])
    columns = [*(classes or [{}])[0]][2:]  # the first two are id and name
    body = [["class", *(key.replace("_", " ") for key in columns)]]
    for row in classes:
        name = printable(f"{row['id']} {row['name']}")
        body.append([name, *(_cell(row[key]) for key in columns)])
    return [rows, body]


def _cell(value: Any) -> str:
    if isinstance(value, dict):  # sizes, the most frequent first
        return ", ".join([*value][:1]) + (f" and {len(value) - 1} more" if len(value) > 1 else "")
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return "–" if value is None else f"{value:,}"
