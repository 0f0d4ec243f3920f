"""Access to golden vectors that notices when an output was not compared."""

from __future__ import annotations

import numpy as np
import torch


class Vectors:
    """Inputs, parameters and outputs of one component of one file."""

    def __init__(self, path, component: str) -> None:
        with np.load(path, allow_pickle=False) as archive:
            prefix = f"{component}/"
            self._arrays = {k[len(prefix) :]: archive[k] for k in archive if k.startswith(prefix)}
        self._compared: set[str] = set()
        self._path = path

    def other(self, component: str) -> Vectors:
        """Another component of the same file, whose inputs this one shares."""
        return Vectors(self._path, component)

    def tensor(self, name: str, *, grad: bool = False) -> torch.Tensor:
        """``in/<name>`` as float32 tensor."""
        return torch.from_numpy(self._arrays[f"in/{name}"].astype(np.float32)).requires_grad_(grad)

    def labels(self, name: str) -> torch.Tensor:
        """``in/<name>`` as int64 tensor."""
        return torch.from_numpy(self._arrays[f"in/{name}"].astype(np.int64))

    def param(self, name: str) -> np.ndarray:
        """``param/<name>``."""
        return self._arrays[f"param/{name}"]

    def scalar(self, name: str) -> float:
        """``param/<name>`` as one number."""
        return float(np.asarray(self._arrays[f"param/{name}"]).reshape(-1)[0])

    def compare(self, name: str, value, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
        """``max|a-b| <= rtol·max|b| + atol`` against ``out/<name>``."""
        expected = self._arrays[f"out/{name}"].astype(np.float64)
        self._compared.add(f"out/{name}")
        found = value.detach().double().numpy() if isinstance(value, torch.Tensor) else value
        found = np.asarray(found, dtype=np.float64).reshape(expected.shape)
        error = np.abs(found - expected).max() if expected.size else 0.0
        limit = rtol * np.abs(expected).max() + atol if expected.size else 0.0
        assert error <= limit, f"out/{name}: largest difference {error:.3g}, allowed {limit:.3g}"

    def assert_all_compared(self) -> None:
        """Every documented output took part in a comparison."""
        outputs = {key for key in self._arrays if key.startswith("out/")}
        assert outputs, "no outputs in this component"
        assert outputs == self._compared, f"not compared: {sorted(outputs - self._compared)}"
