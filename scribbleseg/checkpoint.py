"""Checkpoints that survive a full disk and reload without any arguments."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from scribbleseg.errors import CheckpointError
from scribbleseg.inference import InferenceConfig
from scribbleseg.types import DataInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scribbleseg.methods.base import ScribbleSegModule

__all__ = ["AtomicCheckpointIO", "load", "load_start", "read_checkpoint"]

logger = logging.getLogger(__name__)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Contents of a checkpoint file, loaded with ``weights_only=True`` on the CPU.

    Raises:
        CheckpointError: If the file is missing, remote, truncated, or holds more than plain data.
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
    return cast("dict[str, Any]", state)


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
        CheckpointError: If the file cannot be read, was not written by this library, or names a
            class that cannot be imported.

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
    module_name, _, class_name = facts["class_path"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path} was written by {facts['class_path']}, which cannot be imported ({error}); "
            "install the package that defines it"
        ) from error
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
    is not atomic.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint.

        Raises:
            CheckpointError: If the disk is full; the previous files are intact.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
        except BaseException as error:
            needed = Path(temporary).stat().st_size if Path(temporary).exists() else 0
            Path(temporary).unlink(missing_ok=True)
            free = shutil.disk_usage(target.parent).free
            # torch reports a full disk as "unexpected pos"
            if isinstance(error, (OSError, RuntimeError)) and (
                getattr(error, "errno", None) == 28 or "unexpected pos" in str(error)
            ):
                raise CheckpointError(
                    f"no space to write {target}: {free / 2**20:.0f} MiB free, more than "
                    f"{needed / 2**20:.0f} MiB needed; earlier checkpoints are intact. Free some "
                    "space and resume from the last one"
                ) from error
            raise
