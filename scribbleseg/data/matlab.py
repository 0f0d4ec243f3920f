"""Arrays of MATLAB files, read in a process of their own: damaged files can crash SciPy's reader.

Run as a program, this file is that process: it reads requests from its input and answers them.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.decode import decoding
from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_mat"]

_SECONDS = 60.0  # for one file
_BYTES = 2 << 30  # address space of the process
_WORKERS: dict[int, subprocess.Popen[bytes]] = {}  # by process: a forked child starts its own
_LOCK = threading.Lock()


def read_mat(path: Path, keys: tuple[str, ...], expected: str) -> tuple[str, NDArray[np.integer]]:
    """The first of some variables that a file holds, of MATLAB 4 to 7.2.

    Args:
        path: File.
        keys: Variables, of which ``"A.B"`` is the field B of the struct A.
        expected: What the file should be, for messages.

    Returns:
        Name of the variable, and its unsigned integers, shape ``(H, W)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it holds none of them, or cannot be read (D202).
    """
    with decoding(path, "label"), _LOCK:
        answer, data = _ask({"path": str(path), "keys": keys})
    if "error" in answer:
        raise LabelFormatError(
            f"D202 {path}: cannot be read ({answer['error']}), expected {expected}"
        )
    return str(answer["key"]), np.load(BytesIO(data), allow_pickle=False)


def _ask(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Answer of the process of this one, which is started at the first request."""
    worker = _WORKERS.get(os.getpid())
    if worker is None or worker.poll() is not None:
        worker = _WORKERS[os.getpid()] = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        atexit.register(_stop, worker)
    if worker.stdin is None or worker.stdout is None:
        raise RuntimeError("the process has no pipes")
    late = threading.Timer(_SECONDS, worker.kill)
    late.start()
    try:
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        if line:
            answer = json.loads(line)
            return answer, worker.stdout.read(int(answer.get("bytes", 0)))
    except (OSError, ValueError):
        pass  # it died in the middle
    finally:
        late.cancel()
    _stop(worker)
    return {"error": f"the reader crashed or took more than {_SECONDS:.0f} s"}, b""


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with suppress(OSError):  # a request that it did not take
                stream.close()
    worker.wait()


def _main() -> None:
    """Answer requests until the input ends."""
    import scipy.io  # noqa: F401  (before memory is limited)

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    for line in sys.stdin.buffer:
        request, stream = json.loads(line), BytesIO()
        try:
            key, values = _variable(request["path"], request["keys"])
            np.save(stream, values, allow_pickle=False)
            answer = {"key": key, "bytes": stream.tell()}
        except BaseException as error:  # noqa: BLE001 (the reader raises anything)
            stream = BytesIO()
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + stream.getvalue())
        sys.stdout.buffer.flush()


def _variable(path: str, keys: list[str]) -> tuple[str, NDArray[np.integer]]:
    from scipy.io import loadmat, whosmat

    content = loadmat(path, variable_names=[key.split(".")[0] for key in keys])
    key = next((key for key in keys if key.split(".")[0] in content), None)
    if key is None:
        held = [name for name, *_ in whosmat(path)][:5]
        raise ValueError(f"no variable {' or '.join(keys)}, only {held}")
    name, _, member = key.partition(".")
    values = np.asarray(content[name][0][member][0] if member else content[name])
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.unsignedinteger):
        raise ValueError(f"{key} is {values.dtype} of shape {values.shape}")
    return key, values


if __name__ == "__main__":
    _main()
