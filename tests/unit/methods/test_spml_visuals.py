from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.internals import internal

from scribbleseg import ConfigError
from scribbleseg.methods import SegmentMemory, SPMLModule, retrieved_segments, segments_by_class


def build(**options) -> SPMLModule:
    torch.manual_seed(0)
    options = {"arch": "unet", "embedding_dim": 8, "retrieval_clusters": (3, 3), **options}
    return SPMLModule(3, encoder=TINY_ENCODER, encoder_weights=None, **options).train()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Two colours side by side, with noise."""
    image = np.full((height, width, 3), 60, np.uint8)
    image[:, width // 2 :] = (200, 40, 90)
    return image + np.random.default_rng(seed).integers(0, 20, image.shape, dtype=np.uint8)


def test_segments_are_coloured_by_class() -> None:
    module, image = build(), picture(48, 64)
    shown = segments_by_class(module, image, tile_height=48)
    assert shown.shape == (26 + 52, 4 * 68, 3)
    assert module.training, "the module is left as it was"
    borders = shown[26:74, 68:132]
    assert (borders == 255).all(2).any()
    assert not (borders == 255).all(2).all()
    assert np.array_equal(shown[26:74, :64], image)


def test_a_segment_recalls_itself_from_its_own_image() -> None:
    module, image, other = build(), picture(48, 64), picture(64, 32, seed=1)
    images = {"own": image, "other": other}
    rows = []
    for number, pixels in enumerate(images.values()):
        _, prototypes = internal("SPML pictures")._segments(module, pixels)
        rows += [(p, number, s) for s, p in enumerate(prototypes)]
    prototypes = torch.stack([p for p, _, _ in rows])
    image_of, segment = (torch.tensor([row[i] for row in rows]) for i in (1, 2))
    labels = torch.ones(len(rows), dtype=torch.int64)
    with pytest.raises(ConfigError, match="no prototype file"):
        retrieved_segments(module, image, (0, 0), images.__getitem__)
    module.retriever = SegmentMemory(prototypes, labels, image_of, segment, list(images))
    asked = []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return images[name]

    shown = retrieved_segments(module, image, (40, 60), read, count=3, tile_height=48)
    assert asked[0] == "own"
    assert len(asked) == 3
    assert shown.shape == (26 + 52, 4 * 68, 3)
    query, first = shown[26:74, :64], shown[26:74, 68:132]
    lit = (query == image).all(2)
    assert lit[40, 60]
    assert 0 < lit.mean() < 1
    border = (first != query).any(2)
    assert (query[border] == 255).all(), "only the colour of the border differs"
    for wrong in ({"pixel": (48, 0)}, {"count": 0}):
        given = {"pixel": (0, 0), "count": 1, **wrong}
        with pytest.raises(ValueError, match="expected a pixel"):
            retrieved_segments(module, image, read_image=read, **given)
