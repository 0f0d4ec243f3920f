"""The command line: LightningCLI's fit, validate, test, predict; prediction on bare folders."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

import scribbleseg.data.sources
import scribbleseg.methods  # noqa: F401  (short class names resolve among imported classes)
from scribbleseg import __version__
from scribbleseg.callbacks import PreemptionCheckpoint, PseudoLabelWriter
from scribbleseg.checkpoint import AtomicCheckpointIO
from scribbleseg.cli_errors import SuggestingParser, explain
from scribbleseg.cli_merge import merge_regularizers
from scribbleseg.data.datamodule import ScribbleDataModule
from scribbleseg.errors import ConfigError
from scribbleseg.methods.base import ScribbleSegModule
from scribbleseg.predict_command import predict_images
from scribbleseg.runs import (
    SaveRunConfig,
    choose_run_dir,
    lock_run,
    resolve_checkpoint,
    run_callbacks,
    run_loggers,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from filelock import BaseFileLock
    from lightning.pytorch import Trainer

__all__ = ["ScribbleSegCLI", "main"]

logger = logging.getLogger(__name__)
_LOCKS: list[BaseFileLock] = []  # of the run of this process
_DESCRIPTION = """Train semantic segmentation from scribbles and other weak labels.
Predict images without labels: scribbleseg predict --ckpt_path FILE --images FOLDER --output FOLDER.
Check a data folder: python -m scribbleseg.data check FOLDER."""


class ScribbleSegCLI(LightningCLI):
    """LightningCLI with a run directory, linked class count and the callbacks every run needs."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the run itself."""
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="folder for everything this run writes"
        )
        parser.add_argument(
            "--wandb",
            type=bool,
            default=False,
            help="log to Weights & Biases (offline without a key)",
        )
        parser.add_argument("--wandb_project", type=str, default="scribbleseg", help="W&B project")
        parser.add_argument("--tensorboard", type=bool, default=False, help="log to TensorBoard")
        parser.add_argument(
            "--save_every_n_steps", type=int, default=200, help="steps between updates of last.ckpt"
        )
        parser.add_argument(
            "--monitor", type=str, default="val/miou", help="score by which best.ckpt is chosen"
        )
        parser.link_arguments(
            "data.num_classes", "model.init_args.num_classes", apply_on="instantiate"
        )
        parser.link_arguments(
            "data.in_channels", "model.init_args.in_channels", apply_on="instantiate"
        )

    def _parse_ckpt_path(self) -> None:
        """Resolve the run folder; unlike Lightning's, keep the hyper-parameters as typed."""
        stage, config = self.config.subcommand, self.config[self.config.subcommand]
        if stage != "fit" and config.get("ckpt_path") is None:
            raise ConfigError(f"{stage} needs trained weights: give --ckpt_path FILE")
        config.ckpt_path = resolve_checkpoint(config.get("ckpt_path"), config.run_dir)
        if config.ckpt_path is not None and "encoder_weights" in config.model.init_args:
            config.model.init_args.encoder_weights = None  # the checkpoint's weights replace them
        model = str(config.model.class_path).rsplit(".", 1)[-1]
        self.run_dir = choose_run_dir(config.run_dir, stage, model, config.ckpt_path)
        config.run_dir = config.trainer.default_root_dir = str(self.run_dir)
        if stage == "fit" and getattr(rank_zero_only, "rank", 0) == 0:
            _LOCKS.append(lock_run(self.run_dir))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add this run's loggers, callbacks and checkpoint writer to the user's."""
        config, stage = self.config_init[self.subcommand], self.subcommand
        own = config.trainer.callbacks or []
        kwargs["callbacks"] = [*(own if isinstance(own, list) else [own])]
        if stage == "fit":
            given = config.trainer.logger
            loggers = run_loggers(
                self.run_dir,
                wandb=config.wandb,
                tensorboard=config.tensorboard,
                project=config.wandb_project,
            )
            if given not in (None, True, False):
                loggers += given if isinstance(given, list) else [given]
            kwargs["logger"] = loggers
            kwargs["callbacks"] += run_callbacks(
                self.run_dir, save_every_n_steps=config.save_every_n_steps, monitor=config.monitor
            )
        else:
            kwargs["logger"] = False
            if stage == "predict":
                kwargs["callbacks"] += [PseudoLabelWriter(str(self.run_dir / "predictions"))]
        plugins = config.trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins])]
        kwargs["plugins"] += [AtomicCheckpointIO()]
        if config.trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stderr.isatty()
        return super().instantiate_trainer(**kwargs)

    def after_validate(self) -> None:
        """Keep the scores."""
        self._write_scores()

    def after_test(self) -> None:
        """Keep the scores."""
        self._write_scores()

    def _write_scores(self) -> None:
        """``scores_<stage>.json``: every score of this evaluation, NaN as null."""
        if not self.trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        plain = {name: None if math.isnan(v) else v for name, v in values.items()}
        self.run_dir.mkdir(parents=True, exist_ok=True)
        facts = {"checkpoint": self.config[self.subcommand].ckpt_path, **plain}
        path = self.run_dir / f"scores_{self.subcommand}.json"
        path.write_text(json.dumps(facts, indent=1) + "\n")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        prepared = super()._prepare_subcommand_kwargs(subcommand)
        prepared["weights_only"] = True  # checkpoints hold plain data: nothing is unpickled
        if subcommand == "predict":
            prepared["return_predictions"] = False  # the writer streams them to files
        return prepared


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of ``scribbleseg``.

    Exit status 0 also after SIGTERM (with a checkpoint written); 2 for a user's mistake, which is
    told in a few lines; ``--traceback`` shows where it came from.
    """
    _quiet_logging()
    argv = list(sys.argv[1:] if args is None else args)
    show_traceback = "--traceback" in argv
    argv = [word for word in argv if word != "--traceback"]
    program, before = sys.argv[0], sys.argv
    try:
        if argv[:1] == ["predict"] and any(re.match(r"--images(=|$)", word) for word in argv):
            sys.exit(predict_images(argv[1:]))
        # LightningCLI reads sys.argv itself; a distributed launcher starts it again with the same
        sys.argv = [program, *merge_regularizers(_with_run_config(argv))]
        ScribbleSegCLI(
            ScribbleSegModule,
            ScribbleDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=42,
            parser_class=SuggestingParser,
            parser_kwargs={
                "prog": "scribbleseg",
                "description": _DESCRIPTION,
                "version": __version__,
                "allow_abbrev": False,
                # subcommands take their own arguments; jsonargparse < 4.53 abbreviates by default
                **{
                    name: {"allow_abbrev": False} for name in ("fit", "validate", "test", "predict")
                },
            },
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={"gradient_clip_val": 1.0, "log_every_n_steps": 10},
        )
    except SIGTERMException as stop:
        last = PreemptionCheckpoint.last_written
        logger.warning("stopped by SIGTERM; resume with: scribbleseg fit --ckpt_path %s", last)
        raise SystemExit(0) from stop
    except Exception as error:
        if show_traceback:
            raise
        message = explain(error)
        if message is not None:
            sys.stderr.write(f"error: {message}\n")
            raise SystemExit(2) from None
        # not foreseen: keep the stack trace, but out of the way
        with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as trace:
            traceback.print_exc(file=trace)
        sys.stderr.write(
            f"error: {type(error).__name__}: {error}\nstack trace: {trace.name} (or --traceback)\n"
        )
        raise SystemExit(1) from None
    finally:
        while _LOCKS:
            _LOCKS.pop().release()
        sys.argv = before
        os.environ.pop("SCRIBBLESEG_RUN_DIR", None)


