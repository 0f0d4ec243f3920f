"""Starting a stage from the weights of another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scribbleseg.checkpoint import read_checkpoint
from scribbleseg.errors import CheckpointError
from scribbleseg.types import DataInfo

if TYPE_CHECKING:
    from scribbleseg.methods.base import ScribbleSegModule

__all__ = ["load_start"]

logger = logging.getLogger(__name__)


def load_start(module: ScribbleSegModule, path: str) -> None:
    """Copy the weights of a checkpoint of any method into a module that is about to be trained.

    The network must fit entirely; parts that only one of both has, such as the random walk, stay
    as they were initialised and are named in the log. Optimiser and counters start afresh.

    Args:
        module: Where to.
        path: Checkpoint file.

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
