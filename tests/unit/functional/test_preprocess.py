import numpy as np
import pytest
import torch

from scribbleseg import IMAGENET_MEAN, IMAGENET_STD, DataInfo
from scribbleseg.functional import normalize, preprocess, resize_image, resized_shape


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((375, 500), None, (375, 500)),
        ((375, 500), 500, (375, 500)),
        ((500, 375), 100, (100, 75)),
        ((7, 9), 90, (70, 90)),
        ((2, 3000), 100, (1, 100)),
        ((375, 500), (31, 33), (31, 33)),
    ],
)
def test_resized_shape(size, resize, expected):
    assert resized_shape(*size, resize) == expected
    assert resize_image(_noise(*size), resize).shape == (*expected, 3)


@pytest.mark.parametrize("resize", [0, -5, (0, 4), (4,), (4, 4, 4)])
def test_impossible_sizes_are_named(resize):
    with pytest.raises(ValueError, match="resize="):
        resized_shape(10, 10, resize)


def test_same_size_is_not_copied():
    image = _noise(5, 6)
    assert resize_image(image, None) is image
    assert resize_image(image, (5, 6)) is image
    assert resize_image(image, 6) is image


def test_shrinking_averages_pixels():
    image = _noise(8, 12)
    blocks = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(image, (4, 6)) - blocks).max() <= 0.5


def test_enlarging_is_bilinear_with_half_pixel_centres():
    image = _noise(6, 5)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (15, 17), mode="bilinear")[0]
    resized = resize_image(image, (15, 17)).transpose(2, 0, 1)
    assert np.abs(resized - expected.numpy()).max() < 1.1


def test_normalize_equals_the_formula():
    image = _noise(13, 11)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
    out = normalize(image, IMAGENET_MEAN, IMAGENET_STD)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, expected)


def test_normalize_reads_views():
    image = _noise(10, 12)
    view = image[::2, ::-1]
    out = normalize(view, IMAGENET_MEAN, IMAGENET_STD)
    np.testing.assert_array_equal(out, normalize(view.copy(), IMAGENET_MEAN, IMAGENET_STD))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_normalize_refuses_other_arrays(image):
    with pytest.raises(ValueError, match="uint8 RGB"):
        normalize(image, IMAGENET_MEAN, IMAGENET_STD)


def test_preprocess_follows_the_data_facts():
    info = DataInfo(class_names=("a",), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize=(8, 6))
    image = _noise(16, 12)
    tensor = preprocess(image, info)
    assert tensor.shape == (3, 8, 6)
    assert tensor.dtype == torch.float32
    resized = resize_image(image, (8, 6)).transpose(2, 0, 1)
    np.testing.assert_allclose(tensor.numpy(), resized / 255, rtol=1e-6)
