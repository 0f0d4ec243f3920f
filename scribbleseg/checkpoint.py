"""Checkpoints that survive a full disk and reload without any arguments."""

from __future__ import annotations

import errno
import importlib
import logging
import shutil
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from scribbleseg.errors import CheckpointError
from scribbleseg.functional.image_files import write_atomic
from scribbleseg.functional.manifest import content_digest
from scribbleseg.inference import InferenceConfig
from scribbleseg.types import DataInfo

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from scribbleseg.methods.base import ScribbleSegModule

__all__ = ["AtomicCheckpointIO", "load", "load_start", "read_checkpoint"]

logger = logging.getLogger(__name__)

_DIGEST = "sha256"  # key in the file


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Contents of a checkpoint file, loaded with ``weights_only=True`` on the CPU.

    Raises:
        CheckpointError: If the file is missing, remote, damaged, or holds more than plain data.
    """
    if "://" in str(path):
        raise CheckpointError(f"{path}: remote checkpoints are refused; download the file first")
    path = Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        raise CheckpointError(
            f"checkpoint {path} does not exist"
            + (f"; that folder holds {', '.join(near[:5])}" if near else "")
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); it is truncated, not a checkpoint, or holds pickled "
            "objects, which are never loaded"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, expected a checkpoint of a fit run"
        )
    recorded = state.pop(_DIGEST, None)
    if recorded is not None and recorded != content_digest(state):
        raise CheckpointError(
            f"{path} is damaged: its content has another SHA-256 than when it was written; copy it "
            "again from its source, or take an earlier checkpoint"
        )
    return state


def load(
    path: str | os.PathLike[str], *, map_location: str | torch.device = "cpu"
) -> ScribbleSegModule:
    """Rebuild the module that wrote a checkpoint, in evaluation mode.

    The class, its hyper-parameters, class names, colours, normalisation and test-time options come
    from the file; nothing is downloaded.

    Args:
        path: Checkpoint written by a fit run.
        map_location: Device for the weights.

    Raises:
        CheckpointError: If the file cannot be read or was not written by this library, or its class
            is neither one of this library nor of a module that was imported before.

    Example:
        >>> load("missing.ckpt")
        Traceback (most recent call last):
        scribbleseg.errors.CheckpointError: checkpoint missing.ckpt does not exist
    """
    state = read_checkpoint(path)
    facts = state.get("scribbleseg")
    if not facts:
        raise CheckpointError(
            f"{path} was not written by scribbleseg (no class recorded); build the module and use "
            "its load_state_dict"
        )
    cls = _class_of(str(facts["class_path"]), path)
    module = cls.load_from_checkpoint(path, map_location=map_location, weights_only=True)
    module.inference = InferenceConfig.from_dict(facts["inference"])
    module.checkpoint_info = {
        "checkpoint": str(path),
        "class_path": facts["class_path"],
        "version": facts["version"],
        "epoch": state.get("epoch"),
        "step": state.get("global_step"),
    }
    return cast("ScribbleSegModule", module.eval())


def _class_of(class_path: str, path: str | os.PathLike[str]) -> Any:
    """The class that a checkpoint names; a file does not choose which code is imported."""
    module_name, _, class_name = class_path.rpartition(".")
    own = class_path.startswith("scribbleseg.")
    if not own and module_name not in sys.modules:
        raise CheckpointError(
            f"{path} was written by {class_path}, which is not of this library, and a checkpoint "
            f"may not choose what is imported: `import {module_name}` first "
            f"(`scribbleseg predict --import {module_name}`) if you trust it"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path} was written by {class_path}, which cannot be imported ({error}); install the "
            "version that defines it"
        ) from error
    # by name: the base class imports this file
    if "ScribbleSegModule" not in (base.__name__ for base in getattr(cls, "__mro__", ())):
        raise CheckpointError(f"{path} names {class_path}, which is no ScribbleSegModule")
    return cls


def load_start(module: ScribbleSegModule, path: str, *, without: str | None = None) -> None:
    """Copy the weights of a checkpoint of any method into a module that is about to be trained.

    The network must fit entirely; parts that only one of both has, such as the random walk, stay
    as they were initialised and are named in the log. Optimiser and counters start afresh.

    Args:
        module: Where to.
        path: Checkpoint file.
        without: Beginning of the names of weights that are left as they are.

    Raises:
        CheckpointError: If the file cannot be read, is of other classes, or its network differs.
    """
    state = read_checkpoint(path)
    facts, weights = state.get("scribbleseg"), state.get("state_dict")
    if not facts or not isinstance(weights, dict):
        raise CheckpointError(
            f"init_from={path!r} was not written by scribbleseg: expected the checkpoint of an "
            "earlier stage, such as runs/NAME/checkpoints/last.ckpt"
        )
    theirs = DataInfo.from_dict(facts["data"]).class_names
    if module.data_info.source and theirs != module.data_info.class_names:
        raise CheckpointError(
            f"init_from={path!r} was trained on {len(theirs)} classes ({', '.join(theirs[:4])} …), "
            f"the data has {module.num_classes} "
            f"({', '.join(module.data_info.class_names[:4])} …): start from a checkpoint of the "
            "same classes, or set init_from: null"
        )
    own = module.state_dict()
    if without is not None:
        own = {name: value for name, value in own.items() if not name.startswith(without)}
        weights = {name: value for name, value in weights.items() if not name.startswith(without)}
    unfit = [
        name
        for name, value in own.items()
        if (name in weights and weights[name].shape != value.shape)
        or (name not in weights and name.startswith("network."))
    ]
    if unfit:
        hparams = state.get("hyper_parameters", {})
        raise CheckpointError(
            f"init_from={path!r}: {len(unfit)} tensors do not fit, such as {unfit[0]}; the "
            f"checkpoint has arch={hparams.get('arch')}, encoder={hparams.get('encoder')}, this "
            f"run arch={module.hparams['arch']}, encoder={module.hparams['encoder']}: use the same "
            "for both"
        )
    shared = {name: weights[name] for name in own if name in weights}
    module.load_state_dict(shared, strict=False)
    logger.info("starting from %s, step %s", path, state.get("global_step"))
    for where, names in (("it", set(own) - set(weights)), ("this module", set(weights) - set(own))):
        parts = sorted({name.split(".")[0] for name in names})
        if parts:
            logger.info("%s has no %s", where, ", ".join(parts))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames: a crash or full disk never leaves half a file.

    Lightning's own saver goes through the system's temporary folder, whose move across file systems
    is not atomic. A digest of the content goes into the file and is compared when it is read.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint.

        Raises:
            CheckpointError: If the disk is full; the previous files are intact.
        """
        target, needed = Path(path), 0
        content = {**checkpoint, _DIGEST: content_digest(checkpoint)}

        def write(stream: IO[bytes]) -> None:
            nonlocal needed
            try:
                torch.save(content, stream)
            finally:
                needed = stream.tell()

        try:
            write_atomic(target, write, sync=True)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as "unexpected pos"
            if getattr(error, "errno", None) != errno.ENOSPC and "unexpected pos" not in str(error):
                raise
            free = shutil.disk_usage(target.parent).free
            raise CheckpointError(
                f"no space to write {target}: {free / 2**20:.0f} MiB free, more than "
                f"{needed / 2**20:.0f} MiB needed; earlier checkpoints are intact. Free some "
                "space and resume from the last one"
            ) from error

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Content of a checkpoint, see :func:`read_checkpoint`; never more than plain data."""
        return read_checkpoint(path)
