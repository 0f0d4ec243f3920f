"""Data sets: each source says which classes there are and where the bytes of every sample are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from scribbleseg import Facade
from scribbleseg.data.sources.acdc import ACDCSource
from scribbleseg.data.sources.coco import COCOSource
from scribbleseg.data.sources.folder import FolderSource
from scribbleseg.data.sources.layouts import LAYOUTS, LayoutSource, read_layout
from scribbleseg.data.sources.nifti import NiftiSource
from scribbleseg.data.sources.nnunet import NnUNetSource
from scribbleseg.data.sources.s4 import S4Source
from scribbleseg.data.sources.synthetic import SyntheticSource
from scribbleseg.data.sources.voc import PascalContextSource, VOCSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scribbleseg.data.source import ScribbleSource

__all__ = [
    "LAYOUTS",
    "SOURCES",
    "ACDCSource",
    "COCOSource",
    "FolderSource",
    "LayoutSource",
    "NiftiSource",
    "NnUNetSource",
    "PascalContextSource",
    "S4Source",
    "SyntheticSource",
    "VOCSource",
    "known_layouts",
    "recognised",
]

SOURCES: dict[str, Callable[..., ScribbleSource]] = {
    "densepose": partial(LayoutSource, layout="densepose"),
    "coco": COCOSource,
    "context": PascalContextSource,
    "folder": FolderSource,
    "voc": VOCSource,
    "acdc": ACDCSource,
    "camvid": partial(LayoutSource, layout="camvid"),
    "cityscapes_blocks": partial(LayoutSource, layout="cityscapes_blocks"),
    "ade20k_blocks": partial(LayoutSource, layout="ade20k_blocks"),
    "nnunet": NnUNetSource,
    "nifti": NiftiSource,
}
"""Sources by the name that commands use, in the order in which a folder is recognised: special
layouts come before the more general ones that they resemble."""


def recognised(root: Path) -> list[str]:
    """Names in :data:`SOURCES` of the layouts that a folder has, told by the names in it."""

    def matches(name: str) -> bool:
        layout: Any = read_layout(name) if name in LAYOUTS else SOURCES[name]
        return bool(layout.matches(root))

    return [name for name in SOURCES if matches(name)]


def known_layouts() -> str:
    """Names in :data:`SOURCES` with the folders and files that tell each, for messages."""
    kinds: dict[str, Any] = dict(SOURCES)
    needs = {n: read_layout(n).needs if n in LAYOUTS else kinds[n].layout for n in SOURCES}
    return ", ".join(f"{name} ({files})" for name, files in needs.items())


Facade.of(__name__)
