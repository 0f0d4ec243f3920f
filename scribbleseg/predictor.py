"""Prediction with a trained module: one array, one file, or a folder of images."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from scribbleseg.errors import CheckpointError
from scribbleseg.folder_prediction import FolderReport, predict_folder
from scribbleseg.functional.images import decode_image
from scribbleseg.functional.preprocess import preprocess
from scribbleseg.inference import argmax_at_size, refine_logits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from scribbleseg.inference import InferenceConfig
    from scribbleseg.types import DataInfo

__all__ = ["PredictingModule", "Prediction", "Predictor"]


class PredictingModule(Protocol):
    """What :class:`Predictor` needs of a module; every method of this library has it."""

    data_info: DataInfo
    inference: InferenceConfig

    def predict_logits(self, image: Tensor, /) -> Tensor:
        """Scores ``(B, C, H, W)`` of network input ``(B, 3, H, W)``, honouring ``inference``."""

    def modules(self) -> Iterator[nn.Module]:
        """As of ``torch.nn.Module``."""

    def eval(self) -> Any:
        """As of ``torch.nn.Module``."""

    def to(self, device: torch.device, /) -> Any:
        """As of ``torch.nn.Module``."""


class Prediction(NamedTuple):
    """Prediction for one image, at the size of that image.

    Attributes:
        labels: Class ids, uint8, shape ``(H, W)``.
        probabilities: Per class, float32, shape ``(C, H, W)``, or ``None`` if not asked for.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None = None

    @property
    def confidence(self) -> NDArray[np.float32] | None:
        """Probability of the predicted class, shape ``(H, W)``; ``None`` without probabilities."""
        if self.probabilities is None:
            return None
        return np.asarray(self.probabilities.max(axis=0), dtype=np.float32)


class Predictor:
    """Labels images with a module; needs nothing but what its checkpoint holds.

    The module is moved to the device. Its training flags and test-time options are put back after
    every call.

    Args:
        module: Any method of this library, or a module of that form.
        device: ``"auto"`` = CUDA, else Apple's MPS, else the CPU; or a name such as ``"cuda:1"``.
        inference: Test-time options; ``None`` = those of the module.

    Raises:
        CheckpointError: If the module does not know its data.

    Example::

        predictor = Predictor(module)
        labels = predictor("photo.jpg").labels            # uint8 (H, W)
        report = predictor.predict_folder("photos", "predictions")
    """

    def __init__(
        self,
        module: PredictingModule,
        *,
        device: str | torch.device = "auto",
        inference: InferenceConfig | None = None,
    ) -> None:
        info: object = getattr(module, "data_info", None)
        if info is None:
            raise CheckpointError(
                f"{type(module).__name__} has no data_info (class names, normalisation): load it "
                "from a checkpoint, or set module.data_info"
            )
        self.module = module
        self.inference = inference if inference is not None else module.inference
        self.device = _best_device() if device == "auto" else torch.device(device)
        self.module.to(self.device)

    @property
    def data_info(self) -> DataInfo:
        """Class names, colours and preprocessing that the module was trained with."""
        return self.module.data_info

    def __call__(
        self, image: NDArray[np.uint8] | str | Path, *, probabilities: bool = False
    ) -> Prediction:
        """Label one image.

        Args:
            image: RGB or grey pixels, uint8, shape ``(H, W, 3)`` or ``(H, W)``; or a file.
            probabilities: Also return the probability of each class.

        Returns:
            Ids (and probabilities) at the size of the image; scores are scaled bilinearly from the
            size of the network input before the most likely class is taken. A CRF of the test-time
            options runs on the pixels of the image.

        Raises:
            ScribbleNotFoundError: If the file does not exist.
            LabelFormatError: If the file cannot be decoded.
            ValueError: If the array is no 8-bit image.
            CheckpointError: If the module predicts another number of classes than it has names.
        """
        pixels = decode_image(image) if isinstance(image, (str, Path)) else _as_rgb(image)
        size = (pixels.shape[0], pixels.shape[1])
        network_input = preprocess(pixels, self.data_info)[None].to(self.device)
        with self._evaluation(), torch.inference_mode():
            logits = self.module.predict_logits(network_input)
            if logits.shape[1] != self.data_info.num_classes:
                raise CheckpointError(
                    f"the module predicts {logits.shape[1]} classes, but its data_info names "
                    f"{self.data_info.num_classes}: set module.data_info to the training data's"
                )
            raw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
            logits = refine_logits(logits, raw, self.inference)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            labels = argmax_at_size(logits, size)[0].to(torch.uint8).cpu().numpy()
            if not probabilities:
                return Prediction(labels)
            if logits.shape[-2:] != size:
                logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            shares = logits[0].softmax(dim=0).float().cpu().numpy()
        return Prediction(labels, shares)

    def predict_folder(
        self,
        images: str | Path | Sequence[str | Path],
        output: str | Path,
        *,
        overwrite: bool = False,
        overlay: bool = True,
        save_prob: bool = False,
        progress: bool = True,
    ) -> FolderReport:
        """Label many images; see :func:`~scribbleseg.folder_prediction.predict_folder`."""
        return predict_folder(
            self,
            images,
            output,
            overwrite=overwrite,
            overlay=overlay,
            save_prob=save_prob,
            progress=progress,
        )

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Evaluation mode and our test-time options, for the duration of a call."""
        flags = [(part, part.training) for part in self.module.modules()]
        options = self.module.inference
        self.module.eval()
        self.module.inference = self.inference
        try:
            yield
        finally:
            self.module.inference = options
            for part, training in flags:  # train() would also switch on parts that were frozen
                part.training = training


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"expected a uint8 image of shape (H, W, 3) in RGB order or (H, W), got {image.dtype} "
            f"{image.shape}; scale floats by 255, drop alpha with image[..., :3]"
        )
    return pixels
