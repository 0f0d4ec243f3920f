"""What the data check found: coded findings, statistics, and their printed form."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from scribbleseg.data.findings import Finding as Finding
from scribbleseg.data.findings import found as found
from scribbleseg.data.findings import printable as printable
from scribbleseg.data.findings import some_names as some_names
from scribbleseg.errors import DataCheckError, ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["CheckReport", "Finding"]

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
                f"the data check found {len(self.errors)} error(s):\n{_shorten(self.errors)}\n"
                "`python -m scribbleseg.data check ROOT` prints the whole report"
            )

    def format(self) -> str:
        """The report as text for a terminal: splits, classes, findings."""
        from scribbleseg.data.check.statistics import loading_sentence, tables

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
            parts.append(f"{len(findings)} {title}\n{_shorten(findings)}".rstrip())
        return "\n".join(parts)


def _shorten(findings: Sequence[Finding]) -> str:
    """Lines with the first findings of every code, and the number of the others."""
    lines = []
    for code in dict.fromkeys(finding.code for finding in findings):
        group = [f"  {finding}" for finding in findings if finding.code == code]
        more = f"  {code} … and {len(group) - _SHOWN_PER_CODE} more"
        lines += [*group[:_SHOWN_PER_CODE], *[more][: max(0, len(group) - _SHOWN_PER_CODE)]]
    return "\n".join(lines)
