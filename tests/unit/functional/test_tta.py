from itertools import pairwise

import pytest
import torch
from helpers.internals import internal
from torch.nn import functional as F

from scribbleseg.functional import (
    mirrored_ids,
    multi_scale_probabilities,
    resized_window_probabilities,
    sliding_window_logits,
)

window_starts = internal("test-time averaging")._window_starts


def _image(*size: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def _conv(kernel: int = 3, classes: int = 4):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, 3, kernel, kernel, generator=generator)
    return lambda x: F.conv2d(x, weight, padding=kernel // 2)


def test_one_scale_is_the_softmax():
    image, forward = _image(9, 13), _conv()
    torch.testing.assert_close(
        multi_scale_probabilities(forward, image), forward(image).softmax(1), rtol=0, atol=0
    )


def test_average_equals_the_written_out_formula():
    image, forward = _image(11, 14, batch=2), _conv()
    total = torch.zeros(2, 4, 11, 14)
    for size in ((6, 7), (11, 14), (16, 21)):  # round(H * s)
        scaled = F.interpolate(image, size, mode="bilinear")
        for dims in ((), (-1,)):
            logits = forward(scaled.flip(dims)).flip(dims)
            total += F.interpolate(logits, (11, 14), mode="bilinear").softmax(1)
    out = multi_scale_probabilities(forward, image, scales=(0.5, 1.0, 1.5), flip=True)
    torch.testing.assert_close(out, total / 6)
    torch.testing.assert_close(out.sum(1), torch.ones(2, 11, 14))


def test_summed_logits_with_floored_sizes():
    image, forward = _image(11, 14), _conv()
    sizes = []

    def spy(x):
        sizes.append(tuple(x.shape[-2:]))
        return forward(x)

    out = multi_scale_probabilities(
        spy, image, scales=(0.5, 1.0), average="logits", align_corners=True, rounding="floor"
    )
    assert sizes == [(5, 7), (11, 14)]
    small = forward(F.interpolate(image, (5, 7), mode="bilinear", align_corners=True))
    large = F.interpolate(small, (11, 14), mode="bilinear", align_corners=True)
    torch.testing.assert_close(out, forward(image) + large)


def test_flip_makes_predictions_mirror_symmetric():
    image, forward = _image(10, 12), _conv()

    def predict(x):
        return multi_scale_probabilities(forward, x, scales=(0.75, 1.0), flip=True)

    torch.testing.assert_close(predict(image.flip(-1)), predict(image).flip(-1))


def test_flip_changes_nothing_for_a_symmetric_model():
    image, forward = _image(10, 12), _conv(kernel=1)
    plain = multi_scale_probabilities(forward, image)
    torch.testing.assert_close(multi_scale_probabilities(forward, image, flip=True), plain)


def test_half_precision_logits_are_averaged_in_float32():
    image = _image(8, 8)
    forward = _conv()
    out = multi_scale_probabilities(lambda x: forward(x).half(), image, flip=True)
    assert out.dtype == torch.float32
    plain, mirrored = forward(image).half(), forward(image.flip(-1)).half().flip(-1)
    expected = (plain.float().softmax(1) + mirrored.float().softmax(1)) / 2
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-1.0,)])
def test_scales_must_be_positive(scales):
    with pytest.raises(ValueError, match="scales="):
        multi_scale_probabilities(torch.square, _image(4, 4), scales=scales)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize(("length", "window"), [(8, 8), (9, 8), (17, 8), (101, 7), (5, 1)])
def test_windows_cover_the_axis_without_leaving_it(length, window, overlap):
    starts = window_starts(length, window, overlap)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] == length - window
    assert all(after - before <= window for before, after in pairwise(starts))


@pytest.mark.parametrize("weights", ["gaussian", "uniform"])
@pytest.mark.parametrize("size", [(33, 47), (32, 90), (7, 100), (64, 64)])
def test_pointwise_model_gives_exactly_the_plain_forward(size, weights):
    image = _image(*size, batch=2)
    out = sliding_window_logits(
        torch.tanh, image, window=(16, 24), overlap=0.4, weights=weights, batch_size=3
    )
    assert torch.equal(out, torch.tanh(image))


def test_pointwise_convolution_equals_the_plain_forward():
    image, forward = _image(45, 51), _conv(kernel=1)
    torch.testing.assert_close(sliding_window_logits(forward, image, window=16), forward(image))


