from __future__ import annotations

import os
import pickle

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers.contract import TINY_ENCODER
from helpers.internals import internal
from safetensors.torch import save_file

from scribbleseg import ConfigError, WeightsError
from scribbleseg.nn import Arch, build_network


def tiny(arch: str = "unet", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = {"num_classes": 3, "encoder_weights": None, "encoder": TINY_ENCODER}
    settings.update(options)
    return build_network(arch, settings.pop("encoder"), **settings).eval()


@pytest.mark.parametrize("arch", ["unet", "fpn", "deeplabv3plus", "segformer", "upernet"])
def test_logits_are_those_of_smp(arch: str) -> None:
    torch.manual_seed(0)
    encoder = "resnet18"
    reference = smp.create_model(arch, encoder, encoder_weights=None, classes=3).eval()
    ours = tiny(arch, encoder=encoder, channels_last=False)
    ours.encoder.load_state_dict(reference.encoder.state_dict())
    ours.decoder.load_state_dict(reference.decoder.state_dict())
    ours.classifier.load_state_dict(reference.segmentation_head[0].state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(image), reference(image))
        output = ours.forward_features(image)
        assert torch.equal(ours.upsample_logits(output.logits, (64, 96)), reference(image))
    assert output.features.shape[1] == ours.feature_dim
    assert output.logits.shape[-2:] == output.features.shape[-2:]


@pytest.mark.parametrize(
    "arch", ["unet", "unetplusplus", "linknet", "fpn", "deeplabv3plus", "pspnet"]
)
@pytest.mark.parametrize("size", [(65, 70), (64, 64), (33, 100)])
def test_any_size(arch: str, size: tuple[int, int], recorded) -> None:
    network = tiny(arch, encoder="resnet18")
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = network(image)
    assert logits.shape == (1, 3, *size)
    recorded({"mean": logits.mean().item(), "std": logits.std().item()})


def test_padding_does_not_shift_the_picture() -> None:
    network, image = tiny(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole = network(torch.nn.functional.pad(image, (0, 32, 0, 32)))
        cropped = network(torch.nn.functional.pad(image, (0, 9, 0, 17)))
    torch.testing.assert_close(cropped, whole[..., :81, :73])


def test_frozen_batchnorm_is_frozen_from_the_start() -> None:
    network = tiny(freeze_batchnorm="encoder")  # a fit does not call train() first
    frozen = [m for m in network.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert frozen
    assert not any(layer.training for layer in frozen)


def test_frozen_batchnorm_stays_frozen() -> None:
    network = tiny(freeze_batchnorm="encoder").train()
    norms = [m for m in network.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert norms
    assert all(not m.training and m.weight.grad is None for m in norms)
    assert all(torch.equal(a, m.running_mean) for a, m in zip(before, norms, strict=True))
    assert any(m.training for m in network.decoder.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_output_stride() -> None:
    network = tiny("deeplabv3plus", encoder="resnet18", output_stride=8)
    with torch.no_grad():
        assert network.encoder(torch.randn(1, 3, 64, 64))[-1].shape[-1] == 8
    with pytest.raises(ConfigError, match="output_stride=8 is not available for arch 'unet'"):
        tiny(output_stride=8)


def test_encoder_depth_is_for_heads_that_read_one_map() -> None:
    assert tiny("deeplab_v2", encoder="resnet18", encoder_depth=4).feature_dim == 256
    with pytest.raises(ConfigError, match="encoder_depth=4 with arch 'unet'"):
        tiny(encoder_depth=4)


def test_unknown_names_suggest() -> None:
    with pytest.raises(ConfigError, match="resnet34"):
        tiny(encoder="resnet43")
    with pytest.raises(ConfigError, match="expected one of unet"):
        tiny("unett")
    assert "unet" in Arch.__args__


def test_local_weights_in_other_naming(tmp_path) -> None:
    donor = tiny().encoder.state_dict()
    renamed = {"backbone." + k.removeprefix("model."): v + 1 for k, v in donor.items()}
    save_file({k: v.contiguous() for k, v in renamed.items()}, tmp_path / "w.safetensors")
    torch.save({"state_dict": renamed}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        loaded = tiny(encoder_weights=str(tmp_path / name)).encoder.state_dict()
        assert all(torch.equal(loaded[k], donor[k] + 1) for k in donor)


@pytest.mark.parametrize(
    "wrappers",
    [(), ("state_dict",), ("model",), ("model_state_dict",), ("state_dict", "model")],
    ids="/".join,
)
def test_wrappers_of_weights_are_opened(wrappers: tuple[str, ...], tmp_path) -> None:
    donor = {key: value + 1 for key, value in tiny().encoder.state_dict().items()}
    content = {**donor, "epoch": 3}
    for wrapper in reversed(wrappers):
        content = {wrapper: content, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    loaded = tiny(encoder_weights=str(tmp_path / "w.pth")).encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in donor.items())


class _Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["archive", "pickle"])
def test_code_in_a_weights_file_is_never_run(form: str, tmp_path) -> None:
    made, path = tmp_path / "made", tmp_path / "w.pth"
    content = {"state_dict": tiny().encoder.state_dict(), "extra": _Payload(str(made))}
    if form == "archive":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(_Payload(str(made)), protocol=2))
    try:  # it is dangerous indeed
        torch.load(path, weights_only=False)
    except RuntimeError:
        assert form == "pickle", "no weights in it, found out too late"
    made.rmdir()
    with pytest.raises(WeightsError, match=r"tensor-only \.pth"):
        tiny(encoder_weights=str(path))
    assert not made.exists()


def test_grey_images_sum_the_first_kernel(tmp_path) -> None:
    donor = tiny().encoder.state_dict()
    save_file({k: v.contiguous() for k, v in donor.items()}, tmp_path / "w.safetensors")
    grey = tiny(in_channels=1, encoder_weights=str(tmp_path / "w.safetensors")).encoder.state_dict()
    first = next(k for k, v in donor.items() if v.ndim == 4)
    torch.testing.assert_close(grey[first], donor[first].sum(1, keepdim=True))


def test_weights_of_another_encoder_are_refused(tmp_path) -> None:
    save_file({"conv1.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"fits 0 of \d+ tensors"):
        tiny(encoder_weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match="do not exist"):
        tiny(encoder_weights=str(tmp_path / "absent.pth"))
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="cannot be read"):
        tiny(encoder_weights=str(tmp_path / "bad.pth"))


def test_hub_weights_without_network_fail_fast_and_helpfully(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(internal("encoder weights"), "_reachable", lambda *_: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"imagenet weights of encoder 'resnet18'.*null"):
        tiny(encoder="resnet18", encoder_weights="imagenet")
