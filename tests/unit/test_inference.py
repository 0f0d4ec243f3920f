import json
import logging
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from jsonargparse import ArgumentParser
from torch.nn import functional as F

from scribbleseg import (
    ConfigError,
    InferenceConfig,
    Predictor,
    argmax_at_size,
    is_out_of_memory,
    predict_logits,
    refine_logits,
)
from scribbleseg.functional import (
    CRF_PRESETS,
    CRFParams,
    dense_crf,
    multi_scale_probabilities,
    sliding_window_logits,
)
from scribbleseg.methods import ScribbleSegModule


def _image(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def _forward(x: torch.Tensor) -> torch.Tensor:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    return F.conv2d(x, weight, padding=1)


class LimitedMemory:
    """A forward that fails beyond so many input pixels."""

    def __init__(self, pixels: int, error: type[RuntimeError] = RuntimeError) -> None:
        self.pixels, self.error, self.calls = pixels, error, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if x.shape[0] * x.shape[2] * x.shape[3] > self.pixels:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.tanh(x)


def test_default_is_exactly_one_forward():
    image, calls = _image(13, 17, batch=2), []

    def spy(x):
        calls.append(x)
        return _forward(x).half()

    out = predict_logits(spy, image, InferenceConfig())
    assert len(calls) == 1
    assert calls[0] is image
    assert out.dtype == torch.float16
    assert torch.equal(out, _forward(image).half())


def test_default_keeps_gradients():
    image = _image(8, 8).requires_grad_()
    predict_logits(_forward, image, InferenceConfig()).sum().backward()
    assert image.grad is not None


def test_softmax_of_the_result_is_the_mean_probability():
    image = _image(12, 15)
    config = InferenceConfig(scales=(0.5, 1.0), flip=True)
    expected = multi_scale_probabilities(_forward, image, scales=(0.5, 1.0), flip=True)
    out = predict_logits(_forward, image, config)
    torch.testing.assert_close(out.softmax(1), expected)
    assert torch.equal(out.argmax(1), expected.argmax(1))


def test_vanishing_probabilities_stay_finite():
    image = _image(4, 4)
    config = InferenceConfig(flip=True)
    assert predict_logits(lambda x: 1e4 * _forward(x), image, config).isfinite().all()


def test_averaged_logits_have_the_scale_of_logits():
    image = _image(12, 16)
    out = predict_logits(torch.tanh, image, InferenceConfig(flip=True, average="logits"))
    torch.testing.assert_close(out, torch.tanh(image))


def test_windows_apply_at_every_scale():
    image = _image(40, 50)
    sizes = set()

    def spy(x):
        sizes.add(tuple(x.shape[-2:]))
        return _forward(x)

    predict_logits(spy, image, InferenceConfig(scales=(0.5, 1.0, 2.0), window=(20, 24)))
    assert sizes == {(20, 24)}


def test_single_scale_with_window_is_the_sliding_window():
    image = _image(40, 50)
    config = InferenceConfig(window=16, overlap=0.25, window_batch=2)
    expected = sliding_window_logits(_forward, image, window=16, overlap=0.25, batch_size=2)
    assert torch.equal(predict_logits(_forward, image, config), expected)


@pytest.mark.parametrize("error", [RuntimeError, torch.cuda.OutOfMemoryError])
def test_out_of_memory_is_answered_with_windows(error, caplog):
    image, forward = _image(130, 200), LimitedMemory(70 * 70, error)
    with caplog.at_level(logging.WARNING, "scribbleseg.inference"):
        out = predict_logits(forward, image, InferenceConfig())
    assert torch.equal(out, torch.tanh(image))
    assert [record.args[2] for record in caplog.records] == [(96, 128), (64, 64)]
    assert "130 x 200" in caplog.text


def test_out_of_memory_first_gives_up_the_batch(caplog):
    image, forward = _image(128, 256), LimitedMemory(64 * 64)
    with caplog.at_level(logging.WARNING, "scribbleseg.inference"):
        out = predict_logits(forward, image, InferenceConfig(window=64, window_batch=8))
    assert torch.equal(out, torch.tanh(image))
    assert [record.args[2:] for record in caplog.records] == [(64, 1)]


def test_out_of_memory_at_the_smallest_window_is_raised():
    forward = LimitedMemory(10)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_logits(forward, _image(200, 200), InferenceConfig())
    assert forward.calls < 10


def test_other_errors_pass():
    def forward(x):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        predict_logits(forward, _image(99, 99), InferenceConfig())


def test_memory_errors_are_recognised():
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales", ()),
        ("scales", (1.0, 0.0)),
        ("scales", (9.0,)),
        ("scales", (float("nan"),)),
        ("scales", "1.0"),
        ("scales", 1.0),
        ("scales", (True,)),
        ("flip", "true"),
        ("flip", 1),
        ("window", 0),
        ("window", 12.5),
        ("window", (64,)),
        ("window", (64, -1)),
        ("window", "64"),
        ("overlap", -0.1),
        ("overlap", 1.0),
        ("overlap", "half"),
        ("window_batch", 0),
        ("window_batch", 2.0),
        ("average", "sum"),
        ("crf", "voc"),
        ("crf", True),
        ("crf", {"sigma": 3.0}),
        ("crf", {"sigma_rgb": 0.0}),
    ],
)
def test_bad_options_name_field_value_and_range(name, value):
    with pytest.raises(ConfigError, match="expected") as caught:
        InferenceConfig(**{name: value})
    assert str(caught.value).startswith(f"inference.{name}={value!r}")


