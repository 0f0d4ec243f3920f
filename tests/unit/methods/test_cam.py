from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.contract import MethodContract, make_batch

from scribbleseg import ConfigError, DataInfo, InferenceConfig, SegOutput
from scribbleseg.methods import CAMModule, ClassMaps, TagScores, class_map_panel


def tagged_batch(size: int = 2):
    """A batch whose images show different classes."""
    batch = make_batch(size=size)
    batch["class_labels"] = torch.zeros(size, 4)
    batch["class_labels"][:, 0] = 1
    batch["class_labels"][torch.arange(size), 1 + torch.arange(size) % 3] = 1
    return batch


class TestCAM(MethodContract):
    module_class = CAMModule
    kwargs: ClassVar[dict[str, Any]] = {"lr": 1e-3}

    def test_cells_count_by_how_much_of_the_image_they_show(self) -> None:
        module, batch = self.build(encoder="resnet18"), tagged_batch()
        batch["valid"][:, :, 40:] = False  # two cells of 16 and half of the third
        logits = torch.randn(2, 4, 4, 4)
        module.forward_features = lambda _: SegOutput(logits, logits)
        module.training_step(batch, 0)
        weight = torch.tensor([1.0, 1.0, 0.5, 0.0])
        scores = (logits * weight).sum((2, 3)) / (4 * 2.5)
        expected = F.binary_cross_entropy_with_logits(scores[:, 1:], batch["class_labels"][:, 1:])
        torch.testing.assert_close(module.loss_terms["tags"], expected)
        logits[..., 3] = 1000.0
        module.training_step(batch, 0)
        torch.testing.assert_close(module.loss_terms["tags"], expected)

    def test_images_without_tags_are_negative_only_with_a_background(self) -> None:
        batch = tagged_batch()
        batch["class_labels"][:] = 0
        module = self.build()
        assert self.step(module, batch) > 0
        module.data_info = DataInfo(("a", "b", "c", "d"), background=None)
        loss = self.step(module, batch)
        assert loss == 0
        loss.backward()
        assert all((p.grad == 0).all() for p in module.parameters() if p.grad is not None)

    def test_frozen_stages_stay_and_others_learn(self) -> None:
        module = self.build(encoder="resnet18", frozen_stages=3)
        encoder = module.network.encoder
        self.step(module, tagged_batch()).backward()
        for name in ("conv1", "bn1", "layer1", "layer2"):
            assert all(p.grad is None for p in getattr(encoder, name).parameters())
        for name in ("layer3", "layer4"):
            assert all(p.grad is not None for p in getattr(encoder, name).parameters())
        stem = self.build(frozen_stages=1).network.encoder.model.conv1
        assert not any(p.requires_grad for p in stem.parameters())
        for options in (
            {"frozen_stages": 6, "encoder": "resnet18"},
            {"frozen_stages": 1, "encoder": "mobilenet_v2"},
        ):
            with pytest.raises(ConfigError, match="frozen_stages"):
                self.build(**options)

    @pytest.mark.parametrize("stride", [None, 8])
    @pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "timm-tf_efficientnet_lite0"])
    def test_an_earlier_map_sees_less_and_nothing_behind_it_waits_for_a_gradient(
        self, encoder: str, stride: int | None
    ) -> None:
        with torch.no_grad():
            module = self.build(encoder=encoder, encoder_depth=4, output_stride=stride)
        image = torch.randn(2, 3, 64, 96)
        found = module.forward_features(image)
        step = stride or 16
        assert found.features.shape[1:] == (
            module.network.encoder.out_channels[4],
            *(64 // step, 96 // step),
        )
        found.logits.sum().backward()
        learns = [p for p in module.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in learns)
        deep = self.build(encoder=encoder).forward_features(image)
        assert deep.features.shape[1] > found.features.shape[1]

    def test_last_stage_of_a_resnet_keeps_its_resolution_without_dilation(self) -> None:
        network = self.build(encoder="resnet18").network
        assert network.divisor == 16
        assert network.encode(torch.zeros(1, 3, 64, 96))[-1].shape[2:] == (4, 6)
        kernels = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        assert all(m.dilation == (1, 1) for m in kernels)
        assert network.classifier.bias is None
        dilated = self.build(encoder="resnet18", output_stride=8).network
        assert dilated.encode(torch.zeros(1, 3, 64, 96))[-1].shape[2:] == (8, 12)

    def test_maps_of_a_mirrored_image_are_mirrored(self) -> None:
        config = InferenceConfig(scales=(1.0, 0.5), flip=True)
        module = self.build(inference=config).eval()
        image = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            ours, mirrored = module.class_maps(image), module.class_maps(image.flip(-1))
        torch.testing.assert_close(mirrored.maps.flip(-1), ours.maps, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mirrored.scores, ours.scores)
        assert ours.seeds.shape == (1, 4, 16, 24)
        assert ours.maps.shape == (1, 4, 64, 96)
        assert ours.maps.amin() >= 0
        assert ours.maps.amax() < 1

    def test_flip_pairs_exchange_their_maps(self) -> None:
        module = self.build(inference=InferenceConfig(flip=True)).eval()
        module.data_info = DataInfo(("ground", "left", "right", "d"), flip_pairs=((1, 2),))
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            ours, mirrored = module.class_maps(image), module.class_maps(image.flip(-1))
        swapped = mirrored.maps[:, [0, 2, 1, 3]].flip(-1)
        torch.testing.assert_close(swapped, ours.maps, atol=1e-4, rtol=1e-4)

    def test_predictions_are_maps_of_the_classes_found(self) -> None:
        module = self.build().eval()
        scores = torch.tensor([[9.0, 9.0, -9.0, 0.1]])
        maps = torch.zeros(1, 4, 64, 64)
        maps[0, 1, :32], maps[0, 2, 32:], maps[0, 3, 40:] = 0.9, 0.9, 0.5
        module.class_maps = lambda _: ClassMaps(scores, maps[..., ::4, ::4], maps)
        labels = module.predict_logits(torch.zeros(1, 3, 64, 64)).argmax(1)[0]
        expected = torch.zeros(64, 64, dtype=torch.int64)
        expected[:32], expected[40:] = 1, 3
        assert torch.equal(labels, expected)

    def test_every_pixel_has_a_class_without_background(self) -> None:
        module = self.build().eval()
        module.data_info = DataInfo(("a", "b", "c", "d"), background=None)
        scores = torch.tensor([[-9.0, -5.0, -9.0, -7.0]])
        maps = torch.zeros(1, 4, 64, 64)
        module.class_maps = lambda _: ClassMaps(scores, maps, maps)
        assert (module.predict_logits(torch.zeros(1, 3, 64, 64)).argmax(1) == 1).all()

    def test_validation_scores_the_tags_of_the_masks(self) -> None:
        module = self.build(inference=InferenceConfig(flip=True)).eval()
        image = torch.zeros(2, 3, 64, 64)
        mask = torch.zeros(2, 64, 64, dtype=torch.int64)
        mask[0, :8], mask[1, :8], mask[1, 8:16] = 1, 2, 255
        found = torch.tensor([[0.0, 3.0, -3.0, -3.0], [0.0, -1.0, -2.0, -3.0]])
        seen = iter(found.split(1))

        def maps(view: torch.Tensor) -> ClassMaps:
            empty = torch.zeros(len(view), 4, *view.shape[2:])
            return ClassMaps(next(seen), empty, empty)

        module.class_maps = maps
        sizes = torch.tensor([[64, 64], [60, 64]])
        batch = {
            "image": image,
            "mask": mask,
            "input_size": sizes,
            "orig_size": torch.tensor([[64, 64], [64, 64]]),
            "image_id": ["a", "b"],
        }
        module.on_validation_epoch_start()
        with torch.no_grad():
            module.validation_step(batch, 0)
        module._log_scores("val")
        # class 1: right; class 2: the better of two, yet not found; class 3: nowhere
        assert module.logged["val/tag_map"] == 1
        assert module.logged["val/tag_f1"] == 0.5
        module.on_validation_epoch_start()
        assert not module.tag_scores.update_called

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"arch": "unet"}, "arch='unet'"),
            ({"tag_threshold": 1.0}, "tag_threshold=1.0"),
            ({"map_threshold": 0.0}, "map_threshold=0.0"),
            ({"encoder_depth": 2}, "encoder_depth=2"),
            ({"output_stride": 4, "encoder": "resnet18"}, "output_stride=4"),
        ],
    )
    def test_options_are_checked(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(**options)

    def test_windows_are_refused(self) -> None:
        module = self.build(inference=InferenceConfig(window=64)).eval()
        with pytest.raises(ConfigError, match="window=64"):
            module.class_maps(torch.zeros(1, 3, 64, 64))


class TestTagScores:
    def test_average_precision_is_that_of_the_ranking(self) -> None:
        metric = TagScores()
        scores = torch.tensor([[3.0, 1.0], [2.0, 1.0], [1.0, 0.5], [0.0, 0.0]])
        tags = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]])
        metric.update(scores[:1], tags[:1])
        metric.update(scores[1:], tags[1:])
        found = metric.compute()["average_precision"]
        # first column: 1 of 1 and 2 of 3; second: a tie, 1 of 2
        torch.testing.assert_close(found, torch.tensor([(1 + 2 / 3) / 2, 0.5]))

    def test_is_torchmetrics_where_a_class_occurs(self) -> None:
        from torchmetrics.functional.classification import (
            multilabel_average_precision,
            multilabel_f1_score,
        )

        generator = torch.Generator().manual_seed(0)
        scores = torch.randn(40, 5, generator=generator).round(decimals=1)  # with ties
        tags = (torch.rand(40, 5, generator=generator) < 0.4).long()
        metric = TagScores(threshold=0.6)
        metric.update(scores, tags)
        found, probs = metric.compute(), scores.sigmoid()
        expected = multilabel_average_precision(probs, tags, 5, average="none")
        torch.testing.assert_close(found["average_precision"], expected)
        expected = multilabel_f1_score(probs, tags, 5, threshold=0.6, average="none")
        torch.testing.assert_close(found["f1"], expected)

    def test_a_class_that_does_not_occur_has_no_score(self) -> None:
        metric = TagScores()
        scores = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0]])
        metric.update(scores, torch.tensor([[1, 0, 0], [1, 0, 0]]))
        found = metric.compute()
        assert found["average_precision"].isnan().tolist() == [False, True, True]
        assert found["f1"].isnan().tolist() == [False, True, False]
        assert found["f1"][2] == 0


