from __future__ import annotations

import errno
import importlib
import os
import stat
import sys

import pytest
import torch
from helpers.contract import TINY_ENCODER

from scribbleseg import (
    AtomicCheckpointIO,
    CheckpointError,
    DataInfo,
    RegularizedModule,
    load,
    read_checkpoint,
)
from scribbleseg.functional import content_digest, write_text


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
    for name, message in (
        ("no_such_package.Module", "not of this library.*`import no_such_package` first"),
        ("scribbleseg.methods.Missing", "cannot be imported"),
        ("scribbleseg.types.DataInfo", "is no ScribbleSegModule"),
        ("os.system", "is no ScribbleSegModule"),
    ):
        _, gone = saved(tmp_path, class_path=name)
        with pytest.raises(CheckpointError, match=message):
            load(gone)


def test_a_checkpoint_chooses_no_code(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from scribbleseg import RegularizedModule\nclass Mine(RegularizedModule): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    _, path = saved(tmp_path, class_path="mine.Mine")
    with pytest.raises(CheckpointError, match="predict --import mine"):
        load(path)
    assert "mine" not in sys.modules
    importlib.import_module("mine")
    assert type(load(path)).__name__ == "Mine"
    monkeypatch.delitem(sys.modules, "mine")


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
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 8}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_mode_of_files_is_that_of_the_user(tmp_path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        _, path = saved(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        path.chmod(0o400)  # it does not inherit the mode of the file that it replaces
        _, path = saved(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        write_text(tmp_path / "report.json", "{}")
        assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_no_flipped_bit_is_loaded(tmp_path) -> None:
    state = {
        "state_dict": {
            "a": torch.arange(12.0).view(3, 4),
            "b": torch.tensor(True),
            "c": torch.ones(0),
        },
        "half": torch.full((5,), 0.1, dtype=torch.bfloat16).t(),
        "facts": {"names": ["cat", "dog"], "resize": (8, None), "rate": 0.1, 3: b"x"},
    }
    path = tmp_path / "model.ckpt"
    AtomicCheckpointIO().save_checkpoint(state, path)
    whole = path.read_bytes()
    again = read_checkpoint(path)
    assert again.keys() == state.keys()
    assert again["facts"] == state["facts"]
    assert torch.equal(again["state_dict"]["a"], state["state_dict"]["a"])
    noticed = 0
    for bit in range(0, 8 * len(whole), 97):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:  # bits of the padding between the parts of the file, or of the digest's name
            found = read_checkpoint(path)
            assert content_digest({key: found[key] for key in state}) == content_digest(state)
        except CheckpointError as error:
            noticed += "is damaged" in str(error)
    assert noticed >= 4, "of those that torch reads without a word"


def test_a_digest_depends_on_type_shape_order_and_place() -> None:
    values = torch.arange(4.0)
    different = [
        {"a": values},
        {"b": values},
        {"a": values.view(2, 2)},
        {"a": values.double()},
        {"a": values.flip(0)},
        {"a": [values]},
        {"a": [1, [2]]},
        {"a": [[1], 2]},
        {"a": [12]},
        {"a": ["12"]},
        {"a": {}, "b": 1},
        {"a": {"b": 1}},
    ]
    assert len({content_digest(content) for content in different}) == len(different)
    columns = torch.arange(6.0).view(2, 3)
    assert content_digest(columns.t()) == content_digest(columns.t().contiguous())
