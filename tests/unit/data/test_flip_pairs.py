"""Left and right classes change places in mirrored images, in training and at test time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny_folders import plain_folder, save
from helpers.trees_coco import densepose_tree

from scribbleseg import DataInfo, InferenceConfig, LabelFormatError, predict_logits
from scribbleseg.data import Augmentation, TrainDataset, TrainTransform, read_classes
from scribbleseg.data.sources import FolderSource, LayoutSource
from scribbleseg.functional import mirrored_ids, multi_scale_probabilities

SWAPPED = [0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14]


def test_pairs_as_a_table():
    pairs = [(2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13)]
    assert mirrored_ids(pairs, 15) == SWAPPED


@pytest.mark.parametrize("pairs", [[(1, 1)], [(0, 1), (1, 2)], [(0, 4)], [(-1, 2)]])
def test_wrong_pairs(pairs):
    with pytest.raises(ValueError, match=r"flip_pairs=.*ids in 0\.\.3, each id at most once"):
        mirrored_ids(pairs, 4)


# ------------------------------------------------------------------ training


def training_items(source, **augmentation):
    options = {"hflip": False, **augmentation}
    transform = TrainTransform(Augmentation(**options))
    info = DataInfo(source.class_names, background=source.background)
    data = TrainDataset(source, source.records("train"), transform, info, source_index=True)
    return [data[index] for index in range(len(data))], transform, data


def expected_item(source, item):
    """Labels of an item, from where its pixels come: mirrored iff the places are."""
    record = {r.image_id: r for r in source.records("train")}[item["image_id"]]
    plain = source.read_scribble(record)
    rows, columns = item["source_index"].numpy()
    label = plain[rows, columns]
    # orientation of the map: the determinant of its two directions
    down = [int(rows[1, 0] - rows[0, 0]), int(columns[1, 0] - columns[0, 0])]
    right = [int(rows[0, 1] - rows[0, 0]), int(columns[0, 1] - columns[0, 0])]
    mirrored = down[0] * right[1] - down[1] * right[0] < 0
    table = np.arange(256)
    if mirrored:
        table[:15] = SWAPPED
    return table[label], mirrored


@pytest.mark.parametrize(
    "augmentation",
    [
        {},
        {"hflip": True},
        {"vflip": True},
        {"rot90": True},
        {"hflip": True, "vflip": True, "rot90": True},
    ],
    ids=str,
)
def test_a_mirrored_sample_has_swapped_ids(tmp_path, augmentation):
    densepose_tree(tmp_path)
    names = [f"COCO_train2014_{number:012d}" for number in (36, 49)]
    source = LayoutSource(tmp_path, "densepose")
    seen = set()
    for seed in range(12):
        transform = TrainTransform(Augmentation(**{"hflip": False, **augmentation}))
        info = DataInfo(source.class_names)
        data = TrainDataset(
            source, source.records("train"), transform, info, seed=seed, source_index=True
        )
        for index, name in enumerate(names):
            item = data[index]
            assert item["image_id"] == name
            expected, mirrored = expected_item(source, item)
            np.testing.assert_array_equal(item["scribble"].numpy(), expected)
            seen.add(mirrored)
    one_flip = ("hflip" in augmentation) != ("vflip" in augmentation)
    assert False in seen
    assert (True in seen) or not one_flip


def test_tags_change_sides_too(tmp_path):
    densepose_tree(tmp_path)
    source = LayoutSource(tmp_path, "densepose")
    record = source.records("train")[0]
    points = np.full((12, 30), 255, np.uint8)
    points[6, 3:9] = [2, 2, 4, 9, 9, 14]  # right hand, left foot, left leg, head
    save(record.scribble.path, points)
    found = set()
    for seed in range(12):
        transform = TrainTransform(Augmentation())
        data = TrainDataset(source, [record], transform, DataInfo(source.class_names), seed=seed)
        item = data[0]
        tags = tuple(item["class_labels"].nonzero().ravel().tolist())
        drawn = set(item["scribble"].unique().tolist()) - {255}
        assert set(tags) == drawn | {0}
        found.add(tags)
    assert found == {(0, 2, 4, 9, 14), (0, 3, 5, 8, 14)}


@pytest.mark.parametrize(
    ("flips", "possible"),
    [
        ({"hflip": True}, ["none", "horizontal"]),
        ({"hflip": False, "vflip": True}, ["none", "vertical"]),
        ({"hflip": False}, ["none"]),
        ({"hflip": True, "vflip": True}, ["none", "horizontal", "vertical", "both"]),
    ],
    ids=str,
)
def test_mirrored_is_told_exactly(flips, possible):
    image = np.zeros((6, 8, 3), np.uint8)
    label = np.arange(48, dtype=np.uint8).reshape(6, 8)
    views = {
        "none": label,
        "horizontal": label[:, ::-1],
        "vertical": label[::-1],
        "both": label[::-1, ::-1],
    }
    transform = TrainTransform(Augmentation(**flips))
    seen = set()
    for seed in range(40):
        sample = transform(image, [label], seed=seed)
        (view,) = [name for name, view in views.items() if np.array_equal(sample.labels[0], view)]
        assert sample.mirrored == (view in ("horizontal", "vertical"))
        seen.add(view)
    assert seen <= set(possible)
    assert seen == set(possible) or (len(possible) == 4 and len(seen) > 1)


def test_without_pairs_nothing_is_swapped(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    assert source.flip_pairs == ()
    items, _, _ = training_items(source, hflip=True, vflip=True)
    for item in items:
        rows, columns = item["source_index"].numpy()
        record = {r.image_id: r for r in source.records("train")}[item["image_id"]]
        plain = source.read_scribble(record)
        np.testing.assert_array_equal(item["scribble"].numpy(), plain[rows, columns])


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


def test_a_folder_source_takes_the_pairs_of_its_class_file(tmp_path):
    plain_folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.yaml").write_text(
        "classes: [background, left, right]\nflip_pairs: [[left, right]]\n"
    )
    assert FolderSource(tmp_path).flip_pairs == ((1, 2),)


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
