"""``scribbleseg predict --ckpt_path FILE --images FOLDER``: no configuration or labels needed."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from scribbleseg.checkpoint import load
from scribbleseg.errors import ConfigError
from scribbleseg.functional.crf import CRF_PRESETS
from scribbleseg.inference import InferenceConfig
from scribbleseg.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["predict_images"]


def predict_images(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: Words after ``predict``.

    Returns:
        Exit status: 1 if some images failed, else 0.
    """
    parser = ArgumentParser(prog="scribbleseg predict", description=__doc__)
    parser.add_argument("--ckpt_path", type=str, required=True, help="checkpoint of a fit run")
    parser.add_argument(
        "--images", type=str, nargs="+", required=True, help="folder, glob, or files"
    )
    parser.add_argument("--output", type=str, default="predictions", help="folder to write to")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, mps …")
    parser.add_argument("--overwrite", type=bool, default=False, help="redo finished images")
    parser.add_argument("--overlay", type=bool, default=True, help="also write overlays")
    parser.add_argument("--save_prob", type=bool, default=False, help="also write probabilities")
    parser.add_argument("--scales", type=float, nargs="+", default=None, help="test-time scales")
    parser.add_argument("--flip", type=bool | None, default=None, help="average with mirror image")
    parser.add_argument("--window", type=int | None, default=None, help="side of sliding windows")
    parser.add_argument(
        "--crf", type=str, default=None, help="dense CRF preset: irn, cc4s, spml or tel; off = none"
    )
    parser.add_argument(
        "--import", type=str, nargs="+", default=[], help="modules of methods of your own"
    )
    options = parser.parse_args(list(argv))
    for name in options["import"]:
        if "" not in sys.path:
            sys.path.append("")  # a method may lie in the current folder
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"--import {name}: cannot be imported ({error})") from error
    module = load(options.ckpt_path)
    chosen = {
        name: getattr(options, name)
        for name in ("scales", "flip", "window", "crf")
        if getattr(options, name) is not None
    }
    if chosen.get("crf") in ("off", "none"):
        chosen["crf"] = None
    elif "crf" in chosen and chosen["crf"] not in CRF_PRESETS:
        raise ConfigError(
            f"--crf={chosen['crf']}: expected {', '.join(CRF_PRESETS)}, or off for none"
        )
    inference = InferenceConfig.from_dict({**module.inference.to_dict(), **chosen})
    predictor = Predictor(module, device=options.device, inference=inference)
    report = predictor.predict_folder(
        options.images[0] if len(options.images) == 1 else options.images,
        options.output,
        overwrite=options.overwrite,
        overlay=options.overlay,
        save_prob=options.save_prob,
    )
    return 1 if report.failed else 0
