"""Checkpoints remember their training images, and scoring one of them again is warned of."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.internals import internal
from helpers.tiny_folders import VOC_STEMS, plain_folder, voc_tree, write_list
from helpers.training import quiet_trainer
from helpers.trees_coco import context_tree

from scribbleseg import load, read_checkpoint
from scribbleseg.data import ScribbleDataModule
from scribbleseg.data.sources import FolderSource, PascalContextSource, VOCSource
from scribbleseg.methods import RegularizedModule

history = internal("history")
name_digest, unpack_digests = history.name_digest, history.unpack_digests


def trainer(**options):
    return quiet_trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=1, num_sanity_val_steps=0, **options
    )


def data_of(source):
    return ScribbleDataModule(source, batch_size=2, num_workers=0, crop_size=32, check=False)


def module_of(data, weights=None):
    return RegularizedModule(data.num_classes, encoder=TINY_ENCODER, encoder_weights=weights)


def recorded(path):
    return unpack_digests(read_checkpoint(path)["scribbleseg"]["data"]["train_images"])


def digests(*names):
    return {name_digest(name) for name in names}


def warnings_of(caplog):
    return [r.message for r in caplog.records if r.message.startswith("D302")]


@pytest.fixture
def voc_checkpoint(tmp_path):
    """Written by a run on train_aug, which holds an image of Context's validation list."""
    root = voc_tree(tmp_path / "voc")
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "SegmentationAug"
    write_list(lists / "train_aug.txt", VOC_STEMS[:4])
    data = data_of(VOCSource(root, train_list=str(lists / "train_aug.txt"), val_list="val"))
    run = trainer()
    run.fit(module_of(data), data)
    run.save_checkpoint(tmp_path / "voc.ckpt")
    return tmp_path / "voc.ckpt"


def test_a_context_run_that_starts_from_train_aug_is_warned_of(tmp_path, voc_checkpoint, caplog):
    assert recorded(voc_checkpoint) == digests(*VOC_STEMS[:4])
    assert VOC_STEMS[0].encode() not in voc_checkpoint.read_bytes()
    data = data_of(PascalContextSource(context_tree(tmp_path / "context")))
    module, run = module_of(data, str(voc_checkpoint)), trainer()
    with caplog.at_level(logging.WARNING):
        run.fit(module, data)
    (message,) = warnings_of(caplog)
    assert message.startswith(
        f"D302 1 of 2 images of the split to be scored are in the training images recorded in "
        f"{voc_checkpoint} (2008_000015)"
    )
    # a third run must be told of what the first one saw
    run.save_checkpoint(tmp_path / "context.ckpt")
    assert recorded(tmp_path / "context.ckpt") == digests(*VOC_STEMS[:3], *VOC_STEMS[:4])


def test_evaluating_on_training_images_is_warned_of(tmp_path, caplog):
    root = plain_folder(tmp_path / "set")
    data, run = data_of(FolderSource(root)), trainer()
    run.fit(module_of(data), data)
    run.save_checkpoint(tmp_path / "run.ckpt")
    write_list(root / "other.txt", ["img_5", "img_6"])
    again = data_of(FolderSource(root, val_list="other.txt"))
    with caplog.at_level(logging.WARNING):
        trainer().validate(module_of(data), data, ckpt_path=tmp_path / "run.ckpt", verbose=False)
        assert not warnings_of(caplog)
        trainer().validate(module_of(again), again, ckpt_path=tmp_path / "run.ckpt", verbose=False)
    (message,) = warnings_of(caplog)
    assert "1 of 2 images" in message
    assert f"recorded in {tmp_path / 'run.ckpt'} (img_5)" in message
    # a module that was loaded in Python remembers as well, also after it was evaluated
    caplog.clear()
    module = load(tmp_path / "run.ckpt")
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            trainer().validate(module, again, verbose=False)
    assert len(warnings_of(caplog)) == 2
    assert "recorded in the module (img_5)" in warnings_of(caplog)[1]


def test_slices_of_other_patients_are_not_taken_for_each_other(tmp_path, caplog):
    stems = tuple(f"p{patient}/slice_{number}" for patient in range(4) for number in range(2))
    data, run = data_of(FolderSource(plain_folder(tmp_path / "set", stems=stems))), trainer()
    with caplog.at_level(logging.WARNING):
        run.fit(module_of(data), data)
        run.save_checkpoint(tmp_path / "run.ckpt")
        trainer().validate(module_of(data), data, ckpt_path=tmp_path / "run.ckpt", verbose=False)
    assert not warnings_of(caplog)


def test_digests_are_packed_small():
    names = [f"2008_{number:06d}" for number in range(10_582)]
    packed = history.pack_digests(list(digests(*names)))
    assert unpack_digests(packed) == digests(*names)
    assert len(unpack_digests(packed)) == len(names)
    assert len(packed) < 90_000
    assert (history.pack_digests([]), unpack_digests("")) == ("", frozenset())
    assert name_digest("a/b ü") != name_digest("b ü") != name_digest("b u")
    for damaged in ("AAAA", "?", packed[:40][:-3]):
        with pytest.raises(ValueError, match=r"."):
            unpack_digests(damaged)


def test_files_that_say_nothing_are_left_out(tmp_path):
    class Module:
        hparams = {"encoder_weights": "imagenet", "init_from": None}  # noqa: RUF012

    (tmp_path / "text.ckpt").write_text("none")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    damaged = {"scribbleseg": {"data": {"train_images": "AAAA"}}}
    torch.save(damaged, tmp_path / "damaged.ckpt")
    for name in ("text", "foreign", "damaged", "absent"):
        assert history.earlier_images(Module(), tmp_path / f"{name}.ckpt") == {}
    assert history.earlier_images(None) == {}
    assert history.leaked_images({"a": digests("x")}, ["y"]) == []