def test_picture_shows_the_maps_of_the_classes_found() -> None:
    torch.manual_seed(0)
    module = CAMModule(3, encoder="tu-test_resnet.r160_in1k", encoder_weights=None)
    module.data_info = DataInfo(("ground", "cat", "dog"))
    maps = torch.zeros(1, 3, 32, 64)
    maps[0, 1, :, :32], maps[0, 2] = 1.0, 1.0
    scores = torch.tensor([[4.0, 4.0, -4.0]])
    module.class_maps = lambda _: ClassMaps(scores, maps[..., ::4, ::4], maps)
    image = np.full((32, 64, 3), 128, np.uint8)
    picture = class_map_panel(module, image, tile_height=32)
    assert picture.shape == (26 + 36, 2 * 68, 3), "the image and one class"
    assert (picture[26:58, :64] == 128).all()
    cat = picture[26:58, 68:132].astype(int)
    assert (cat[:, :32, 0] > cat[:, :32, 2]).all(), "red where the map is 1"
    assert (cat[:, 32:, 2] > cat[:, 32:, 0]).all(), "blue where it is 0"
    assert class_map_panel(module, image, classes=[0, 1, 2]).shape[1] == 4 * 404
    assert module.training


def test_picture_shows_the_channels_that_the_data_set_names() -> None:
    module = CAMModule(3, encoder="tu-test_resnet.r160_in1k", encoder_weights=None)
    module.data_info = DataInfo(
        ("ground", "cat", "dog"),
        mean=(0.5,) * 5,
        std=(0.5,) * 5,
        in_channels=5,
        rgb_channels=(4, 3, 2),
    )
    maps = torch.zeros(1, 3, 32, 64)
    scores = torch.full((1, 3), -4.0)
    module.class_maps = lambda _: ClassMaps(scores, maps[..., ::4, ::4], maps)
    image = np.zeros((32, 64, 5), np.uint8)
    image[..., 2:] = 50, 100, 200
    picture = class_map_panel(module, image, classes=[1], tile_height=32)
    assert (picture[26:58, :64] == (200, 100, 50)).all()
    dark = class_map_panel(module, np.zeros_like(image), classes=[1], tile_height=32)
    assert (picture[26:58, 68:132].astype(int) > dark[26:58, 68:132]).any(), "brightness of these"
