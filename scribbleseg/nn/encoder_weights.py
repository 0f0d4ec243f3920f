"""Encoder weights from a hub or from a local file, with or without a network connection."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scribbleseg.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

__all__ = ["load_encoder_weights", "offline_guard"]

logger = logging.getLogger(__name__)
_PREFIXES = ("module.", "model.", "encoder.", "backbone.", "network.")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"encoder weights {path} do not exist; expected 'imagenet', null or the path of a "
            ".safetensors/.pth file"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"encoder weights {path} cannot be read ({type(error).__name__}: {error}); only "
            ".safetensors and tensor-only .pth files are accepted"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _strip(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def load_encoder_weights(encoder: nn.Module, path: str | Path, *, name: str) -> None:
    """Load a local weights file into an encoder, matching names without wrapper prefixes.

    A first convolution with another number of input channels is adapted: the kernel is summed for
    one channel, and repeated and rescaled otherwise.

    Args:
        encoder: Encoder of the network; changed in place.
        path: ``.safetensors``, or ``.pth`` holding tensors (optionally under ``state_dict``).
        name: Encoder name for messages.

    Raises:
        WeightsError: If the file cannot be read or fewer than 90 % of the tensors match.
    """
    path = Path(path)
    given = {_strip(key): value for key, value in _read_tensors(path).items()}
    target = encoder.state_dict()
    # counters are no weights: a file without them is complete
    wanted = [key for key in target if not key.endswith("num_batches_tracked")]
    loaded, wrong_shape, missing = {}, [], []
    for key in target:
        value = given.get(_strip(key))
        if value is None:
            if key in wanted:
                missing.append(key)
            continue
        if value.ndim == 4 and value.shape[1] == 3 and target[key].shape[1] != 3:
            value = _adapt_channels(value, target[key].shape[1])
        if value.shape != target[key].shape:
            wrong_shape.append(
                f"{key}: file {tuple(value.shape)}, encoder {tuple(target[key].shape)}"
            )
            continue
        loaded[key] = value
    matched = sum(key in loaded for key in wanted)
    if matched < 0.9 * len(wanted):
        raise WeightsError(
            f"{path} fits {matched} of {len(wanted)} tensors of encoder {name!r}: "
            f"missing e.g. {missing[:3]}, other shape e.g. {wrong_shape[:3]}, file holds e.g. "
            f"{sorted(given)[:3]}; it probably belongs to another encoder"
        )
    encoder.load_state_dict({**target, **loaded})
    used = {_strip(key) for key in loaded}
    logger.info(
        "encoder %s: %d of %d tensors from %s (missing: %s; unused: %s)",
        name,
        matched,
        len(wanted),
        path,
        ", ".join(missing + wrong_shape) or "none",
        ", ".join(sorted(set(given) - used)) or "none",
    )


def _adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """Keep the response to a grey image: sum for one channel, repeat and rescale for more."""
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


@contextlib.contextmanager
def offline_guard(encoder: str, weights: str | None) -> Iterator[None]:
    """Fail within seconds, and helpfully, when hub weights are wanted without a connection.

    The hub client alone retries for about 46 s and then reports a generic error.

    Raises:
        WeightsError: If the weights are neither cached nor reachable.
    """
    if weights is None:
        yield
        return
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE
    if not before and not _reachable(hub.ENDPOINT):
        hub.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:
        if not hub.HF_HUB_OFFLINE or isinstance(error, (KeyError, ValueError)):
            raise
        raise WeightsError(
            f"{weights} weights of encoder {encoder!r} are not in the cache {hub.HF_HUB_CACHE} and "
            "the hub cannot be reached; run once on a connected machine and copy that folder, "
            "or set model.init_args.encoder_weights to a local .safetensors file, or to null "
            "(random: training on scribbles needs pretraining)"
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = before


def _reachable(endpoint: str, timeout: float = 2.0) -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # only the proxy can tell
    host = endpoint.split("//", 1)[-1].split("/", 1)[0]
    name, _, port = host.partition(":")
    default = 80 if endpoint.startswith("http://") else 443
    try:
        with socket.create_connection((name, int(port or default)), timeout=timeout):
            return True
    except OSError:
        return False
