"""Left and right classes change places in mirrored images; training batches: see the digests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scribbleseg import DataInfo, InferenceConfig, LabelFormatError, predict_logits
from scribbleseg.data import Augmentation, TrainTransform, read_classes
from scribbleseg.functional import mirrored_ids, multi_scale_probabilities


def test_pairs_as_a_table():
    pairs = [(2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13)]
    assert mirrored_ids(pairs, 15) == [0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14]


@pytest.mark.parametrize("pairs", [[(1, 1)], [(0, 1), (1, 2)], [(0, 4)], [(-1, 2)]])
def test_wrong_pairs(pairs):
    with pytest.raises(ValueError, match=r"flip_pairs=.*ids in 0\.\.3, each id at most once"):
        mirrored_ids(pairs, 4)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)], ids=str)
def test_mirrored_is_told_exactly(flips):
    image = np.zeros((6, 8, 3), np.uint8)
    label = np.arange(48, dtype=np.uint8).reshape(6, 8)
    views = {
        (): label,
        ("rows",): label[::-1],
        ("columns",): label[:, ::-1],
        ("rows", "columns"): label[::-1, ::-1],
    }
    transform = TrainTransform(Augmentation(hflip=flips[0], vflip=flips[1]))
    seen = set()
    for seed in range(40):
        sample = transform(image, [label], seed=seed)
        (view,) = [name for name, view in views.items() if np.array_equal(sample.labels[0], view)]
        assert sample.mirrored == (len(view) == 1)
        seen.add(view)
    assert len(seen) == 2 ** sum(flips)


# ----------------------------------------------------------- class file, info


CLASSES = """classes:
- background
- {id: 4, name: left hand, aliases: [lh]}
- {id: 7, name: right_hand}
- {id: 9, name: torso}
"""


def test_pairs_of_the_class_file(tmp_path):
    path = tmp_path / "classes.yaml"
    for pairs in ("[[Left-Hand, right hand]]", "[[lh, 7]]", "[[4, 7]]"):
        path.write_text(f"{CLASSES}compact: true\nflip_pairs: {pairs}\n")
        assert read_classes(path).flip_pairs == ((1, 2),)
    path.write_text(f"{CLASSES}compact: true\n")
    assert read_classes(path).flip_pairs == ()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("[[4, 5]]", r"flip_pairs names 5, which is no name, alias or id"),
        ("[[left hand, right foot]]", r"flip_pairs names 'right foot'"),
        ("[[true, 7]]", r"flip_pairs names True"),
        ("[[4, 7], [9, 4]]", r"flip_pairs uses a class of \[9, 4\] twice"),
        ("[[4, left_hand]]", r"flip_pairs uses a class of \[4, 'left_hand'\] twice"),
        ("[4, 7]", r"flip_pairs holds 4, expected pairs"),
        ("[[4, 7, 9]]", r"flip_pairs holds \[4, 7, 9\], expected pairs"),
        ("4", r"flip_pairs holds 4, expected pairs"),
    ],
)
def test_wrong_pairs_of_the_class_file(tmp_path, pairs, message):
    path = tmp_path / "classes.yaml"
    path.write_text(f"{CLASSES}compact: true\nflip_pairs: {pairs}\n")
    with pytest.raises(LabelFormatError, match=message) as caught:
        read_classes(path)
    assert str(caught.value).startswith(f"D401 {path}: ")


def test_info_keeps_the_pairs():
    info = DataInfo(("a", "b", "c"), flip_pairs=((1, 2),))
    assert DataInfo.from_dict(info.to_dict()) == info
    as_lists = {**info.to_dict(), "flip_pairs": [[1, 2]]}
    assert DataInfo.from_dict(as_lists) == info
    older = info.to_dict()
    del older["flip_pairs"]
    assert DataInfo.from_dict(older).flip_pairs == ()


# ----------------------------------------------------------- test-time flips


def sided(image):
    """A network that knows its sides: class 1 is bright on the left, class 2 on the right."""
    columns = torch.linspace(-1, 1, image.shape[-1], dtype=image.dtype).expand_as(image[:, :1])
    grey = image.mean(1, keepdim=True)
    return torch.cat([grey, grey - columns, grey + columns, 0 * grey], dim=1)


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_mirrored_logits_change_places(average):
    image = torch.rand(2, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = ((1, 2),)
    swapped = sided(image.flip(-1)).flip(-1)[:, [0, 2, 1, 3]]
    parts = [sided(image), swapped]
    expected = sum(parts if average == "logits" else [part.softmax(1) for part in parts])
    found = multi_scale_probabilities(sided, image, flip=True, average=average, flip_pairs=pairs)
    torch.testing.assert_close(
        found, expected / (2 if average == "probs" else 1), rtol=0, atol=1e-12
    )
    # this network is its own mirror image, so averaging changes nothing but rounding
    torch.testing.assert_close(swapped, sided(image), rtol=0, atol=1e-12)
    without = multi_scale_probabilities(sided, image, flip=True, average=average)
    assert (found - without).abs().max() > 0.1
    config = InferenceConfig(flip=True, average=average)
    logits = predict_logits(sided, image, config, flip_pairs=pairs)
    torch.testing.assert_close(logits.softmax(1), sided(image).softmax(1), rtol=0, atol=1e-12)


def test_pairs_that_are_no_classes_of_the_network():
    with pytest.raises(ValueError, match=r"flip_pairs=.*0\.\.3"):
        multi_scale_probabilities(sided, torch.zeros(1, 3, 4, 4), flip=True, flip_pairs=((1, 4),))
