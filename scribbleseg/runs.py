"""One run, one directory: configuration, checkpoints, metrics, panels; nothing overwritten."""

from __future__ import annotations

import csv
import importlib.util
import logging
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from scribbleseg.callbacks import (
    ExactResume,
    NonFiniteGuard,
    PredictionPanel,
    PreemptionCheckpoint,
    RunSummary,
)
from scribbleseg.errors import CheckpointError, ConfigError, MissingExtraError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import Logger

__all__ = [
    "BestCheckpoint",
    "LastCheckpoint",
    "RunCSVLogger",
    "SaveRunConfig",
    "choose_run_dir",
    "lock_run",
    "resolve_checkpoint",
    "run_callbacks",
    "run_loggers",
]

logger = logging.getLogger(__name__)
_ENV = "SCRIBBLESEG_RUN_DIR"


def choose_run_dir(run_dir: str | None, stage: str, model: str, checkpoint: str | None) -> Path:
    """Folder of this run; a new fit never starts in the folder of another.

    Args:
        run_dir: What the user asked for.
        stage: fit, validate, test or predict.
        model: Class name, for the default folder name.
        checkpoint: Checkpoint to resume or evaluate; its run's folder is the default.

    Raises:
        ConfigError: If a fit without checkpoint would write into an existing run.
    """
    if run_dir is None and checkpoint is not None and Path(checkpoint).parent.name == "checkpoints":
        return Path(checkpoint).parent.parent
    if run_dir is None:
        # processes of one distributed run must agree: the first one decides
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        run_dir = os.environ.setdefault(_ENV, str(Path("runs") / f"{model}_{stamp}"))
    folder = Path(run_dir)
    launched_by_us = os.environ.get("LOCAL_RANK", "0") != "0"
    if stage == "fit" and checkpoint is None and not launched_by_us:
        last = folder / "checkpoints" / "last.ckpt"
        if last.exists():
            raise ConfigError(
                f"{folder} already holds a run; resume it with --ckpt_path {last}, or give another "
                "--run_dir"
            )
    return folder


def lock_run(folder: Path) -> BaseFileLock:
    """Keep other fits out of a folder until the lock is released, or the process ends.

    Raises:
        ConfigError: If another process writes there now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        with suppress(NotImplementedError):  # of file systems without locks
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{folder}: another fit is writing there now; wait until it has ended, or give another "
            "--run_dir"
        ) from error
    return lock


def resolve_checkpoint(path: str | None, run_dir: str | None) -> str | None:
    """``last`` and ``best`` become files of the run; other paths must exist.

    Raises:
        CheckpointError: If there is no such file.
    """
    if path in {"last", "best"}:
        if run_dir is None:
            raise CheckpointError(f"--ckpt_path {path} needs --run_dir, the folder of the run")
        path = str(Path(run_dir) / "checkpoints" / f"{path}.ckpt")
    if path is not None and not Path(path).is_file():
        near = sorted(str(p) for p in Path(path).parent.glob("*.ckpt"))
        found = f"; found {', '.join(near)}" if near else ""
        raise CheckpointError(f"checkpoint {path} does not exist{found}")
    return path


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt`` by a validation score; without masks by the same score on scribbles."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the score before the state of an earlier run is restored by its name."""
        super().setup(trainer, pl_module, stage)
        data: Any = getattr(trainer, "datamodule", None)
        scored = (self.monitor or "").startswith("val/") and hasattr(data, "records")
        if stage != "fit" or not scored or str(self.monitor).endswith("_scribble"):
            return
        if not all(r.image is None or r.mask is not None for r in data.records("val")):
            logger.info("no masks to validate on: best.ckpt is chosen by %s_scribble", self.monitor)
            self.monitor = f"{self.monitor}_scribble"

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        if self.monitor is not None and self.monitor not in monitor_candidates:
            if not getattr(self, "_warned", False):
                scores = sorted(k for k in monitor_candidates if k.startswith("val/"))
                logger.warning(
                    "%s was not logged: best.ckpt is not written, last.ckpt is the result; "
                    "--monitor can be one of: %s",
                    self.monitor,
                    ", ".join(name for name in scores if name.count("/") == 1) or "nothing yet",
                )
                self._warned = True
            return
        super()._save_topk_checkpoint(trainer, monitor_candidates)


