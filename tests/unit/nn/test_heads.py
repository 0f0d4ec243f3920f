from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import TINY_ENCODER

from scribbleseg import ConfigError
from scribbleseg.methods import LocalizationRectification
from scribbleseg.nn import SpatialPyramid, build_network, widen_last_stage


def build(arch: str, encoder: str = TINY_ENCODER, classes: int = 3, **options):
    torch.manual_seed(0)
    return build_network(arch, encoder, num_classes=classes, encoder_weights=None, **options)


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("arch", "encoder", "size"),
    [
        ("aspp_v2", "resnet50", 24.76),
        ("aspp_v2", "resnet101", 43.75),
        ("aspp_v3plus", "resnet50", 40.35),
        ("aspp_v3plus", "resnet101", 59.34),
    ],
)
def test_networks_have_the_published_sizes(arch: str, encoder: str, size: float) -> None:
    assert millions(build(arch, encoder, classes=21)) == pytest.approx(size, abs=0.005)


def test_rectification_has_the_published_size() -> None:
    assert millions(LocalizationRectification(2048)) == pytest.approx(8.39, abs=0.005)


def test_resnets_have_dilations_4_8_16_in_the_last_stage() -> None:
    encoder = build("aspp_v2", "resnet50").encoder
    assert [block.conv2.dilation for block in encoder.layer4] == [(4, 4), (8, 8), (16, 16)]
    assert all(block.conv2.dilation == (2, 2) for block in encoder.layer3)
    assert all(block.conv2.stride == (1, 1) for block in (*encoder.layer3, *encoder.layer4))
    # two blocks of two 3×3 convolutions: no such stage
    assert not widen_last_stage(build("unet", "resnet18").encoder)


@pytest.mark.parametrize(("arch", "grid"), [("aspp_v2", 17), ("aspp_v3plus", 33)])
def test_every_8th_pixel_is_a_cell(arch: str, grid: int) -> None:
    network = build(arch, "resnet18").eval()
    image = torch.randn(1, 3, 129, 129)
    with torch.no_grad():
        deepest = network.encode(image)[-1]
        low = network.forward_features(image).logits
        full = network(image)
    assert network.padded_size(129, 130) == (129, 137)
    assert deepest.shape[2:] == (17, 17)
    assert low.shape[2:] == (grid, grid)
    step = 128 // (grid - 1)
    torch.testing.assert_close(full[..., ::step, ::step], low)
    expected = F.interpolate(low, (129, 129), mode="bilinear", align_corners=True)
    assert torch.equal(full, expected)
    assert network.align_corners


@pytest.mark.parametrize("arch", ["aspp_v2", "aspp_v3plus", "cam"])
@pytest.mark.parametrize("size", [(65, 70), (64, 64), (1, 100)])
def test_any_size_and_a_batch_of_one(arch: str, size: tuple[int, int], recorded) -> None:
    network = build(arch).train()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    output = network(image)
    assert output.shape == (1, 3, *size)
    output.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    recorded({"mean": output.mean().item(), "std": output.std(correction=0).item()})


def test_pooled_branch_of_one_image_uses_no_variance(recorded) -> None:
    torch.manual_seed(0)
    pyramid = SpatialPyramid(4, 2, (1, 2, 3)).train()
    norm = pyramid.pooled[2]
    before = norm.running_mean.clone()
    found = pyramid(torch.randn(1, 4, 5, 5))
    assert found.isfinite().all()
    recorded({"mean": found.mean().item(), "norm": found.norm().item()})
    assert torch.equal(norm.running_mean, before)
    pyramid(torch.randn(2, 4, 5, 5))
    assert not torch.equal(norm.running_mean, before)


def test_classify_is_the_classifier_in_float32() -> None:
    for arch in ("aspp_v2", "aspp_v3plus", "cam"):
        network = build(arch).eval()
        features = torch.randn(1, network.feature_dim, 5, 6)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = network.classify(features)
        with torch.no_grad():
            torch.testing.assert_close(found, network.classifier(features))


@pytest.mark.parametrize("arch", ["aspp_v2", "aspp_v3plus"])
def test_encoders_that_cannot_be_dilated_are_refused(arch: str) -> None:
    with pytest.raises(ConfigError, match="cannot keep an output stride of 8"):
        build(arch, "vgg11")
    with pytest.raises(ConfigError, match="output_stride=4"):
        build(arch, output_stride=4)
    with pytest.raises(ConfigError, match="resnet34"):
        build(arch, "resnet43")
    assert build(arch, "resnet18", output_stride=16).divisor == 16
