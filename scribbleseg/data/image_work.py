"""Work on many images in processes: one that fails is counted, and does not stop the others."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from scribbleseg.data.prepared import with_progress
from scribbleseg.data.processes import map_in_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Result", "Tally", "failure", "work_through"]

Item = TypeVar("Item")


class Result(Protocol):
    """What became of one image."""

    @property
    def image_id(self) -> Any:
        """Which one."""

    @property
    def written(self) -> bool:
        """Whether a file was written; else all were there."""

    @property
    def reason(self) -> str:
        """What went wrong; empty if nothing did."""


class Tally(Protocol):
    """Report that counts what was done."""

    written: int
    kept: int
    failed: dict[Any, str]


Done = TypeVar("Done", bound=Result)


def failure(error: Exception) -> str:
    """What went wrong with one image, as a sentence for the report.

    Example:
        >>> failure(MemoryError()), failure(ValueError("a.png: no image"))
        ('does not fit into memory: MemoryError', 'a.png: no image')
    """
    reason = str(error) or type(error).__name__
    return f"does not fit into memory: {reason}" if isinstance(error, MemoryError) else reason


def work_through(
    worker: Callable[[Item], Done],
    items: Sequence[Item],
    report: Tally,
    *,
    title: str,
    workers: int,
    progress: bool,
    each: Callable[[Done], None] | None = None,
) -> None:
    """Do the work on all images in their order, and count.

    Args:
        worker: Picklable; never raises for a single image.
        items: Picklable, one per image.
        report: Counts of written, kept and failed images are added to it.
        title: Name of the progress bar.
        workers: Processes, see :func:`~scribbleseg.data.processes.map_in_processes`; 0 = this one.
        progress: Show a progress bar on stderr.
        each: Called in this process with every result that did not fail.

    Raises:
        ScribbleSegError: If a worker process was killed.
    """
    with closing(map_in_processes(worker, items, workers=workers)) as results:
        for result in with_progress(results, len(items), title, enabled=progress):
            if result.reason:
                report.failed[result.image_id] = result.reason
                continue
            report.written += result.written
            report.kept += not result.written
            if each is not None:
                each(result)