def test_blending_is_the_normalised_weighted_mean():
    image = _image(8, 12)
    calls = iter((0.0, 1.0, 3.0))  # one constant per window

    def forward(x):
        return torch.stack([torch.full_like(tile[:2], next(calls)) for tile in x])

    out = sliding_window_logits(forward, image, window=(8, 8), overlap=0.75, weights="uniform")
    expected = torch.tensor([0, 0, 0.5, 0.5, *[4 / 3] * 4, 2, 2, 3, 3])
    torch.testing.assert_close(out[0, 1], expected.expand(8, 12))


def test_gaussian_weights_trust_the_window_centre():
    image = _image(8, 12)
    calls = iter((0.0, 1.0))

    def forward(x):
        return torch.stack([torch.full_like(tile[:1], next(calls)) for tile in x])

    row = sliding_window_logits(forward, image, window=8, overlap=0.5)[0, 0, 0]
    assert (row.diff() >= 0).all()
    assert row[5] < 0.5 < row[6]


@pytest.mark.parametrize("window", [64, (64, 64), (20, 30)])
def test_small_images_are_not_cut(window):
    image, forward = _image(20, 30), _conv()
    sizes = []

    def spy(x):
        sizes.append(tuple(x.shape))
        return forward(x)

    assert torch.equal(sliding_window_logits(spy, image, window=window), forward(image))
    assert sizes == [(1, 3, 20, 30)]


def test_windows_are_batched_and_of_one_size():
    shapes = []

    def spy(x):
        shapes.append(tuple(x.shape))
        return x

    sliding_window_logits(spy, _image(10, 50, batch=2), window=20, overlap=0.5, batch_size=3)
    assert [shape[0] for shape in shapes] == [3, 3, 2]  # 4 windows of 2 images
    assert {shape[1:] for shape in shapes} == {(3, 10, 20)}


@pytest.mark.parametrize("options", [{"window": 0}, {"overlap": 1.0}, {"batch_size": 0}])
def test_window_options_are_checked(options):
    with pytest.raises(ValueError, match="window="):
        sliding_window_logits(torch.square, _image(9, 9), **{"window": 4, **options})


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 25), (16, 40)), ((25, 10), (40, 16)), ((9, 9), (40, 40))]
)
def test_the_longer_side_is_resized_and_small_copies_are_centred(size, expected):
    image, forward, seen = _image(*size), _conv(), []

    def spy(x):
        seen.append(x)
        return forward(x)

    out = resized_window_probabilities(spy, image, base_size=20, scales=(2.0,), window=None)
    scaled = F.interpolate(image, expected, mode="bilinear")
    assert [tuple(x.shape[-2:]) for x in seen] == [expected]
    probs = F.interpolate(forward(scaled).softmax(1), size, mode="bilinear")
    torch.testing.assert_close(out, probs)
    height, width = 45, 43
    resized_window_probabilities(spy, image, base_size=20, scales=(2.0,), window=(height, width))
    top, left = (height - expected[0]) // 2, (width - expected[1]) // 2
    canvas = torch.zeros(1, 3, height, width)
    canvas[..., top : top + expected[0], left : left + expected[1]] = scaled
    torch.testing.assert_close(seen[-1], canvas)


def test_mirror_images_of_windows_exchange_the_classes_of_a_pair():
    image, forward = _image(12, 18), _conv()
    options = {"base_size": 18, "window": None, "flip": True}
    plain = forward(image).softmax(1)
    mirrored = forward(image.flip(-1)).softmax(1).flip(-1)
    out = resized_window_probabilities(forward, image, **options)
    torch.testing.assert_close(out, (plain + mirrored) / 2)
    out = resized_window_probabilities(forward, image, flip_pairs=((1, 3),), **options)
    torch.testing.assert_close(out, (plain + mirrored[:, mirrored_ids(((1, 3),), 4)]) / 2)


@pytest.mark.parametrize("options", [{"base_size": 0}, {"scales": ()}, {"scales": (1.0, 0.0)}])
def test_sizes_of_copies_must_be_positive(options):
    with pytest.raises(ValueError, match="base_size="):
        resized_window_probabilities(
            _conv(), _image(9, 9), **{"base_size": 9, "window": 5, **options}
        )


def test_a_batch_without_images_cannot_be_cut():
    with pytest.raises(ValueError, match=r"\(0, 3, 9, 9\) holds no pixels"):
        sliding_window_logits(_conv(), torch.zeros(0, 3, 9, 9), window=4)