def _quiet_logging() -> None:
    """Our lines at INFO; no advertisements, nor warnings about Lightning's own internals."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("scribbleseg").setLevel(logging.INFO)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).addFilter(lambda record: "Tip:" not in record.getMessage())
    for message in (
        r".*LeafSpec.*",  # lightning 2.6 on torch 2.15
        r".*callbacks used to create the checkpoint.*",  # evaluation needs none of them
        r".*smaller than the logging interval.*",
        r".*your dataloader is not resumable.*",  # the sampler and the data module are
        r".*does not have many workers.*",  # chosen by the data module
    ):
        warnings.filterwarnings("ignore", message=message)


def _with_run_config(argv: list[str]) -> list[str]:
    """A checkpoint knows its configuration: add the run's file if none is given."""
    given = {word.split("=", 1)[0] for word in argv}
    if not argv or given & {"--config", "-c", "--model", "--model.class_path", "--help", "-h"}:
        return argv
    added: list[str] = []
    for index, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name == "--ckpt_path":
            value = value or (argv[index + 1] if index + 1 < len(argv) else "")
            folder = Path(value).resolve().parent.parent
            # the newest one is that of the last fit or resume
            configs = sorted(folder.glob("config_fit*.yaml"), key=lambda p: p.stat().st_mtime)
            if configs:
                added = ["--config", str(configs[-1])]
                # the folder may have been moved since
                added += [] if "--run_dir" in given else ["--run_dir", str(folder)]
    return [argv[0], *added, *argv[1:]]
