"""Clicks, boxes and tags of a file source: the reader of each label type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data.sources.box_labels import BoxLabels
from scribbleseg.data.sources.point_labels import PointLabels
from scribbleseg.data.sources.tag_labels import TagLabels

if TYPE_CHECKING:
    from scribbleseg.data.label_types import WeakLabels
    from scribbleseg.data.sources.base import FileSource
    from scribbleseg.data.sources.weak_reader import WeakReader

__all__ = ["weak_reader"]


def weak_reader(source: FileSource, label_type: str, options: WeakLabels) -> WeakReader | None:
    """Reader of a label type, ``None`` for labels that are drawn files."""
    kinds: dict[str, type[WeakReader]] = {
        "point": PointLabels,
        "box": BoxLabels,
        "tag": TagLabels,
    }
    return kinds[label_type](source, options) if label_type in kinds else None
