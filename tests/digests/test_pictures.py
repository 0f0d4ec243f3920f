"""What the pictures of the methods show, of a fixed image and fixed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.digests import Digests
from helpers.internals import internal
from helpers.method_facts import fill_prototype_pairs, settle

from scribbleseg import DataInfo
from scribbleseg.methods import (
    CAMModule,
    CC4SModule,
    CDSPModule,
    IRNModule,
    PFAModule,
    PtReClModule,
    SegmentMemory,
    SPMLModule,
    attention_map,
    boundary_panel,
    certainty_map,
    class_map_panel,
    confident_pixels,
    distance_maps,
    eigenvalue_trace,
    margin_panel,
    prototype_map,
    retrieved_segments,
    segments_by_class,
    walk_column,
)

HEIGHT, WIDTH, BLOCK = 41, 64, 8
SIDE = 50  # of the tiles
INFO = DataInfo(("background", "cat", "dog", "cow"))


def image(channels: int = 3) -> np.ndarray:
    """Waves on the left, flat regions on the right, a different value in each channel."""
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    planes = [
        128
        + 90 * np.sin(rows / (3 + c) + columns * 0.1) * (columns < 40)
        + 60 * (rows > 25) * c / 3
        for c in range(channels)
    ]
    return np.stack(planes, 2).clip(0, 255).astype(np.uint8)


def build(kind: type, info: DataInfo = INFO, **options: Any) -> Any:
    torch.manual_seed(0)
    module = kind(4, encoder=TINY_ENCODER, encoder_weights=None, **options)
    module.data_info = info
    return settle(module).float()


def check(digest: Digests, name: str, picture: np.ndarray) -> None:
    """Mean gray of blocks of 8×8 pixels: titles and lines are seen, rounding is not."""
    gray = picture.astype(float) @ (0.5, 0.3, 0.2)
    gray = np.pad(gray, [(0, -side % BLOCK) for side in gray.shape])
    blocks = gray.reshape(gray.shape[0] // BLOCK, BLOCK, -1, BLOCK).mean((1, 3))
    facts = {
        "shape": list(picture.shape),
        "blocks": [[float(round(value)) for value in row] for row in blocks],
    }
    digest.check(name, facts, atol=1.5)


def pfa() -> PFAModule:
    module = build(PFAModule, arch="unet", freeze_encoder_norm=False, num_prototypes=5)
    generator = torch.Generator().manual_seed(1)
    module.bank.prototypes.copy_(torch.randn(module.bank.prototypes.shape, generator=generator))
    counts = torch.tensor([5, 0, 2, 3])
    module.bank.filled.copy_(torch.arange(5) < counts[:, None])
    module.bank.count.copy_(counts)
    return module


def ptrecl(**options: Any) -> PtReClModule:
    module = build(PtReClModule, arch="unet", num_prototypes=3, top_m=(1, 2), **options)
    fill_prototype_pairs(module.prototypes)
    return module


def spml() -> tuple[SPMLModule, dict[str, np.ndarray]]:
    """A module that retrieves from two images."""
    module = build(SPMLModule, arch="unet", embedding_dim=8, retrieval_clusters=(3, 3))
    images = {"own": image(), "other": np.ascontiguousarray(image()[::-1, :50])}
    rows = []
    for number, pixels in enumerate(images.values()):
        _, prototypes = internal("SPML pictures")._segments(module, pixels)
        rows += [(p, number, s) for s, p in enumerate(prototypes)]
    image_of, segment = (torch.tensor([row[i] for row in rows]) for i in (1, 2))
    labels = torch.arange(len(rows)) % 3
    prototypes = torch.stack([row[0] for row in rows])
    module.retriever = SegmentMemory(prototypes, labels, image_of, segment, list(images))
    return module, images


def cc4s(**options: Any) -> CC4SModule:
    module = build(CC4SModule, arch="cc4s", head_channels=32, **options)
    module.measurement.gamma.data.fill_(0.5)
    return module


def regions() -> np.ndarray:
    return (np.arange(HEIGHT)[:, None] // 20 * 2 + np.arange(WIDTH) // 32).astype(np.int32)


def labels() -> tuple[np.ndarray, np.ndarray]:
    scribble, pseudo = np.full((2, HEIGHT, WIDTH), 255, np.uint8)
    scribble[20, 30:40], scribble[2, 2:9], scribble[5:30, 60] = 1, 0, 3
    pseudo[10:30, 20:40], pseudo[:5] = 1, 0
    return scribble, pseudo


def retrieved() -> np.ndarray:
    module, images = spml()
    return retrieved_segments(
        module, images["own"], (30, 50), images.__getitem__, count=3, tile_height=SIDE
    )


DEEP = DataInfo(
    INFO.class_names, in_channels=5, rgb_channels=(4, 2, 0), mean=(0.4,) * 5, std=(0.2,) * 5
)
PICTURES: dict[str, Callable[[], np.ndarray]] = {
    "cam": lambda: class_map_panel(build(CAMModule), image(), tile_height=SIDE),
    "cam, two classes": lambda: class_map_panel(
        build(CAMModule), image(), classes=[3, 1], tile_height=SIDE
    ),
    "cc4s, walk of a pixel": lambda: walk_column(cc4s(), image(), (30, 50), tile_height=SIDE),
    "cc4s, walk on a smaller grid": lambda: walk_column(
        cc4s(max_cells=12), image(), (3, 5), tile_height=SIDE
    ),
    "cc4s, eigenvalues": lambda: eigenvalue_trace(cc4s(), image()),
    "cc4s, five eigenvalues": lambda: eigenvalue_trace(cc4s(), image(), count=5, size=(200, 320)),
    "cc4s, certainty": lambda: certainty_map(cc4s(), image(), tile_height=SIDE),
    "cc4s, certainty inside regions": lambda: certainty_map(
        cc4s(), image(), regions=regions(), tile_height=SIDE
    ),
    "cdsp, distances": lambda: distance_maps(image(), *labels(), tile_height=SIDE),
    "cdsp, distances, other options": lambda: distance_maps(
        image(5),
        *labels(),
        lambdas=(100.0, 900.0),
        background=None,
        rgb_channels=(4, 2, 0),
        tile_height=SIDE,
    ),
    "cdsp, attention": lambda: attention_map(
        build(CDSPModule, arch="unet"), image(), (30, 50), tile_height=SIDE
    ),
    "cdsp, attention with aligned corners": lambda: attention_map(
        build(CDSPModule, arch="aspp_v3plus"), image(), (3, 33), tile_height=SIDE
    ),
    "irn": lambda: boundary_panel(build(IRNModule), image(), tile_height=SIDE),
    "irn, displacement": lambda: boundary_panel(
        build(IRNModule, displacement=True), image(), tile_height=SIDE
    ),
    "pfa, bank": lambda: prototype_map(pfa(), size=120),
    "pfa, empty bank": lambda: prototype_map(build(PFAModule, arch="unet"), size=60),
    "pfa, confident pixels": lambda: confident_pixels(pfa(), image(), tile_height=SIDE),
    "pfa, confident pixels of a class": lambda: confident_pixels(
        pfa(), image(), classes=[2], tile_height=SIDE
    ),
    "ptrecl": lambda: margin_panel(ptrecl(), image(), [0, 2], tile_height=SIDE),
    "ptrecl, with the background": lambda: margin_panel(
        ptrecl(model_background=True), image(), [0, 2, 3], tile_height=SIDE
    ),
    "spml, segments": lambda: segments_by_class(spml()[0], image(), tile_height=SIDE),
    "spml, retrieved": retrieved,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_the_methods(name: str, digest: Digests) -> None:
    check(digest, name, PICTURES[name]())
