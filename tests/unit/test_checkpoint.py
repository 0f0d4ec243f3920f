from __future__ import annotations

import errno
import os
import stat

import pytest
import torch
from helpers.contract import TINY_ENCODER

import scribbleseg
from scribbleseg import (
    AtomicCheckpointIO,
    CheckpointError,
    DataInfo,
    RegularizedModule,
    load,
    read_checkpoint,
)


def saved(tmp_path, **facts):
    module = RegularizedModule(3, encoder=TINY_ENCODER, encoder_weights=None, lr=0.123)
    module.data_info = DataInfo(("background", "cat", "dog"), source="FolderSource", resize=(8, 9))
    state = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": "2.6.0",
    }
    module.on_save_checkpoint(state)
    state["scribbleseg"].update(facts)
    path = tmp_path / "model.ckpt"
    AtomicCheckpointIO().save_checkpoint(state, path)
    return module, path


def test_load_restores_class_facts_and_options(tmp_path) -> None:
    module, path = saved(tmp_path)
    loaded = load(path)
    assert type(loaded) is RegularizedModule
    assert not loaded.training
    assert loaded.hparams["lr"] == 0.123
    assert loaded.data_info == module.data_info
    assert loaded.data_info.class_names == ("background", "cat", "dog")
    assert loaded.data_info.resize == (8, 9)


def test_other_classes_are_refused_by_name(tmp_path) -> None:
    _, path = saved(tmp_path)
    other = RegularizedModule(3, encoder=TINY_ENCODER, encoder_weights=None)
    other.data_info = DataInfo(("background", "dog", "cat"), source="FolderSource")
    with pytest.raises(CheckpointError, match=r"D402.*1: checkpoint 'cat', data 'dog'"):
        other.on_load_checkpoint(read_checkpoint(path))


def test_bad_files_are_explained(tmp_path) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not exist; that folder holds .*model\.ckpt"):
        load(tmp_path / "lost.ckpt")
    (tmp_path / "half.ckpt").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        load(tmp_path / "half.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="not written by scribbleseg"):
        load(tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="remote"):
        load("https://example.org/model.ckpt")
    _, gone = saved(tmp_path, class_path="no_such_package.Module")
    with pytest.raises(CheckpointError, match="no_such_package"):
        load(gone)


def test_pickled_objects_are_never_loaded(tmp_path) -> None:
    class Payload:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"scribbleseg": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="never loaded"):
        load(tmp_path / "evil.ckpt")


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")],
)
def test_full_disk_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch, failure) -> None:
    _, path = saved(tmp_path)
    before = path.read_bytes()

    def fail(_, stream):
        stream.write(b"x" * 100)
        raise failure

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=r"no space to write .* MiB free"):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.ckpt"]


def test_a_checkpoint_makes_the_folders_it_lies_in(tmp_path) -> None:
    path = tmp_path / "runs" / "first" / "model.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 7}, path)
    AtomicCheckpointIO().save_checkpoint({"step": 8}, path)  # nor do they stand in its way
    assert torch.load(path, weights_only=True) == {"step": 8}


def test_others_may_read_a_checkpoint(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        _, path = saved(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        path.chmod(0o600)  # it does not inherit the mode of the file that it replaces
        _, path = saved(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_checkpoint_of_this_release_states_its_version(tmp_path) -> None:
    _, path = saved(tmp_path)
    assert read_checkpoint(path)["scribbleseg"]["version"] == scribbleseg.__version__
