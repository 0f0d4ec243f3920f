"""Run a function on several gloo processes and collect what each returns."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _entry(rank: int, world_size: int, port: int, out: str, worker, args) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        result = worker(rank, *args)
        Path(out, f"rank_{rank}.pkl").write_bytes(pickle.dumps(result))
    except BaseException:
        Path(out, f"rank_{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


def run_ddp(worker, *args, out: Path, world_size: int = 2) -> list:
    """Call ``worker(rank, *args)`` in spawned processes; results in rank order.

    The worker must be importable from a module (spawn pickles it by name). Forking would deadlock
    once faiss or OpenMP was used in the parent.
    """
    out.mkdir(parents=True, exist_ok=True)
    mp.spawn(_entry, args=(world_size, _free_port(), str(out), worker, args), nprocs=world_size)
    return [pickle.loads((out / f"rank_{rank}.pkl").read_bytes()) for rank in range(world_size)]
