"""Time of several ways to compute one thing, in turns, and the peak memory of each."""

from __future__ import annotations

import gc
import math
import multiprocessing
import statistics
import time
from typing import Any

import numpy as np
import torch
from ops_cases import CASES, Setup, Way
from ops_memory import peak_mib

SAMPLE_S = 0.005  # a faster call is repeated within one sample: clocks and caches are not that good
SLOW_S = 1.0  # a slower call is warmed up once only
# a server that has imported everything and computed nothing forks the processes
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ops_measure"])


def time_in_turns(
    ways: list[Way], *, rounds: int, budget_s: float, device: torch.device
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Seconds of each way and what it returned.

    Each round runs every way once, beginning with another one each time, so that a slow spell of
    the machine hits all alike. At least five rounds are made (unless ``rounds`` is fewer), more as
    long as the budget lasts.
    """
    results, calls, expected = [], [], []
    gc.collect()
    for way in ways:  # warm-up: code is loaded, caches are filled
        start = time.perf_counter()
        results.append(way.outcome() if way.outcome else way.run())
        seconds = time.perf_counter() - start
        if seconds < SLOW_S:  # what is loaded once does not count much beyond
            seconds = _seconds(way.run, 1, device)
        calls.append(max(1, math.ceil(SAMPLE_S / seconds)))
        expected.append(seconds * calls[-1])
    count = min(rounds, max(5, int(budget_s / sum(expected))))
    samples: list[list[float]] = [[] for _ in ways]
    gc.disable()
    try:
        for start in range(count):
            for step in range(len(ways)):
                index = (start + step) % len(ways)
                seconds = _seconds(ways[index].run, calls[index], device)
                samples[index].append(seconds / calls[index])
            gc.collect()
    finally:
        gc.enable()
    return [summary(times) for times in samples], results


def _seconds(run, calls: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def summary(times: list[float]) -> dict[str, Any]:
    quarters = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [0, 0, 0]
    return {
        "median_s": statistics.median(times),
        "iqr_s": quarters[2] - quarters[0],
        "min_s": min(times),
        "samples_s": [round(t, 7) for t in times],
    }


def peak_memory(case: str, label: str, sizes: dict[str, Any], setup: Setup) -> float | None:
    """MiB that a way takes above its inputs, at its peak and with its result.

    On CUDA what torch allocates. On the CPU resident memory of a process of its own, which has run
    the way on small inputs before (loaded code is not counted). None: not known.
    """
    if setup.device.startswith("cuda"):
        return _cuda_peak(case, label, sizes, setup)
    receive, send = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_host_peak, args=(send, case, label, sizes, setup))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:  # killed for lack of memory, or an exception whose traceback is on stderr
        return None
    finally:
        process.join()


def _host_peak(connection, case: str, label: str, sizes: dict[str, Any], setup: Setup) -> None:
    torch.set_num_threads(setup.threads)
    _way(case, label, CASES[case].quick, setup).run()
    way = _way(case, label, sizes, setup)
    connection.send(way.memory() if way.memory else peak_mib(way.run))


def _cuda_peak(case: str, label: str, sizes: dict[str, Any], setup: Setup) -> float | None:
    way = _way(case, label, sizes, setup)
    if way.on_host:
        return None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = way.run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return (peak - before) / 2**20


def _way(case: str, label: str, sizes: dict[str, Any], setup: Setup) -> Way:
    return next(way for way in CASES[case].ways(setup, **sizes) if way.label == label)


def deviation(found: Any, reference: Any) -> float | None:
    """Sum of the differences over that of the values, the worst of all arrays; None if unknown."""
    if found is None or reference is None:
        return None
    worst = 0.0
    for a, b in zip(_arrays(found), _arrays(reference), strict=True):
        worst = max(worst, float(np.abs(a - b).sum()) / (float(np.abs(b).sum()) or 1.0))
    return worst


def _arrays(result: Any) -> list[np.ndarray]:
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in _arrays(part)]
    if isinstance(result, torch.Tensor):
        result = result.detach().cpu().numpy()
    return [np.asarray(result, dtype=np.float64)]
