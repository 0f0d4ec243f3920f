"""Prediction with a trained module: one array, one file, or a folder of images."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from scribbleseg.data.images import read_image
from scribbleseg.errors import CheckpointError
from scribbleseg.folder_prediction import FolderReport, predict_folder
from scribbleseg.functional.intensity import Intensity, rgb_view
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
        """Scores ``(B, C, H, W)`` of network input ``(B, K, H, W)``, honouring ``inference``."""

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
        max_image_pixels: Larger image files are refused, ``None`` = Pillow's limit (89 million).

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
        max_image_pixels: int | None = None,
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
        self.max_image_pixels = max_image_pixels
        self.module.to(self.device)

    @property
    def data_info(self) -> DataInfo:
        """Class names, colours and preprocessing that the module was trained with."""
        return self.module.data_info

    def read_image(self, path: str | Path) -> NDArray[np.uint8]:
        """An image file with the channels and the window that the module was trained with.

        Returns:
            uint8, shape ``(H, W, K)``.

        Raises:
            ScribbleNotFoundError: If the file does not exist.
            LabelFormatError: If it cannot be decoded, or has other channels than the training data.
        """
        info = self.data_info
        return read_image(
            path,
            channels=info.in_channels,
            intensity=Intensity.from_tuple(info.intensity),
            max_pixels=self.max_image_pixels,
        )

    def __call__(
        self, image: NDArray[np.uint8] | str | Path, *, probabilities: bool = False
    ) -> Prediction:
        """Label one image.

        Args:
            image: Pixels, uint8, shape ``(H, W, K)``, for one or three channels also ``(H, W)``; or
                a file, which is read as the training images were.
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
        if isinstance(image, (str, Path)):
            pixels = self.read_image(image)
        else:
            pixels = _as_channels(image, self.data_info.in_channels)
        size = (pixels.shape[0], pixels.shape[1])
        network_input = preprocess(pixels, self.data_info)[None].to(self.device)
        with self._evaluation(), torch.inference_mode():
            logits = self.module.predict_logits(network_input)
            if logits.shape[1] != self.data_info.num_classes:
                raise CheckpointError(
                    f"the module predicts {logits.shape[1]} classes, but its data_info names "
                    f"{self.data_info.num_classes}: set module.data_info to the training data's"
                )
            colours = rgb_view(pixels, self.data_info.rgb_channels)
            raw = torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))[None]
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


def _as_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Pixels as ``(H, W, K)``; a grey image may lack its last axis."""
    pixels = np.asarray(image)
    if pixels.ndim == 2 and channels in (1, 3):
        pixels = np.repeat(pixels[..., None], channels, axis=-1)
    wrong = pixels.dtype != np.uint8 or pixels.ndim != 3 or not pixels.size
    if wrong or pixels.shape[2] != channels:
        order = " in RGB order" if channels == 3 else ""
        grey = " or (H, W)" if channels in (1, 3) else ""
        raise ValueError(
            f"expected a uint8 image of shape (H, W, {channels}){order}{grey}, got {image.dtype} "
            f"{image.shape}; scale floats by 255, drop alpha with image[..., :3]"
        )
    return pixels
