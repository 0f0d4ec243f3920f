"""What a source and a batch say, as JSON facts for digests."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from helpers.digests import sha, sha_of

from scribbleseg import ScribbleNotFoundError, ScribbleSegError, Split
from scribbleseg.data import Augmentation, ScribbleDataModule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scribbleseg import Record
    from scribbleseg.data import ScribbleSource

_FEW = 16  # numbers of a tensor that are shown


def refusal(error: Exception) -> str:
    """Class and code of an error."""
    code = re.match(r"D\d{3}\b", str(error))
    return " ".join([type(error).__name__, *([code[0]] if code else [])])


def numbered(names: Iterable[str]) -> list[str]:
    """Names with their place, so that a table of them keeps the order."""
    return [f"{place:02d} {name}" for place, name in enumerate(names)]


def names_in_short(names: Sequence[str], most: int = 3) -> list[str] | str:
    """Names, or how many there are, the first, the last and the digest of all."""
    if len(names) <= most:
        return list(names)
    return f"{len(names)}: {names[0]} … {names[-1]} {sha(chr(10).join(names))}"


def source_facts(
    source: ScribbleSource, *, first: int | None = None, strokes: bool = True
) -> dict[str, Any]:
    """Classes, order, and every image and label of a source.

    Args:
        source: Source.
        first: Read pixels of the first records of each split only.
        strokes: Read scribbles as polylines too.
    """
    facts: dict[str, Any] = {
        "classes": names_in_short(source.class_names, 12),
        "background": source.background,
        "channels": source.in_channels,
        "palette": sha_of(source.palette),
    }
    if source.flip_pairs:
        facts["flip pairs"] = str(sorted(source.flip_pairs))
    images: dict[str, str] = {}
    for split in get_args(Split):
        try:
            records = source.records(split)
        except ScribbleSegError as error:
            facts[split] = refusal(error)
            continue
        names = [record.image_id for record in records]
        if first is not None and len(names) > first:
            if split != "predict":
                facts[f"{split}: all"] = names_in_short(names)
            records = records[:first]
        for record in records:
            found = sha_of(source.read_image(record))
            assert images.setdefault(record.image_id, found) == found
        if split == "predict":
            assert all(r.scribble is None and r.mask is None for r in records)
            facts[split] = names_in_short(names)
        else:
            assert split != "train" or all(record.mask is None for record in records)
            labels = [label_facts(source, record, strokes=strokes) for record in records]
            places = numbered(record.image_id for record in records)
            facts[split] = dict(zip(places, labels, strict=True))
    return {**facts, "images": images}


def label_facts(source: ScribbleSource, record: Record, *, strokes: bool) -> dict[str, Any]:
    """All labels of a record: pixels as digests, tags, boxes and places of strokes as they are."""
    facts: dict[str, Any] = {}
    made = record.image is None  # a source without files makes every label
    if record.group is not None:
        facts["group"] = record.group
    if record.spacing is not None:
        facts["spacing"] = " ".join(f"{float(distance):.5g}" for distance in record.spacing)
    try:
        facts["scribble"] = sha_of(source.read_scribble(record))
    except ScribbleNotFoundError as error:
        facts["scribble"] = refusal(error)
    whole = source.with_mask(record)
    if made or whole.mask is not None:
        facts["mask"] = sha_of(source.read_mask(whole))
    tags = source.class_labels(record)
    if tags is not None:
        facts["tags"] = [int(tag) for tag in tags]
    try:
        boxes = [" ".join(f"{float(value):g}" for value in box) for box in source.boxes(record)]
        facts["boxes"] = ", ".join(boxes)
    except ScribbleNotFoundError:
        pass
    drawing = source.read_strokes(record) if strokes else None
    if drawing is not None:
        np.testing.assert_array_equal(drawing.rasterize(), source.read_scribble(record))
        points = np.concatenate([np.asarray(s.points, np.float64) for s in drawing.strokes])
        labels = [int(stroke.label) for stroke in drawing.strokes]
        facts["strokes"] = f"{labels} {drawing.width:g} {drawing.renderer} {sha_of(points)}"
    return facts


def training_facts(source: ScribbleSource) -> dict[str, str] | str:
    """What trains, as a source gives it and as a data module does, which must agree."""
    plain = ScribbleDataModule(
        source, batch_size=1, num_workers=0, check=False, augmentation=Augmentation(hflip=False)
    )
    try:
        plain.setup("fit")
    except ScribbleSegError as error:
        return refusal(error)
    data = plain.train_dataloader().dataset
    facts = {}
    for index, record in enumerate(plain.records("train")):
        scribble, item = source.read_scribble(record), data[index]
        np.testing.assert_array_equal(item["scribble"].numpy(), scribble)
        shown = item["class_labels"].nonzero().flatten().tolist()
        facts[record.image_id] = f"{sha_of(scribble)} tags {shown}"
    return dict(zip(numbered(facts), facts.values(), strict=True))


# --------------------------------------------------------------------------- batches


def asking(data: ScribbleDataModule, *inputs: str, stage: str = "fit") -> ScribbleDataModule:
    """The data module, set up for a method that asks for these inputs."""
    method = SimpleNamespace(train_inputs=frozenset(inputs))
    data.trainer = SimpleNamespace(lightning_module=method)
    data.setup(stage)
    return data


def value_facts(value: Any) -> str:
    """Type, shape and digest of a tensor; a few numbers, or names, as they are."""
    if not isinstance(value, torch.Tensor):
        return ", ".join(value)
    if value.numel() > _FEW:
        return sha_of(value)
    kind = str(value.dtype).removeprefix("torch.")
    shown = re.sub(r"\.0(?=[,\]])", "", str(value.tolist()))
    return f"{kind} {shown.replace(', ', ',')}"


def batch_facts(
    batches: Iterable[dict[str, Any]], *, without: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Every key of every batch."""
    return [
        {key: value_facts(value) for key, value in batch.items() if key not in without}
        for batch in batches
    ]


def assert_same_batches(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> None:
    """Equal keys, types, shapes and values."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other)
        for key, value in one.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, other[key], rtol=0, atol=0, msg=key)
            else:
                assert value == other[key], key
