"""Digests of what trains: augmentation by seed, and all batches of an epoch with all their keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.data_facts import asking, assert_same_batches, batch_facts
from helpers.digests import sha_of
from helpers.source_cases import CASES
from helpers.tiny_folders import blocks, photo, save, scribble_of

from scribbleseg import DataInfo
from scribbleseg.data import (
    Augmentation,
    LabelMap,
    ScribbleDataModule,
    TrainDataset,
    TrainTransform,
    write_superpixels,
)
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.functional import SuperpixelOptions, write_label, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = range(20)
EVERYTHING = Augmentation(
    scale=(0.5, 2.0), rotate=30, rot90=True, hflip=True, vflip=True, blur=0.5, color_jitter=0.4
)
GRAPH = ("superpixel_edges", "superpixel_weights", "superpixel_image")
ALL = ("superpixel", "superpixel_graph", "pseudo_label", "distance_maps", "source_index")


# --------------------------------------------------------------------------- augmentation

TRANSFORMS: dict[str, tuple[Augmentation, dict[str, Any], int]] = {
    "default": (Augmentation(), {}, 3),
    "default, cropped": (Augmentation(), {"crop_size": (24, 60)}, 3),
    "everything": (EVERYTHING, {"resize": 36, "crop_size": (32, 40)}, 3),
    "rotated": (Augmentation(rotate=45, hflip=False, vflip=True), {"resize": (30, 50)}, 3),
    "one channel": (EVERYTHING, {"crop_size": (32, 32), "mean": (0.4,)}, 1),
    "six channels": (EVERYTHING, {"crop_size": (48, 48), "mean": (0.2,) * 6}, 6),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_seed_is_a_sample(digest, name) -> None:
    augmentation, options, channels = TRANSFORMS[name]
    transform = TrainTransform(augmentation, **options)
    mask = blocks(1, 3)
    image = np.concatenate([photo(number, mask) for number in (1, 2)], axis=2)[..., :channels]
    image = np.ascontiguousarray(image)
    places = np.arange(mask.size, dtype=np.int32).reshape(mask.shape)
    facts = {}
    for seed in SEEDS:
        sample = transform(
            image,
            [scribble_of(mask), mask],
            seed=seed,
            track=True,
            maps={"places": LabelMap(places, -1)},
        )
        assert sample.source_index is not None
        arrays = {
            "image": sample.image,
            "raw": sample.raw,
            "scribble": sample.labels[0],
            "mask": sample.labels[1],
            "valid": sample.valid,
            "source index": sample.source_index,
            "places": sample.maps["places"],
        }
        # one digest per array; the type and the shape are in the first of them
        found = {key: sha_of(value).split()[1] for key, value in arrays.items()}
        size = "x".join(map(str, sample.image.shape))
        facts[f"{seed:02d}"] = f"{size} {'mirrored ' * sample.mirrored}{' '.join(found.values())}"
    digest.check(f"transform/{name}", {"arrays": list(arrays), "seeds": facts})


def test_sides_change_places_in_mirrored_samples(digest, tmp_path) -> None:
    """Body parts of 20 seeds: pixels and tags."""
    source = CASES["densepose"](tmp_path)
    records, info = source.records("train"), DataInfo(source.class_names)
    for number, record in enumerate(records):
        points = np.full((12, 30), 255, np.uint8)
        points[6, 3:9] = [2, 2, 4, 9, 9, 14 - number]  # right hand, left foot, left leg, head
        save(record.scribble.path, points)
    facts = {}
    for name, augmentation in (("default", Augmentation()), ("everything", EVERYTHING)):
        for seed in SEEDS:
            data = TrainDataset(source, records, TrainTransform(augmentation), info, seed=seed)
            items = [data[index] for index in range(len(data))]
            facts[f"{name} {seed:02d}"] = [
                f"{sha_of(item['scribble'])} tags {item['class_labels'].nonzero().ravel().tolist()}"
                for item in items
            ]
    digest.check("transform/flip pairs", facts)


# --------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Setting:
    """A data set, the options of its data module, and what the method asks for."""

    case: str
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    test: bool = False

    def module(self, root: Path, **options: Any) -> ScribbleDataModule:
        source = CASES[self.case](root)
        settings = {"batch_size": 2, "num_workers": 0, "seed": 0, "check": False, **self.options}
        return asking(ScribbleDataModule(source, **{**settings, **options}), *self.inputs)


SETTINGS = {
    "folder": Setting("folder/plain", {"crop_size": 32, "image_raw": True}),
    "folder, whole": Setting("folder/no background", {"drop_last": False, "seed": 3}),
    "folder, scribbles only": Setting("folder/no masks", {"resize": (30, 36), "seed": 1}),
    "voc": Setting(
        "voc/xml",
        {"crop_size": (36, 44), "augmentation": EVERYTHING, "resize": 50, "drop_last": False},
        ("image_raw", "source_index"),
    ),
    "volumes": Setting(
        "nifti/separate", {"resize": (32, 32), "val_batch_size": 3, "batch_size": 3}
    ),
    "volumes, two channels": Setting(
        "nnunet/sparse",
        {
            "crop_size": 16,
            "batch_size": 5,
            "val_batch_size": 8,
            "augmentation": Augmentation(color_jitter=0.4),
        },
        ("image_raw",),
    ),
    "four bands": Setting("folder/four bands", {"augmentation": EVERYTHING}, ("image_raw",)),
    "own normalisation": Setting(
        "folder/own names", {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}, test=True
    ),
    "shorter strokes": Setting("voc/xml", {"scribble_shrink": 0.5, "batch_size": 1}),
    "fewer strokes": Setting(
        "folder/plain", {"scribble_drop": 0.5, "scribble_shrink": 0.2, "degrade_seed": 4}
    ),
    "synthetic": Setting("synthetic", {"crop_size": 40, "batch_size": 3}, test=True),
}


def epochs_of(data: ScribbleDataModule, epochs: int = 2) -> list[list[dict[str, Any]]]:
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_batches(digest, tmp_path, name) -> None:
    """Two epochs of training, and everything that is evaluated."""
    setting = SETTINGS[name]
    data = setting.module(tmp_path)
    first, second = epochs_of(data)
    facts = {
        "train, epoch 0": batch_facts(first),
        "train, epoch 1": batch_facts(second),
        "unaugmented": batch_facts(data.unaugmented_dataloader(), without=("image_raw",)),
        "val": batch_facts(data.val_dataloader()),
    }
    stages = [("predict", data.predict_dataloader)]
    if setting.test:
        stages.append(("test", data.test_dataloader))
    for stage, loader in stages:
        data.setup(stage)
        facts[stage] = batch_facts(loader(), without=("image_raw",))
    digest.check(f"batches/{name}", facts)


@pytest.mark.parametrize("name", ["folder", "voc", "volumes, two channels", "fewer strokes"])
def test_workers_do_not_change_a_batch(tmp_path, name) -> None:
    data = SETTINGS[name].module(tmp_path / "alone")
    shared = SETTINGS[name].module(tmp_path / "shared", num_workers=2)
    for ours, theirs in zip(epochs_of(data), epochs_of(shared), strict=True):
        assert_same_batches(ours, theirs)
    assert_same_batches(list(data.val_dataloader()), list(shared.val_dataloader()))


def test_a_resumed_run_goes_on_with_the_next_sample(digest, tmp_path) -> None:
    setting = SETTINGS["folder"]
    whole = epochs_of(setting.module(tmp_path / "whole"))
    data = setting.module(tmp_path / "resumed", seed=9)
    data.load_state_dict({"epoch": 1, "samples_done": 2, "step_size": 2, "seed": 0})
    first, second = epochs_of(data)
    assert_same_batches(first, whole[0])
    assert_same_batches(second, whole[1][1:])
    digest.check("resumed", [batch["image_id"] for batch in (*first, *second)])


@pytest.mark.parametrize("name", ["folder", "volumes", "four bands", "own normalisation"])
def test_what_a_checkpoint_keeps_of_the_data(digest, tmp_path, name) -> None:
    facts = SETTINGS[name].module(tmp_path).data_info.to_dict()
    facts["palette"] = sha_of(np.array(facts["palette"]))
    digest.check(f"data info/{name}", facts)


# --------------------------------------------------------------------------- training extras


def with_pseudo_labels(source, folder: Path) -> str:
    """Pseudo-labels of the training images: their masks, with an undecided border."""
    records = source.records("train")
    for number, record in enumerate(records):
        label = source.read_mask(record).copy()
        label[: 4 + number] = 255
        write_label(folder / f"{record.image_id}.png", label)
    write_manifest(folder, class_names=source.class_names, files=len(records))
    return str(folder)


EXTRAS: dict[str, dict[str, Any]] = {
    "grid": {"superpixels": "grid", "superpixel_options": SuperpixelOptions(segments=20)},
    "slic": {"superpixels": "slic", "superpixel_options": SuperpixelOptions(segments=30)},
    "felzenszwalb": {
        "superpixels": "felzenszwalb",
        "superpixel_options": SuperpixelOptions(scale=60, min_size=12),
        "resize": 40,
        "crop_size": None,
    },
    "folder, pasted": {
        "superpixels": "regions",
        "paste_scribbles": True,
        "distance_lambdas": (5.0, 900.0),
        "scribble_shrink": 0.6,
    },
}


def extra_module(root: Path, name: str, **options: Any) -> ScribbleDataModule:
    source = SyntheticSource(num_train=6, num_val=2, size=48)
    source.flip_pairs = ((1, 2),)
    settings = {"batch_size": 2, "num_workers": 0, "seed": 0, "check": False, "crop_size": 40}
    settings |= {"augmentation": EVERYTHING, **EXTRAS[name], **options}
    if settings["superpixels"] == "regions":
        settings["superpixels"] = str(root / "regions")
        how = {"method": "grid", "options": SuperpixelOptions(segments=30)}
        write_superpixels(source, root / "regions", **how, progress=False)
    pseudo = with_pseudo_labels(source, root / "pseudo")
    return asking(ScribbleDataModule(source, pseudo_label_dir=pseudo, **settings), *ALL)


@pytest.mark.parametrize("name", EXTRAS)
def test_training_extras(digest, tmp_path, name) -> None:
    """Superpixels and their graph, pseudo-labels, distance maps, where pixels come from."""
    batches = [batch for epoch in epochs_of(extra_module(tmp_path, name)) for batch in epoch]
    assert {*GRAPH, "pseudo_label", "scribble_distance", "pseudo_distance"} <= set(batches[0])
    digest.check(f"extras/{name}", batch_facts(batches, without=("superpixel_weights",)))
    facts = []
    for batch in batches:
        weights = batch["superpixel_weights"]
        some = [weights.min(), weights.max(), weights.mean(), *weights[:4]]
        facts.append([len(weights), *(float(value) for value in some)])
    # exponentials: their last digits are the processor's
    digest.check(f"extras/{name}, weights", facts, rtol=1e-4, atol=1e-5)


def test_workers_do_not_change_extras(tmp_path) -> None:
    data = extra_module(tmp_path, "slic")
    shared = extra_module(tmp_path, "slic", num_workers=2)
    for ours, theirs in zip(epochs_of(data), epochs_of(shared), strict=True):
        assert_same_batches(ours, theirs)