class LastCheckpoint(ModelCheckpoint):
    """Updates ``last.ckpt`` after every epoch and at the very end of a run, wherever that is.

    Stock ModelCheckpoint waits for a validation if that is rarer than epochs, and at a stop in
    the middle of an epoch writes a state from which Lightning would skip the rest of that epoch.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if the run ends here, in the middle of an epoch."""
        ends = trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        if ends and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save complete epochs."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)


def run_callbacks(folder: Path, *, save_every_n_steps: int, monitor: str) -> list[Callback]:
    """Callbacks of every fit: exact resume, guards, checkpoints, panels, console lines.

    Raises:
        ConfigError: If ``monitor`` is a score that knows labels a user of the model has not.
    """
    if monitor.startswith("oracle/"):
        raise ConfigError(
            f"monitor={monitor!r}: this score uses the classes of the dense masks, so a checkpoint "
            "must not be chosen by it; monitor val/miou"
        )
    checkpoints = str(folder / "checkpoints")
    fixed: dict[str, Any] = {
        "dirpath": checkpoints,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    return [
        ExactResume(),
        NonFiniteGuard(),
        RunSummary(str(folder)),
        PredictionPanel(str(folder / "panels")),
        PreemptionCheckpoint(checkpoints),
        BestCheckpoint(filename="best", monitor=monitor, mode="max", **fixed),
        ModelCheckpoint(filename="last", every_n_train_steps=save_every_n_steps, **fixed),
        LastCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **fixed),
    ]


def run_loggers(folder: Path, *, wandb: bool, tensorboard: bool, project: str) -> list[Logger]:
    """CSV always; W&B and TensorBoard on request.

    Raises:
        MissingExtraError: If TensorBoard is asked for and not installed.
    """
    loggers: list[Logger] = [RunCSVLogger(str(folder), name="", version="")]
    if wandb:
        from lightning.pytorch.loggers import WandbLogger

        folder.mkdir(parents=True, exist_ok=True)
        _wandb_without_prompt()
        # the run's id is kept, so that a resumed run continues its curves
        identity = folder / "wandb_id.txt"
        known = identity.read_text().strip() if identity.exists() else None
        run = WandbLogger(
            project=project, name=folder.name, save_dir=str(folder), id=known, resume="allow"
        )
        if known is None and os.environ.get("LOCAL_RANK", "0") == "0":
            identity.write_text(str(run.experiment.id))
        loggers.append(run)
    if tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError("tensorboard", "tensorboard", "--tensorboard")
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(str(folder), name="", version="tensorboard"))
    return loggers


def _wandb_without_prompt() -> None:
    """A job must never wait for a login: without a key, log offline."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"):
        return
    netrc = Path.home() / ".netrc"
    if not (netrc.exists() and "wandb" in netrc.read_text()):
        os.environ["WANDB_MODE"] = "offline"
        logger.warning("no W&B key found: logging offline; upload later with `wandb sync`")


class _AppendingWriter(ExperimentWriter):
    """Lightning deletes an earlier metrics.csv; a resumed run must add to it."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as stream:
                self.metrics_keys = list(next(csv.reader(stream), []))


class RunCSVLogger(CSVLogger):
    """``metrics.csv`` in the run's folder; resuming appends rows."""

    @property
    def experiment(self) -> Any:
        """Writer of the rows."""
        if self._experiment is None and self._rank_is_zero():
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment if self._experiment is not None else super().experiment

    @staticmethod
    def _rank_is_zero() -> bool:
        from lightning.pytorch.utilities import rank_zero_only

        return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


class SaveRunConfig(SaveConfigCallback):
    """Writes the full configuration as ``config_<stage>.yaml``; earlier ones stay."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called once per run on rank zero."""
        folder, name = Path(trainer.default_root_dir), getattr(stage, "value", stage)
        folder.mkdir(parents=True, exist_ok=True)
        text = self.parser.dump(self.config, skip_none=False)
        path, number = folder / f"config_{name}.yaml", 1
        while path.exists() and path.read_text() != text:
            number += 1
            path = folder / f"config_{name}_{number}.yaml"
        path.write_text(text)
        for run_logger in trainer.loggers:
            if type(run_logger).__name__ == "WandbLogger":
                import yaml

                run_logger.log_hyperparams({"config": yaml.safe_load(text)})
