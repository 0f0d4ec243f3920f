"""Optional keys of training batches: superpixels, their graph, pseudo-labels, distance maps."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.internals import internal
from helpers.tiny_folders import STEMS, plain_folder
from jsonargparse import ArgumentParser
from PIL import Image

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import (
    Augmentation,
    ScribbleDataModule,
    SeedReader,
    SuperpixelReader,
    collate,
    resize_map,
    write_superpixels,
)
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import (
    SuperpixelOptions,
    boundary_distance_map,
    over_segment,
    resize_image,
    resized_shape,
    scribble_distance_map,
    superpixel_affinity,
    write_arrays,
    write_label,
    write_manifest,
)

ALL = frozenset({"superpixel", "superpixel_graph", "pseudo_label", "distance_maps"})
MAPS = ("superpixel", "pseudo_label", "scribble_distance", "pseudo_distance")
GRAPH = ("superpixel_edges", "superpixel_weights", "superpixel_image")
GEOMETRY = Augmentation(scale=(0.5, 1.5), rotate=20, rot90=True, hflip=True, vflip=True)


class _Fit:
    """What a data module looks at: the module that is trained."""

    def __init__(self, inputs) -> None:
        self.lightning_module = type("Method", (), {"train_inputs": frozenset(inputs)})()


def labels_of(source, folder, *, change=lambda mask: mask):
    records = source.records("train")
    for record in records:
        mask = source.read_mask(record)
        write_label(folder / f"{record.image_id}.png", change(mask))
    write_manifest(folder, class_names=source.class_names, files=len(records))
    return str(folder)


@pytest.fixture
def source():
    return SyntheticSource(num_train=6, num_val=2, size=48)


@pytest.fixture
def pseudo(tmp_path, source):
    def undecided(mask):
        out = mask.copy()
        out[:7] = 255
        return out

    return labels_of(source, tmp_path / "pseudo", change=undecided)


def data_of(source, inputs=ALL, **options) -> ScribbleDataModule:
    settings = {
        "batch_size": 2,
        "num_workers": 0,
        "crop_size": 40,
        "seed": 0,
        "check": False,
        "augmentation": GEOMETRY,
        "superpixels": "grid",
        "superpixel_options": SuperpixelOptions(segments=20),
    }
    if "superpixels" in options:
        settings.pop("superpixel_options")
    data = ScribbleDataModule(source, **{**settings, **options})
    data.trainer = _Fit(inputs)
    data.setup("fit")
    return data


def batches(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def whole(values, source_index, fill):
    """A whole map as a sample shows it."""
    rows, columns = source_index.numpy()
    return np.where(rows >= 0, values[rows, columns], fill)


@pytest.mark.parametrize(
    ("inputs", "keys"),
    [
        ((), ()),
        (("superpixel",), ("superpixel",)),
        (("superpixel_graph",), ("superpixel", *GRAPH)),
        (("pseudo_label",), ("pseudo_label",)),
        (("distance_maps",), MAPS[1:]),
    ],
)
def test_a_method_gets_what_it_asks_for(source, pseudo, inputs, keys) -> None:
    batch = batches(data_of(source, inputs, pseudo_label_dir=pseudo))[0]
    assert set(batch) & {*MAPS, *GRAPH} == set(keys)
    for loader in ("val_dataloader", "unaugmented_dataloader"):
        other = next(iter(getattr(data_of(source, inputs, pseudo_label_dir=pseudo), loader)()))
        assert not set(other) & {*MAPS, *GRAPH}


@pytest.mark.parametrize("resize", [None, 36, (30, 50)])
@pytest.mark.parametrize("background", [0, None])
def test_maps_are_those_of_the_whole_image(source, pseudo, resize, background) -> None:
    source.background = background
    inputs = ALL | {"source_index"}
    data = data_of(source, inputs, pseudo_label_dir=pseudo, resize=resize)
    padded = 0
    for batch in batches(data):
        for i, image_id in enumerate(batch["image_id"]):
            record = next(r for r in data.records("train") if r.image_id == image_id)
            scribble = source.read_scribble(record)
            label = source.read_mask(record)
            label[:7] = 255
            # at original size, before anything is resized
            near = scribble_distance_map(scribble, background=background)
            far = boundary_distance_map(label, background=background)

            size = resized_shape(*scribble.shape, resize)
            blank = np.zeros((*size, 3), np.uint8)
            expected = {
                "superpixel": (over_segment(blank, "grid", {"num_segments": 20}), -1),
                "pseudo_label": (label, 255),
                "scribble_distance": (np.rint(255 * near).astype(np.uint8), 255),
                "pseudo_distance": (np.rint(255 * far).astype(np.uint8), 255),
            }
            padded += int((~batch["valid"][i]).sum())
            for name, (values, fill) in expected.items():
                shown = whole(resize_map(values, size), batch["source_index"][i], fill)
                np.testing.assert_array_equal(batch[name][i].numpy(), shown, err_msg=name)
    assert padded > 0


def test_graph_is_that_of_the_uncropped_image(source) -> None:
    data = data_of(source, ("superpixel_graph",), resize=40, crop_size=16, superpixels="slic")

    for batch in batches(data):
        for i, index in enumerate(batch["index"].tolist()):
            image = resize_image(source.read_image(data.records("train")[index]), 40)
            graph = superpixel_affinity(image, over_segment(image, "slic", {}))
            own = batch["superpixel_image"] == i
            np.testing.assert_array_equal(batch["superpixel_edges"][own].numpy(), graph.edges)
            np.testing.assert_array_equal(batch["superpixel_weights"][own].numpy(), graph.weights)


def test_images_without_edges_are_counted() -> None:
    def item(edges: int) -> dict:
        return {
            "superpixel": torch.zeros(2, 2 + edges, dtype=torch.int32),
            "superpixel_edges": torch.arange(2 * edges).view(edges, 2),
            "superpixel_weights": torch.ones(edges),
        }

    batch = collate([item(0), item(2), item(0), item(1)])
    assert batch["superpixel_image"].tolist() == [1, 1, 3]
    assert batch["superpixel_edges"].tolist() == [[0, 1], [2, 3], [0, 1]]
    assert batch["superpixel"].shape == (4, 2, 4)
    assert (batch["superpixel"][0, :, 2:] == -1).all()
    none = collate([item(0), item(0)])
    assert none["superpixel_edges"].shape == (0, 2)
    assert none["superpixel_image"].shape == (0,)
    assert none["superpixel_image"].dtype == torch.int64


def test_one_superpixel_has_no_edges(source) -> None:
    options = SuperpixelOptions(segments=1)
    data = data_of(source, ("superpixel_graph",), superpixels="grid", superpixel_options=options)
    batch = batches(data)[0]
    assert batch["superpixel_edges"].shape == (0, 2)
    assert set(batch["superpixel"].unique().tolist()) <= {-1, 0}


def test_collate_pads_each_map_with_its_own_value() -> None:
    items = [
        {name: torch.zeros(h, w, dtype=torch.int32) for name in MAPS} for h, w in ((3, 5), (4, 2))
    ]
    batch = collate(items)
    for name in MAPS:
        fill = -1 if name == "superpixel" else 255
        assert (batch[name][0, 3:] == fill).all()
        assert (batch[name][1, :, 2:] == fill).all()
        assert (batch[name][0, :3] == 0).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_superpixels_are_made_before_the_first_training(tmp_path, monkeypatch, workers) -> None:
    source = FolderSource(plain_folder(tmp_path / "raw"))
    options = {"superpixels": "slic", "resize": 36, "num_workers": workers}
    first = batches(data_of(source, {"superpixel_graph"}, **options))
    (folder,) = (tmp_path / "raw" / ".superpixel_cache").iterdir()
    assert sorted(path.stem for path in folder.glob("img_*.png")) == list(STEMS[:6])
    made, original = [], over_segment

    def watched(image, *args, **how):
        made.extend([image] if len(image) > 2 else [])
        return original(image, *args, **how)

    monkeypatch.setattr(internal("superpixels"), "over_segment", watched)
    again = batches(data_of(source, {"superpixel_graph"}, **options | {"num_workers": 0}))
    assert not made
    for ours, theirs in zip(first, again, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("superpixel", *GRAPH))
    later = (folder / f"{STEMS[2]}.png").stat().st_mtime + 5
    os.utime(source.records("train")[2].image, (later, later))
    data_of(source, {"superpixel"}, **options | {"num_workers": 0})
    assert len(made) == 1, "an image that is newer than its superpixels"


def test_images_of_no_file_must_be_those_of_the_superpixels() -> None:
    class Inverted(SyntheticSource):
        def read_image(self, record):
            return 255 - super().read_image(record)

    options = {"superpixels": "grid", "superpixel_options": SuperpixelOptions(segments=5)}
    data_of(Inverted(num_train=3, size=44), {"superpixel"}, check=True, **options)
    Inverted.read_image = SyntheticSource.read_image
    with pytest.raises(LabelFormatError, match=r"D403 .*grid_5_\w+/train_00000\.png.*delete the"):
        data_of(Inverted(num_train=3, size=44), {"superpixel"}, check=True, **options)


def test_many_superpixels_keep_their_ids() -> None:
    source = SyntheticSource(num_train=1, size=220)
    record = source.records("train")[0]
    reader = SuperpixelReader(source, [record], "grid", SuperpixelOptions(segments=48_400))
    image = source.read_image(record)
    regions = reader.read(record, image).regions
    np.testing.assert_array_equal(regions, over_segment(image, "grid", {"num_segments": 48_400}))
    assert (regions.dtype, regions.max() > 40_000) == (np.int32, True)


@pytest.mark.parametrize("resize", [None, 30])
def test_folder_gives_what_the_method_gives(tmp_path, resize) -> None:
    source = FolderSource(plain_folder(tmp_path / "raw"))
    options = SuperpixelOptions(segments=30)
    write_superpixels(source, tmp_path / "regions", method="grid", options=options, progress=False)
    data = data_of(
        source,
        {"superpixel", "superpixel_graph", "source_index"},
        superpixels=str(tmp_path / "regions"),
        resize=resize,
        crop_size=24,
        check=True,
    )

    size = (40, 48) if resize is None else (25, 30)
    blank = np.zeros((40, 48, 3), np.uint8)
    regions = resize_map(over_segment(blank, "grid", {"num_segments": 30}), size)
    for batch in batches(data):
        for i in range(len(batch["index"])):
            expected = whole(regions, batch["source_index"][i], -1)
            np.testing.assert_array_equal(batch["superpixel"][i].numpy(), expected)
            edges = batch["superpixel_edges"][batch["superpixel_image"] == i].numpy()
            assert set(edges.ravel().tolist()) <= set(np.unique(regions).tolist())
            assert len(edges)


def test_faulty_folders_of_superpixels(tmp_path, caplog) -> None:
    source = FolderSource(plain_folder(tmp_path / "raw"))
    regions = tmp_path / "regions"
    with pytest.raises(ConfigError, match=r"nowhere.*neither a method \(slic, felz.*superpixels"):
        data_of(source, {"superpixel"}, superpixels=str(tmp_path / "nowhere"))
    options = SuperpixelOptions(segments=9)
    write_superpixels(source, regions, method="grid", options=options, progress=False)
    image = source.records("train")[0].image
    os.utime(image, (2**31, 2**31))
    with caplog.at_level(logging.WARNING, logger="scribbleseg"):
        data_of(source, {"superpixel"}, superpixels=str(regions))
    assert f"1 of 6 superpixel files are older than their image ({STEMS[0]})" in caplog.text
    (regions / f"{STEMS[1]}.png").unlink()
    (regions / f"{STEMS[3]}.png").unlink()
    with pytest.raises(
        ScribbleNotFoundError, match=rf"D301.*2 of 6 .*{STEMS[1]}, {STEMS[3]}.*data superpixels"
    ):
        data_of(source, {"superpixel"}, superpixels=str(regions))


def test_size_of_superpixels_and_pseudo_labels_is_checked_at_the_start(tmp_path) -> None:
    source = FolderSource(plain_folder(tmp_path / "raw"))
    small = {record.image_id: np.zeros((20, 24), np.uint8) for record in source.records("train")}
    for stem, ids in small.items():
        write_label(tmp_path / "small" / f"{stem}.png", ids)
    folder = str(tmp_path / "small")
    for inputs, option in (("superpixel", "superpixels"), ("pseudo_label", "pseudo_label_dir")):
        data = data_of(source, {inputs}, **{option: folder})
        with pytest.raises(LabelFormatError, match="D201"):
            batches(data)
        with pytest.raises(LabelFormatError, match="D201"):
            data_of(source, {inputs}, check=True, **{option: folder})


def test_faulty_folders_of_pseudo_labels(tmp_path, source, pseudo) -> None:

    inputs = {"pseudo_label"}
    with pytest.raises(ScribbleNotFoundError, match=r"D301.*pseudo_label_dir"):
        data_of(source, inputs, pseudo_label_dir=str(tmp_path / "nowhere"))
    for name in ("train_00002", "train_00004"):
        (Path(pseudo) / f"{name}.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"2 of 6 .*\(train_00002, train_00004\)"):
        data_of(source, inputs, pseudo_label_dir=pseudo)
    others = labels_of(SyntheticSource(num_train=6, num_classes=4, size=48), tmp_path / "others")
    with pytest.raises(LabelFormatError, match=r"D401.*other classes"):
        data_of(source, inputs, pseudo_label_dir=others)
    bad = labels_of(source, tmp_path / "bad", change=lambda mask: mask + 17)
    with pytest.raises(LabelFormatError, match="D101"):
        data_of(source, inputs, pseudo_label_dir=bad, check=True)


def test_images_of_any_channels() -> None:
    class Bands(SyntheticSource):
        in_channels = 5
        rgb_channels = (4, 0, 2)

        def read_image(self, record):
            image = super().read_image(record)
            return np.concatenate([image, image[..., :2]], axis=-1)

    source = Bands(num_train=2, size=40)
    options = {"augmentation": Augmentation(hflip=False), "crop_size": None, "batch_size": 1}
    data = data_of(source, {"superpixel_graph"}, superpixels="felzenszwalb", **options)
    for batch in batches(data):
        image = source.read_image(data.records("train")[int(batch["index"])])
        rgb = image[..., [4, 0, 2]]
        regions = over_segment(rgb, "felzenszwalb", {"scale": 300.0})
        np.testing.assert_array_equal(batch["superpixel"][0].numpy(), regions)
        np.testing.assert_array_equal(
            batch["superpixel_weights"].numpy(), superpixel_affinity(rgb, regions).weights
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"superpixels": "slik"}, "superpixels='slik': neither a method"),
        ({"distance_lambdas": (0.0, 1.0)}, r"distance_lambdas\[0\]=0.0: expected a number above"),
        ({"distance_lambdas": (1.0, -2)}, r"distance_lambdas\[1\]=-2"),
        ({"distance_lambdas": (1.0, math.inf)}, r"distance_lambdas\[1\]=inf"),
        ({"distance_lambdas": (1.0,)}, "expected two numbers"),
        ({"paste_scribbles": True}, "paste_scribbles=True without `pseudo_label_dir`"),
        ({"paste_scribbles": "no"}, "paste_scribbles='no': expected true or false"),
        ({"superpixel_options": SuperpixelOptions(), "superpixels": None}, "options belong to"),
        ({"superpixel_options": SuperpixelOptions(), "superpixels": "folder"}, "options belong to"),
    ],
)
def test_options_are_checked(source, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(source, {"superpixel"}, **options)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("superpixel", r"Method trains with superpixels.*slic.*data superpixels ROOT"),
        ("superpixel_graph", r"`superpixels` of the data is not set"),
        (
            "pseudo_label",
            r"trains on pseudo-labels.*`pseudo_label_dir`.*data propagate ROOT",
        ),
        ("distance_maps", r"`pseudo_label_dir` of the data is not set"),
    ],
)
def test_missing_options_name_the_cure(source, inputs, message) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(source, {inputs}, superpixels=None)


def test_options_without_effect_are_said_once(source, pseudo, caplog) -> None:
    options = {"pseudo_label_dir": pseudo, "distance_lambdas": (1.0, 2.0)}
    with caplog.at_level(logging.WARNING, logger="scribbleseg"):
        data = data_of(source, {"superpixel"}, **options)
        batches(data)
    assert len(caplog.records) == 1
    assert "pseudo_label_dir, distance_lambdas: Method with these options" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="scribbleseg"):
        data_of(source, ALL, **options)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="scribbleseg"):
        data_of(source, ())
    assert "superpixels: Method" in caplog.text


def test_evaluation_needs_no_files(source) -> None:
    options = {"num_workers": 0, "check": False}
    data = ScribbleDataModule(source, superpixels="nowhere", pseudo_label_dir="nowhere", **options)
    data.trainer = _Fit(ALL)
    for stage in ("validate", "test", "predict"):
        data.setup(stage)
    with pytest.raises(ConfigError, match="nowhere"):
        data.setup("fit")


def test_without_a_method_the_options_decide(source, pseudo, tmp_path) -> None:
    def keys(**options) -> set[str]:
        data = ScribbleDataModule(source, num_workers=0, batch_size=1, check=False, **options)
        data.setup("fit")
        data.show_batch(tmp_path / "batch.png", count=2)
        return set(batches(data)[0]) & {*MAPS, *GRAPH}

    assert keys() == set()
    assert keys(superpixels="grid") == {"superpixel"}
    assert keys(superpixels="grid", pseudo_label_dir=pseudo) == set(MAPS)


def test_show_batch_draws_every_map(source, pseudo, tmp_path) -> None:

    sizes = []
    for inputs in ((), {"superpixel"}, {"superpixel", "pseudo_label"}, ALL):
        data = data_of(source, inputs, pseudo_label_dir=pseudo)
        data.show_batch(tmp_path / "batch.png", count=2)
        with Image.open(tmp_path / "batch.png") as picture:
            sizes.append(picture.width)
    assert [size / (sizes[0] / 2) for size in sizes] == [2, 3, 4, 6]


def test_command_line_understands_the_options() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ScribbleDataModule, "data")
    settings = parser.parse_object(
        {
            "data": {
                "class_path": "scribbleseg.data.datamodule.ScribbleDataModule",
                "init_args": {
                    "source": {"class_path": "scribbleseg.data.sources.SyntheticSource"},
                    "superpixels": "slic",
                    "superpixel_options": {"segments": 50, "compactness": 5},
                    "pseudo_label_dir": "runs/labels",
                    "paste_scribbles": True,
                    "distance_lambdas": [1, 20.5],
                },
            }
        }
    )
    options = parser.instantiate(settings).data.extra_options
    assert options.superpixel_options == SuperpixelOptions(segments=50, compactness=5)
    assert tuple(options.distance_lambdas) == (1, 20.5)
    assert options.paste_scribbles


# ---------------------------------------------------------------------------- seeds


def write_seeds(folder, source) -> list:
    records = source.records("train")
    for record in records:
        maps = np.array([[[0.25, 0.5]], [[1.0, 0.0]]])
        write_arrays(folder / f"{record.image_id}.npz", classes=np.array([2, 0]), maps=maps)
    return records


def test_seeds_are_maps_by_class(tmp_path, source) -> None:
    records = write_seeds(tmp_path / "seeds", source)
    seeds = SeedReader(source, records, tmp_path / "seeds").read(records[0])
    assert (seeds.dtype, seeds.shape) == (torch.float32, (source.num_classes, 1, 2))
    assert seeds[2].tolist() == [[0.25, 0.5]]
    assert seeds[0].tolist() == [[1.0, 0.0]]
    assert seeds.sum() == 1.75


def test_faulty_folders_of_seeds(tmp_path, source) -> None:
    folder = tmp_path / "seeds"
    with pytest.raises(
        ScribbleNotFoundError, match=r"D301 .*seeds: folder of seeds does not exist"
    ):
        SeedReader(source, source.records("train"), folder)
    records = write_seeds(folder, source)
    write_manifest(folder, class_names=source.class_names, files=6, complete=False)
    with pytest.raises(LabelFormatError, match=r"D403 .*not complete"):
        SeedReader(source, records, folder)
    write_manifest(folder, class_names=source.class_names[::-1], files=6)
    with pytest.raises(LabelFormatError, match="D401"):
        SeedReader(source, records, folder)
    (folder / "manifest.json").unlink()
    (folder / f"{records[3].image_id}.npz").unlink()
    with pytest.raises(ScribbleNotFoundError, match=rf"D301 .*: 1 of 6 .*{records[3].image_id}"):
        SeedReader(source, records, folder)


@pytest.mark.parametrize(
    ("classes", "maps", "message"),
    [
        ([0, 1], np.zeros((2, 3)), r"D202 .*maps \(2, 3\)"),
        ([0], np.zeros((2, 3, 3)), r"D202 .*classes \(1,\)"),
        ([0], np.full((1, 2, 2), np.nan), "D202 .*finite"),
        ([99], np.zeros((1, 2, 2)), r"D101 .*classes \[99\], expected ids 0 to"),
        ([-1], np.zeros((1, 2, 2)), "D101"),
        (None, np.zeros((1, 2, 2)), "D202 .*cannot be read as seeds"),
    ],
)
def test_faulty_files_of_seeds(tmp_path, source, classes, maps, message) -> None:
    records = write_seeds(tmp_path, source)
    reader = SeedReader(source, records, tmp_path)
    arrays = {"maps": maps} if classes is None else {"maps": maps, "classes": np.array(classes)}
    write_arrays(tmp_path / f"{records[0].image_id}.npz", **arrays)
    with pytest.raises(LabelFormatError, match=message):
        reader.read(records[0])
    number = source.num_classes - 1
    arrays = {"maps": np.ones((1, 2, 2)), "classes": np.array([number])}
    write_arrays(tmp_path / f"{records[0].image_id}.npz", **arrays)
    assert reader.read(records[0])[number].tolist() == [[1, 1], [1, 1]]
    write_arrays(
        tmp_path / f"{records[0].image_id}.npz", classes=np.empty(0, int), maps=np.ones((0, 2, 2))
    )
    assert reader.read(records[0]).abs().sum() == 0
