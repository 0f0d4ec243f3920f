"""Boxes around the objects of a plain folder's masks: ``boxes.json`` for ``label_type: box``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import label_regions


def boxes_of(mask: np.ndarray, *, background: int, min_area: int) -> list[dict]:
    """One box around each connected part of a class: edges in pixels, and its id."""
    regions = label_regions(mask, connectivity=8)
    found = []
    rows, columns = np.indices(mask.shape)
    count = len(regions.areas)
    low, high = np.full((2, count), np.iinfo(np.int64).max), np.full((2, count), -1)
    for axis, values in enumerate((columns, rows)):
        np.minimum.at(low[axis], regions.ids.ravel(), values.ravel())
        np.maximum.at(high[axis], regions.ids.ravel(), values.ravel())
    for region in range(1, count):
        label = int(regions.classes[region])
        if label != background and regions.areas[region] >= min_area:
            box = [*low[:, region].tolist(), *(high[:, region] + 1).tolist()]
            found.append({"box": box, "cls": label})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--background", type=int, default=0)
    parser.add_argument("--min-area", type=int, default=20)
    options = parser.parse_args()
    source = FolderSource(options.root)
    made = {
        record.image_id: boxes_of(
            source.read_mask(source.with_mask(record)),
            background=options.background,
            min_area=options.min_area,
        )
        for record in source.records("train")
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(made))
    print(f"{sum(map(len, made.values()))} boxes of {len(made)} images: {options.output}")


if __name__ == "__main__":
    main()
