"""One function over many items in several processes, in order, with Ctrl-C as people expect it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import cv2

from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

__all__ = ["map_in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_function: Callable[[Any], Any]  # of a worker process


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    start: str | None = None,
) -> Generator[Result, None, None]:
    """Results of a function in the order of the items.

    Workers compute with one thread each. After Ctrl-C, or when the iterator is closed, they finish
    the item they are at; the others are dropped.

    Args:
        function: Picklable; sent to every worker once, so that it may carry large data.
        items: Picklable arguments.
        workers: Processes; 0 = this one. A script that asks for more needs the usual
            ``if __name__ == "__main__":``, because workers import it, unless they are copies.
        start: Start method of :mod:`multiprocessing`; by default a fork server, where the system
            has one: copies of this process (``"fork"``) could wait for locks of its threads.

    Raises:
        ScribbleSegError: If a worker was killed.
    """
    if workers == 0 or len(items) < 2:
        yield from map(function, items)
        return
    with _one_thread_each(), ExitStack() as stack:
        try:
            with _interrupts_held():
                pool = ProcessPoolExecutor(
                    min(workers, len(items)),
                    mp_context=_context(start, type(function).__module__),
                    initializer=_start,
                    initargs=(function,),
                )
                stack.callback(pool.shutdown, wait=True, cancel_futures=True)
                results = pool.map(_call, items)
            yield from results
        except BrokenProcessPool as error:
            raise ScribbleSegError(
                "a worker process was killed, probably for lack of memory; what is finished stays: "
                f"run the same command with fewer than {workers} workers (0 = no worker process)"
            ) from error


def _context(start: str | None, module: str) -> Any:
    if start is None:
        known = multiprocessing.get_all_start_methods()
        start = "forkserver" if "forkserver" in known else "spawn"
    context = multiprocessing.get_context(start)
    if start == "forkserver":  # it imports the library once for all workers
        context.set_forkserver_preload([__name__, module])
    return context


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    cv2.setNumThreads(0)  # threads of copied processes do not run
    # Ctrl-C reaches all processes of a terminal: workers finish their item, the parent stops.
    # They start while it is held, which a process inherits, but not on every system.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _call(item: Any) -> Any:
    return _function(item)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C waiting while processes start, in them too: in the middle it leaves traces."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    # it lets interrupts through when it has started, so it starts before they are held
    resource_tracker.ensure_running()
    caught: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    # another thread may take what this one blocks, and Python would still raise it here
    replaced = callable(handler) and threading.current_thread() is threading.main_thread()
    if replaced:
        signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        if replaced:
            signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(caught[0], None)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute with one thread: threads of many would share the cores."""
    earlier = dict(os.environ)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name in _THREADS:
            del os.environ[name]
        os.environ.update({name: earlier[name] for name in _THREADS if name in earlier})