def test_lists_become_tuples():
    config = InferenceConfig(scales=[1, 2], window=[64, 96])
    assert config == InferenceConfig(scales=(1.0, 2.0), window=(64, 96))
    assert hash(config) == hash(InferenceConfig(scales=(1.0, 2.0), window=(64, 96)))
    with pytest.raises(FrozenInstanceError):
        config.flip = True


def test_dict_round_trip():
    config = InferenceConfig(scales=(0.5, 1.0), flip=True, window=(64, 96), average="logits")
    assert InferenceConfig.from_dict(config.to_dict()) == config
    assert InferenceConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="scale are unknown"):
        InferenceConfig.from_dict({"scale": [1.0]})


def test_unknown_crf_lists_the_presets():
    with pytest.raises(ConfigError, match=", ".join(CRF_PRESETS)):
        InferenceConfig(crf="voc")


@pytest.mark.parametrize("crf", ["cc4s", CRFParams(smooth_weight=0.0, iterations=3), None])
def test_crf_round_trip(crf):
    config = InferenceConfig(crf=crf)
    state = json.loads(json.dumps(config.to_dict()))
    assert InferenceConfig.from_dict(state) == config
    assert hash(InferenceConfig.from_dict(state)) == hash(config)
    assert not isinstance(config.to_dict()["crf"], CRFParams)


def test_refined_scores_are_the_log_of_the_crf():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 12, 16), generator=generator, dtype=torch.uint8)
    logits = _forward(_image(6, 8, batch=2)).half()
    assert refine_logits(logits, image, InferenceConfig()) is logits
    for crf, params in (("spml", CRF_PRESETS["spml"]), (CRFParams(iterations=2),) * 2):
        refined = refine_logits(logits, image, InferenceConfig(crf=crf))
        scaled = F.interpolate(logits.float(), (12, 16), mode="bilinear", align_corners=False)
        expected = dense_crf(scaled.softmax(1), image, params=params)
        assert refined.isfinite().all()
        torch.testing.assert_close(refined.softmax(1), expected)


class NoisyModule(ScribbleSegModule):
    """Two classes by brightness, plus noise that a CRF removes."""

    def __init__(self, inference: InferenceConfig | None = None):
        super().__init__(2, encoder=TINY_ENCODER, encoder_weights=None, inference=inference)

    def forward(self, image):
        noise = torch.randn(image.shape[-2:], generator=torch.Generator().manual_seed(0))
        bright = image.mean(1, keepdim=True).sign() + 1.2 * noise
        return torch.cat((-bright, bright), dim=1)


def _scene(height, width):
    pixels = np.full((height, width, 3), 40, dtype=np.uint8)
    pixels[4 : height - 5, 5 : width - 3] = 220
    return pixels


def test_crf_in_validation_uses_the_original_pixels():
    plain, refining = NoisyModule(), NoisyModule(InferenceConfig(crf="cc4s"))
    scenes = [_scene(20, 24), _scene(18, 30)]
    truths = [torch.from_numpy(scene[..., 0] > 99).to(torch.uint8) for scene in scenes]
    for scale in (1, 2):  # of the network input
        inputs = [
            F.interpolate(
                torch.from_numpy(s).permute(2, 0, 1)[None] / 127.5 - 1, scale_factor=scale
            )
            for s in scenes
        ]
        batch = {
            "image": torch.cat(
                [F.pad(x, (0, 60 - x.shape[-1], 0, 40 - x.shape[-2])) for x in inputs]
            ),
            "input_size": torch.tensor([x.shape[-2:] for x in inputs]),
            "orig_size": torch.tensor([s.shape[:2] for s in scenes]),
            "image_raw": torch.stack(
                [
                    F.pad(
                        torch.from_numpy(s).permute(2, 0, 1),
                        (0, 30 - s.shape[1], 0, 20 - s.shape[0]),
                    )
                    for s in scenes
                ]
            ),
        }
        assert any((a != b).any() for a, b in zip(plain.predict_labels(batch), truths, strict=True))
        for found, truth in zip(refining.predict_labels(batch), truths, strict=True):
            assert torch.equal(found, truth)


