import numpy as np
import pytest
from helpers.internals import internal

from scribbleseg import ConfigError, LabelFormatError
from scribbleseg.functional import Intensity, check_rgb_channels, rgb_view


def _noise(dtype, low, high, shape=(16, 20, 2)) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_percentiles_are_taken_per_channel(dtype):
    values = _noise(dtype, 0, 3000)
    values[..., 1] = values[..., 1] / 10 + 50
    expected = np.empty(values.shape)
    for channel in range(2):
        part = values[..., channel].astype(np.float64)
        low, high = np.percentile(part, (1, 98))
        expected[..., channel] = np.clip((part - low) / (high - low), 0, 1) * 255
    out = Intensity("percentile", 1, 98).apply(values)
    assert out.dtype == np.uint8
    assert np.abs(out - expected).max() <= 0.51
    assert out.min() == 0
    assert out.max() == 255


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 9)])
def test_counted_percentiles_are_those_of_numpy(dtype, size):
    info = np.iinfo(dtype)
    values = np.random.default_rng(3).integers(info.min, info.max, size, dtype, endpoint=True)
    for percent in ((0.5, 99.5), (0, 100), (12.3, 50)):
        expected = np.percentile(values.astype(np.float64), percent)
        found = internal("intensity")._counted_percentiles(values, percent)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)


def test_defaults_are_half_and_99_and_a_half_percent():
    values = _noise(np.uint16, 0, 60000)
    assert Intensity() == Intensity("percentile", 0.5, 99.5)
    np.testing.assert_array_equal(
        Intensity().apply(values), Intensity("percentile", 0.5, 99.5).apply(values)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_range_is_the_same_for_every_image(dtype):
    values = np.array([[[0], [10], [20], [60], [100]]], dtype=dtype)
    out = Intensity("range", 10, 61).apply(values)
    assert out[0, :, 0].tolist() == [0, 0, 50, 250, 255]


def test_eight_bits_stay_unless_a_range_is_given():
    values = _noise(np.uint8, 10, 90)
    assert Intensity().apply(values) is values
    assert Intensity("dtype").apply(values) is values
    assert Intensity("range", 0, 100).apply(values).max() > 200
    assert Intensity().apply(np.array([[[True], [False]]])).tolist() == [[[255], [0]]]


def test_dtype_maps_the_whole_type():
    window = Intensity("dtype")
    deep = np.array([[[0], [257], [65535]]], np.uint16)
    assert window.apply(deep)[0, :, 0].tolist() == [0, 1, 255]
    signed = np.array([[[-32768], [0], [32767]]], np.int16)
    assert window.apply(signed)[0, :, 0].tolist() == [0, 128, 255]
    shares = np.array([[[0.0], [0.2], [1.0]]], np.float32)
    assert window.apply(shares)[0, :, 0].tolist() == [0, 51, 255]
    with pytest.raises(LabelFormatError, match=r"D203 a\.tif: float32 values 0 to 2.*\[0, 1\]"):
        window.apply(shares * 2, name="a.tif")


def test_values_that_are_not_finite_do_not_move_the_window():
    values = _noise(np.float32, 0, 1, (30, 30, 1))
    dirty = values.copy()
    dirty[0, :3, 0] = np.nan, np.inf, -np.inf
    low, high = np.percentile(np.delete(values.ravel(), [0, 1, 2]), (0.5, 99.5))
    out = Intensity().apply(dirty)
    assert out[0, :3, 0].tolist() == [0, 255, 0]
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    assert np.abs(out - expected)[1:].max() <= 0.51
    with pytest.raises(LabelFormatError, match=r"D203 a\.npy: a channel holds no finite value"):
        Intensity().apply(np.full((2, 2, 1), np.nan), name="a.npy")


def test_flat_channels_become_zero():
    assert not Intensity().apply(np.full((3, 3, 1), 700, np.uint16)).any()


def test_other_types_are_refused():
    with pytest.raises(LabelFormatError, match=r"D203 a\.npy: .*complex64"):
        Intensity().apply(np.zeros((2, 2, 1), np.complex64), name="a.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "window"}, r"intensity\.mode='window'.*'percentile'"),
        ({"mode": "range", "low": 3}, r"low=3, intensity\.high=None.*needs both"),
        ({"mode": "range", "low": 3, "high": 3}, r"expected low < high"),
        ({"low": 60, "high": 40}, r"low=60, intensity\.high=40: expected 0 <= low"),
        ({"high": 101}, r"high=101"),
        ({"mode": "dtype", "low": 1}, r"low=1.*mode 'dtype' has no limits"),
        ({"low": "1"}, r"intensity\.low='1'"),
        ({"low": float("nan")}, r"intensity\.low=nan"),
        ({"level": 40}, r"intensity=\{'level': 40\}: expected \{mode"),
        ("percentile", r"intensity='percentile'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        Intensity.from_options(options)


def test_plain_form():
    window = Intensity.from_options({"mode": "range", "low": -100, "high": 240})
    assert window.to_tuple() == ("range", -100, 240)
    assert Intensity.from_tuple(window.to_tuple()) == window
    assert Intensity.from_tuple(list(Intensity("dtype").to_tuple())) == Intensity("dtype")
    assert Intensity.from_options(None) == Intensity()
    assert Intensity.from_options(window) is window


def test_rgb_view():
    image = np.arange(2 * 2 * 5, dtype=np.uint8).reshape(2, 2, 5)
    np.testing.assert_array_equal(rgb_view(image), image[..., :3])
    np.testing.assert_array_equal(rgb_view(image, (4, 0, 1)), image[..., [4, 0, 1]])
    np.testing.assert_array_equal(rgb_view(image[..., :2]), image[..., [0, 1, 0]])
    np.testing.assert_array_equal(rgb_view(image[..., :1]), image[..., [0, 0, 0]])
    np.testing.assert_array_equal(rgb_view(image[..., 0]), image[..., [0, 0, 0]])
    same = image[..., :3]
    assert rgb_view(same) is same


def test_rgb_channels_are_checked():
    assert check_rgb_channels([3, 2, 1], 4) == (3, 2, 1)
    assert check_rgb_channels(None, 4) is None
    for wrong in ([1, 2], [0, 1, 4], [0, 1, -1], [0, 1, True], "012"):
        with pytest.raises(ConfigError, match="rgb_channels="):
            check_rgb_channels(wrong, 4)
