from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch
from helpers.tiny_folders import STEMS, plain_folder

from scribbleseg import ConfigError
from scribbleseg.data import Augmentation, DegradedScribbles, ScribbleDataModule
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import Degradation


def module(source, **options):
    settings = {"batch_size": 1, "num_workers": 0, "check": False, "seed": 0, "drop_last": False}
    settings["augmentation"] = Augmentation(hflip=False)
    return ScribbleDataModule(source, **{**settings, **options})


def scribbles(data, epoch=0):
    """Scribble and tags by image id."""
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return {
        image_id: (batch["scribble"][i].numpy(), batch["class_labels"][i].numpy())
        for batch in loader
        for i, image_id in enumerate(batch["image_id"])
    }


def test_ratio_zero_changes_nothing(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    data = module(source, scribble_shrink=0.0, scribble_drop=0.0, degrade_seed=5)
    assert data.degradation is None
    for record in source.records("train"):
        np.testing.assert_array_equal(
            scribbles(data)[record.image_id][0], source.read_scribble(record)
        )


def test_known_tags_of_the_whole_image_do_not_leak(tmp_path):
    class Tagged(FolderSource):
        def class_labels(self, record):
            return [1, 2]

    source = Tagged(plain_folder(tmp_path))
    assert all(set(np.flatnonzero(t)) == {0, 1, 2} for _, t in scribbles(module(source)).values())
    for _, tags in scribbles(module(source, scribble_drop=1.0)).values():
        assert np.flatnonzero(tags).tolist() == [0]  # the background counts as present


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_epochs_do_not_matter(workers):
    source = SyntheticSource(num_train=6, num_val=1, size=40)
    alone = module(source, scribble_shrink=0.5, scribble_drop=0.3)
    shared = module(source, scribble_shrink=0.5, scribble_drop=0.3, num_workers=workers)
    first = scribbles(alone)
    for other in (scribbles(shared), scribbles(alone, epoch=3)):
        assert other.keys() == first.keys()
        for image_id, (scribble, tags) in first.items():
            np.testing.assert_array_equal(other[image_id][0], scribble)
            np.testing.assert_array_equal(other[image_id][1], tags)
    # what workers saw is counted here
    assert shared._degraded.complete
    assert shared._degraded.format() == alone._degraded.format()


def test_validation_is_untouched(tmp_path):
    source = FolderSource(plain_folder(tmp_path, masks=False))
    data = module(source, scribble_drop=1.0, scribble_shrink=1.0)
    data.setup("fit")
    for batch, record in zip(data.val_dataloader(), source.records("val"), strict=True):
        np.testing.assert_array_equal(batch["scribble"][0].numpy(), source.read_scribble(record))


def test_number_of_images_without_label_is_logged_once(tmp_path, caplog):
    source = FolderSource(plain_folder(tmp_path))
    data = module(source, scribble_drop=0.6)
    with caplog.at_level(logging.INFO, logger="scribbleseg.data.datamodule"):
        data.setup("fit")
        data.train_dataloader()
        data.state_dict()
        assert not caplog.messages  # nothing has been read yet
        items = scribbles(data)
        empty = sum(bool((scribble == 255).all()) for scribble, _ in items.values())
        assert 0 < empty < 6
        data.state_dict()
        data.state_dict()
        data.teardown("fit")
    assert caplog.messages == [
        f"scribble_shrink=0.0, scribble_drop=0.6: {empty} of 6 training images read have no label "
        "left"
    ]


def test_an_interrupted_first_epoch_is_reported_at_the_end(tmp_path, caplog):
    source = FolderSource(plain_folder(tmp_path))
    data = module(source, scribble_drop=1.0)
    with caplog.at_level(logging.INFO, logger="scribbleseg.data.datamodule"):
        data.setup("fit")
        next(iter(data.train_dataloader()))
        data.state_dict()
        assert not caplog.messages
        data.teardown("fit")
    assert caplog.messages[0].endswith("1 of 1 training images read have no label left")


def test_counts_survive_pickling(tmp_path):
    source = SyntheticSource(num_train=2, size=40)
    reader = pickle.loads(pickle.dumps(DegradedScribbles(source, Degradation(drop=1.0), 2)))
    reader.read(source.records("train")[1], 1)
    assert reader.format().endswith("1 of 1 training images read have no label left")
    assert not reader.complete


@pytest.mark.parametrize("kind", ["mask", "pseudo"])
def test_only_scribbles_are_degraded(tmp_path, kind):
    root = plain_folder(tmp_path)
    folder = {"pseudo_label_dir": "masks"} if kind == "pseudo" else {}
    source = FolderSource(root, label_type=kind, **folder)
    with pytest.raises(ConfigError, match=rf"scribble_shrink=0\.5.*label_type='{kind}'"):
        module(source, scribble_shrink=0.5)
    assert module(source).degradation is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scribble_shrink": 1.5}, r"scribble_shrink=1\.5: expected a share in \[0, 1\]"),
        ({"scribble_drop": -0.1}, r"scribble_drop=-0\.1"),
        ({"scribble_drop": float("nan")}, "scribble_drop=nan"),
        ({"degrade_seed": -1}, "degrade_seed=-1"),
        ({"degrade_seed": 1.5}, r"degrade_seed=1\.5"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        module(SyntheticSource(num_train=1, size=40), **options)


def test_images_without_any_label_train(tmp_path):
    data = module(FolderSource(plain_folder(tmp_path)), scribble_drop=1.0, crop_size=16)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["scribble"], torch.full((1, 16, 16), 255))
    assert batch["class_labels"].tolist() == [[1.0, 0.0, 0.0]]
    assert batch["image_id"][0] in STEMS
