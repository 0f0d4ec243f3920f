"""Messages for people: nearest matches for misspelt names, cures instead of stack traces."""

from __future__ import annotations

import difflib
import inspect
import re
from typing import TYPE_CHECKING, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SuggestingParser", "explain", "suggest"]

_UNKNOWN = (
    r"[Uu]nrecognized arguments: --?([\w.]+)",
    r"(?:Key|Option) '([\w.]+)' is not (?:expected|accepted)",
    r"does not accept option '([\w.]+)'",
    r"Expected a dot import path string: ([\w.]+)",
    r"Group '[\w.]+' does not accept (?:nested key|option) '([\w.]+)'",
    r"[Nn]o action for key \"([\w.]+)\"",
    r"'([\w.]+)' does not exist",
    r"Import path ([\w.]+)",
    r"[Nn]ot a subclass.*?([A-Z]\w+)",
    r"class_path[\"']?: [\"']([\w.]+)[\"']",
    r"argument subcommand: invalid choice: '(\w+)'",
    r"Unable to load config '([^']+)'",
)


def suggest(word: str, known: Iterable[str]) -> str:
    """``did you mean …`` for the nearest known names, or an empty string.

    Example:
        >>> suggest("trainer.max_epoch", ["trainer.max_epochs", "run_dir"])
        "did you mean 'trainer.max_epochs'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=2, cutoff=0.6)
    if not near:
        tails = {name.rsplit(".", 1)[-1]: name for name in names}
        near = difflib.get_close_matches(word.rsplit(".", 1)[-1], list(tails), n=2, cutoff=0.7)
    return f"did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _parameters(root: type) -> set[str]:
    """Names of all constructor parameters of a class and its subclasses, and the class names."""
    names: set[str] = set()
    todo: list[type] = [root]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        names.add(cls.__name__)
        names |= set(inspect.signature(cls).parameters) - {"self", "kwargs", "args"}
    return names


class SuggestingParser(LightningArgumentParser):
    """Parser whose errors name the nearest option, and nothing else."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report in a few lines and exit with status 2."""
        import sys

        known = self._known_names()
        hints: list[str] = []
        for pattern in _UNKNOWN:
            for word in re.findall(pattern, message):
                hint = suggest(word, known)
                if hint and hint not in hints:
                    hints.append(hint)
        text = "\n".join([_shorten(message), *hints])
        sys.stderr.write(f"error: {text}\nall options: {self.prog.split(' [')[0]} --help\n")
        self.exit(2)

    def _known_names(self) -> set[str]:
        from lightning.pytorch import Trainer

        from scribbleseg.data.datamodule import ScribbleDataModule
        from scribbleseg.data.source import ScribbleSource
        from scribbleseg.inference import InferenceConfig
        from scribbleseg.methods.base import ScribbleSegModule

        names = {"fit", "validate", "test", "predict", "config", "model", "data", "trainer"}
        for action in self._actions:
            names |= {option.lstrip("-") for option in action.option_strings}
        for root in (ScribbleSegModule, ScribbleDataModule, ScribbleSource):
            names |= _parameters(root)
        names |= set(InferenceConfig.__dataclass_fields__)
        names |= {f"trainer.{name}" for name in inspect.signature(Trainer.__init__).parameters}
        return names


_NOISE = ("Given value", "Subclass types expect", "Does not validate", "Subtypes:", "Errors:")


def _shorten(message: str) -> str:
    """The innermost reasons of jsonargparse's nested message, each once."""
    kept: list[str] = []
    for line in message.splitlines():
        text = line.strip(" -")
        noise = text.startswith(_NOISE) or "NoneType" in text or "Expected a path but" in text
        if text and not noise and text not in kept:
            kept.append(text)
    return "\n".join(kept[:8]) or message


def _ours(error: BaseException) -> BaseException:
    """The error of ours inside those that frameworks wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ScribbleSegError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


def explain(error: BaseException) -> str | None:
    """Message for a person, or ``None`` if this is no user's mistake."""
    error = _ours(error)
    text = str(error)
    if "DataLoader worker" in text and "Original Traceback" in text:
        # an error of ours that crossed a process boundary: its own message is the last one
        found = re.findall(r"scribbleseg\.errors\.\w+: (.*)", text, flags=re.DOTALL)
        return str(found[-1]).strip() if found else None
    if re.search(r"DataLoader worker.*(exited unexpectedly|killed)", text):
        return (
            "a data loader process died, most often for lack of shared memory or RAM; set "
            f"--data.init_args.num_workers=0 or a smaller batch size ({text.splitlines()[0]})"
        )
    if isinstance(error, (ScribbleSegError, MisconfigurationException)):
        return text
    if "out of memory" in text.lower():
        return (
            f"{text.splitlines()[0]}\nthe device is out of memory: lower data.batch_size or "
            "data.crop_size, use --trainer.precision=bf16-mixed, or set inference.window"
        )
    return None