def test_crf_of_the_predictor():
    scene = _scene(20, 24)
    truth = (scene[..., 0] > 99).astype(np.uint8)
    module = NoisyModule()
    module.data_info = replace(module.data_info, mean=(0.5,) * 3, std=(0.5,) * 3, resize=48)
    assert (Predictor(module, device="cpu")(scene).labels != truth).any()
    predictor = Predictor(module, device="cpu", inference=InferenceConfig(crf="cc4s"))
    labels, probabilities = predictor(scene, probabilities=True)
    assert np.array_equal(labels, truth)
    assert np.array_equal(probabilities.argmax(0), truth)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
    assert np.array_equal(predictor(scene[..., 0]).labels, truth)  # grey


def test_command_line_parses_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--inference", type=InferenceConfig, default=InferenceConfig())
    args = ["--inference.scales=[0.5, 1]", "--inference.window=[64, 32]", "--inference.flip=true"]
    config = parser.instantiate(parser.parse_args(args)).inference
    assert config == InferenceConfig(scales=(0.5, 1.0), window=(64, 32), flip=True)


@pytest.mark.parametrize(
    ("argument", "crf"),
    [
        ("cc4s", "cc4s"),
        ("null", None),
        ('{"sigma_xy": 50, "iterations": 5}', CRFParams(sigma_xy=50, iterations=5)),
    ],
)
def test_command_line_parses_the_crf(argument, crf):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(NoisyModule, "model")
    args = [f"--model={__name__}.NoisyModule", f"--model.init_args.inference.crf={argument}"]
    module = parser.instantiate(parser.parse_args(args)).model
    assert module.inference == InferenceConfig(crf=crf)


def test_argmax_at_size_needs_a_class() -> None:
    with pytest.raises(ValueError, match=r"\(1, 0, 4, 4\) hold no class"):
        argmax_at_size(torch.zeros(1, 0, 4, 4), (8, 8))


@pytest.mark.parametrize("size", [(9, 7), (31, 40), (5, 5)])
@pytest.mark.parametrize("classes", [1, 4, 11])
def test_argmax_at_size_equals_interpolation(size, classes):
    logits = torch.randn(2, classes, 9, 7, generator=torch.Generator().manual_seed(0)).round()
    scaled = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    assert torch.equal(argmax_at_size(logits, size), scaled.argmax(1))


class TestBaseSize:
    def test_windows_see_the_longer_side_scaled_and_centred(self) -> None:
        image, seen = _image(20, 30), []

        def spy(x):
            seen.append(tuple(x.shape))
            return _forward(x)

        config = InferenceConfig(scales=(0.5, 1.0), base_size=48, window=33, overlap=1 / 3)
        out = predict_logits(spy, image, config)
        assert out.shape == (1, 5, 20, 30)
        torch.testing.assert_close(out.exp().sum(1), torch.ones(1, 20, 30))
        # 16×24 on a canvas of one window; 32×48 on one of 33×48: two windows, in one batch
        assert seen == [(1, 3, 33, 33), (2, 3, 33, 33)]

    def test_without_windows_it_is_the_mean_over_resized_copies(self) -> None:
        image = _image(20, 30)
        out = predict_logits(_forward, image, InferenceConfig(scales=(1.0, 2.0), base_size=15))
        copies = [
            F.interpolate(image, size, mode="bilinear", align_corners=False)
            for size in ((10, 15), (20, 30))
        ]
        probs = [
            F.interpolate(_forward(copy).softmax(1), (20, 30), mode="bilinear", align_corners=False)
            for copy in copies
        ]
        torch.testing.assert_close(out.exp(), (probs[0] + probs[1]) / 2)
        flipped = InferenceConfig(scales=(1.0,), base_size=30, flip=True)
        torch.testing.assert_close(
            predict_logits(_forward, image, flipped).flip(-1),
            predict_logits(_forward, image.flip(-1), flipped),
        )

    def test_memory_running_out_shrinks_the_windows(self) -> None:
        limited = LimitedMemory(100 * 100)
        config = InferenceConfig(base_size=256)
        assert predict_logits(limited, _image(32, 32), config).shape == (1, 3, 32, 32)

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"base_size": 0}, "base_size"), ({"base_size": 512, "average": "logits"}, "average")],
    )
    def test_options_are_checked(self, options, message) -> None:
        with pytest.raises(ConfigError, match=message):
            InferenceConfig(**options)

    def test_survives_a_checkpoint(self) -> None:
        config = InferenceConfig(base_size=512, window=465, overlap=0.3333)
        assert InferenceConfig.from_dict(config.to_dict()) == config
