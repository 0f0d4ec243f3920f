"""Bar charts as inline SVG: no library, no script, colours of the page's style sheet."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["bar_chart", "class_chart"]

_NAMES, _BARS, _NUMBERS = 120, 210, 110  # units of the drawing, about pixels on the page
_ROW, _BAR = 22, 14
_MOST = 40


def bar_chart(counts: Mapping[str, float]) -> str:
    """Horizontal bars with their numbers.

    Args:
        counts: Name to value, from 0.

    Returns:
        SVG text; empty if there is nothing to draw.

    Example:
        >>> bar_chart({"a": 3}).startswith("<svg")
        True
    """
    if not any(counts.values()):
        return ""
    most = max(counts.values())
    rows = []
    for index, (name, value) in enumerate(counts.items()):
        top = index * _ROW
        rows += [
            _name(name, top + 15),
            _bar(top + 4, _BAR, value / most, 'class="first"'),
            _number(f"{value:,}", top + 15, value / most),
        ]
    return _svg(rows, len(counts) * _ROW)


def class_chart(classes: Sequence[Mapping[str, Any]], colours: Sequence[str]) -> str:
    """Two bars per class: its share of the scribbles in the class's colour, of the masks in grey.

    Args:
        classes: Rows with ``name``, ``scribble_px`` and ``mask_px``.
        colours: CSS colour per class.

    Returns:
        SVG text of the 40 most frequent classes; empty if nothing is labelled.
    """
    drawn = sum(row["scribble_px"] for row in classes)
    dense = sum(row["mask_px"] for row in classes)
    if not drawn and not dense:
        return ""
    shares = [
        (row["name"], row["scribble_px"] / max(drawn, 1), row["mask_px"] / max(dense, 1), colour)
        for row, colour in zip(classes, colours, strict=True)
    ]
    if len(shares) > _MOST:
        shares = sorted(shares, key=lambda item: -max(item[1:3]))[:_MOST]
    most = max(max(item[1:3]) for item in shares)
    height = _ROW + 6
    rows = []
    for index, (name, scribble, mask, colour) in enumerate(shares):
        top = index * height
        text = f"{100 * scribble:.1f} %" + (f" | {100 * mask:.1f} %" if dense else "")
        rows += [
            _name(str(name), top + 17),
            _bar(
                top + 3,
                9,
                scribble / most,
                f'fill="{colour}" stroke="currentColor" stroke-opacity=".35"',
            ),
            _number(text, top + 17, max(scribble, mask) / most),
        ]
        if dense:
            rows.append(_bar(top + 14, 7, mask / most, 'class="soft" fill-opacity=".55"'))
    return _svg(rows, len(shares) * height)


def _svg(rows: Sequence[str], height: int) -> str:
    width = _NAMES + _BARS + _NUMBERS
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(rows)}</svg>'


def _name(name: str, baseline: int) -> str:
    short = name if len(name) <= 18 else f"{name[:17]}…"
    return f'<text x="{_NAMES - 8}" y="{baseline}" text-anchor="end">{html.escape(short)}</text>'


def _bar(top: int, height: int, share: float, style: str) -> str:
    width = max(share * _BARS, 1.0)
    return f'<rect x="{_NAMES}" y="{top}" width="{width:.1f}" height="{height}" rx="2" {style}/>'


def _number(text: str, baseline: int, share: float) -> str:
    left = _NAMES + share * _BARS + 8
    return f'<text class="soft" x="{left:.1f}" y="{baseline}">{text}</text>'
