import shutil

import numpy as np
import pytest
import yaml
from helpers.internals import internal
from helpers.source_cases import CASES
from helpers.tiny_folders import (
    STEMS,
    acdc_release,
    plain_folder,
    save,
    voc_tree,
    write_list,
)
from helpers.trees_convert import manifest_of, times
from PIL import Image

from scribbleseg import ConfigError, LabelFormatError, Record, ScribbleNotFoundError
from scribbleseg.data import ScribbleSource, convert_source, group_pattern
from scribbleseg.data.sources import (
    ACDCSource,
    FolderSource,
    SyntheticSource,
    VOCSource,
)

NAMES = (
    *("folder/own names", "folder/no background", "folder/deep grey", "folder/four bands"),
    *("voc/png", "voc/xml", "context/60 xml", "context/59 png", "coco/2014", "coco/custom"),
    *("densepose", "camvid", "blocks/10", "s4/cityscapes", "s4/cityscapes, h5", "acdc/release"),
    *("nifti/acdc", "nnunet/sparse", "nnunet/pictures"),
)


def convert(source, out, **options):
    return convert_source(source, out, progress=False, **options)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(tmp_path, name):
    source = CASES[name](tmp_path / "raw")
    report = convert(source, tmp_path / "plain")
    assert not report.failed
    plain = FolderSource(tmp_path / "plain")
    assert plain.class_names == source.class_names
    assert plain.background == source.background
    used = slice(0, source.num_classes)
    np.testing.assert_array_equal(plain.palette[used], source.palette[used])
    splits, checked = [s for s in ("train", "val", "test") if s in report.found["splits"]], 0
    assert splits[:2] == ["train", "val"]
    for split in splits:
        ours, theirs = plain.records(split), source.records(split)
        assert [r.image_id for r in ours] == [r.image_id for r in theirs]
        assert [r.group for r in ours] == [r.group for r in theirs]
        assert report.found["splits"][split] == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(plain.read_image(a), source.read_image(b))
            assert a.spacing == b.spacing
            own, known = plain.with_mask(a), source.with_mask(b)
            for role in ("scribble", "mask"):
                labelled = getattr(known, role) is not None
                assert (getattr(own, role) is not None) == labelled
                checked += labelled
                if labelled:
                    read = f"read_{role}"
                    np.testing.assert_array_equal(
                        getattr(plain, read)(own), getattr(source, read)(known)
                    )
            if known.image.suffix not in (".h5", ".gz"):  # those hold slices
                assert a.image.read_bytes() == known.image.read_bytes()
    assert checked >= 5
    with Image.open(plain.records("train")[0].scribble.path) as label:
        assert label.mode == "P"


def test_grey_slices_become_one_channel(tmp_path):
    source = ACDCSource(acdc_release(tmp_path / "raw"))
    convert(source, tmp_path / "plain")
    with Image.open(FolderSource(tmp_path / "plain").records("train")[0].image) as image:
        assert image.mode == "L"


def test_voc_list_is_kept_in_its_order(tmp_path):
    voc_tree(tmp_path / "raw")
    stems = ["2008_000008", "2007_000033", "2007_000032"]
    sets = tmp_path / "raw" / "VOCdevkit" / "VOC2012" / "ImageSets"
    write_list(sets / "SegmentationAug" / "train.txt", stems)
    convert(VOCSource(tmp_path / "raw"), tmp_path / "plain")
    assert (tmp_path / "plain" / "train.txt").read_text().split() == stems


def test_no_split_is_made_from_a_part_of_the_images(tmp_path, monkeypatch):
    root, out = plain_folder(tmp_path / "raw"), tmp_path / "plain"

    def stop(self, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FolderSource, "read_mask", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(FolderSource(root), out)
    with pytest.raises(ScribbleNotFoundError, match=r"D301 5 of 6 images"):
        FolderSource(out).records("train")
    convert(FolderSource(root), out)
    assert len(FolderSource(out).records("train")) == 6
    manifest = manifest_of(out)
    assert (manifest["files"], manifest["splits"]) == (8, {"train": 6, "val": 2})
    assert (manifest["source"], manifest["options"]["root"]) == ("FolderSource", str(root))
    assert manifest["version"]


def test_splits_can_follow_one_another(tmp_path):
    source = FolderSource(plain_folder(tmp_path / "raw"))
    assert convert(source, tmp_path / "plain", splits=["val"]).found["splits"] == {"val": 2}
    report = convert(source, tmp_path / "plain", splits=["train"])
    assert report.found["splits"] == {"val": 2, "train": 6}
    with pytest.raises(ScribbleNotFoundError, match=r"test\.txt"):
        convert(source, tmp_path / "plain", splits=["test"])
    with pytest.raises(ConfigError, match=r"split='all'"):
        convert(source, tmp_path / "plain", splits=["all"])


def test_the_manifest_counts_the_splits_of_all_calls(tmp_path, capsys):
    root, out = plain_folder(tmp_path / "raw"), tmp_path / "plain"
    (root / "scribbles" / "img_2.png").write_text("404")
    report = convert(FolderSource(root), out, splits=["train"])
    assert report.format().startswith(f"6 images in {out} (train 6); of 6 in this call 5 written")
    manifest = manifest_of(out)
    assert (manifest["files"], manifest["complete"], manifest["unfinished"]) == (
        6,
        False,
        {"train": 1},
    )
    report = convert(FolderSource(root), out, splits=["val"])
    assert report.format().startswith(
        f"8 images in {out} (train 6, val 2); of 2 in this call 2 written"
    )
    manifest = manifest_of(out)
    assert (manifest["files"], manifest["splits"]) == (8, {"train": 6, "val": 2})
    assert manifest["complete"] is False, "an image of train is still to be done"
    save(root / "scribbles" / "img_2.png", np.full((40, 48), 1, np.uint8))
    convert(FolderSource(root), out, splits=["train"])
    manifest = manifest_of(out)
    assert (manifest["files"], manifest["complete"], manifest["unfinished"]) == (8, True, {})


def test_a_split_that_was_interrupted_stays_unfinished(tmp_path, monkeypatch):
    root, out = plain_folder(tmp_path / "raw"), tmp_path / "plain"
    convert(FolderSource(root), out, splits=["val"])
    original, calls = internal("convert")._convert_image, []

    def stop(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(internal("convert"), "_convert_image", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(FolderSource(root), out, splits=["train"])
    assert manifest_of(out)["complete"] is False
    monkeypatch.undo()
    convert(FolderSource(root), out, splits=["val"])
    manifest = manifest_of(out)
    assert (manifest["complete"], manifest["unfinished"]) == (False, {"train": 6})
    assert manifest["files"] == 4
    convert(FolderSource(root), out)
    assert manifest_of(out)["complete"] is True


def test_missing_scribbles_stay_missing_and_are_reported(tmp_path):
    root = plain_folder(tmp_path / "raw")
    (root / "scribbles" / "img_1.png").unlink()
    report = convert(FolderSource(root), tmp_path / "plain")
    assert report.found["without_scribble"] == ["img_1"]
    assert "1 training images have no scribble (e.g. img_1)" in report.format()
    assert not (tmp_path / "plain" / "scribbles" / "img_1.png").exists()
    assert (tmp_path / "plain" / "masks" / "img_1.png").exists()
    with pytest.raises(ScribbleNotFoundError, match="1 of 6 scribbles"):
        FolderSource(tmp_path / "plain").records("train")
    skipping = FolderSource(root, on_missing="skip")
    convert(skipping, tmp_path / "skip")
    ids = [r.image_id for r in FolderSource(tmp_path / "skip").records("train")]
    assert ids == [r.image_id for r in skipping.records("train")]


def test_labels_of_another_size_are_named_by_their_file(tmp_path):
    root = plain_folder(tmp_path / "raw")
    mask = save(root / "masks" / "img_3.png", np.zeros((4, 6), np.uint8))
    failed = convert(FolderSource(root), tmp_path / "plain").failed
    size = "is 6x4 (width x height), its image is 48x40; export it again"
    assert failed["img_3"].startswith(f"D201 {mask}: mask {size}")
    made = MemorySource()
    made.read_scribble = lambda record: np.zeros((3, 2), np.uint8)
    failed = convert(made, tmp_path / "memory").failed
    assert failed["atrain"].startswith("D201 atrain: scribble is 2x3 (width x height), its image")


def test_hard_links(tmp_path):
    root = plain_folder(tmp_path / "raw")
    convert(FolderSource(root), tmp_path / "plain", link=True)
    image = FolderSource(tmp_path / "plain").records("train")[0].image
    assert image.samefile(root / "images" / image.name)
    before = times(tmp_path / "plain")
    assert convert(FolderSource(root), tmp_path / "plain", link=True).written == 0
    assert times(tmp_path / "plain") == before


class MemorySource(ScribbleSource):
    """A source without files; ids may be anything."""

    class_names = ("background", "left", "right")
    flip_pairs = ()

    def __init__(self, ids=("a", "b"), channels=3):
        self.ids, self.channels = ids, channels

    def records(self, split):
        return [Record(f"{name}{split}" if "/" not in name else name) for name in self.ids]

    def read_image(self, record):
        rng = np.random.default_rng(list(record.image_id.encode()))
        return rng.integers(0, 255, (6, 8, self.channels)).astype(np.uint8)

    def read_scribble(self, record):
        return np.full((6, 8), 255, np.uint8)

    def read_mask(self, record):
        return np.ones((6, 8), np.uint8)


def test_sources_without_files(tmp_path):
    source = MemorySource()
    report = convert(source, tmp_path / "plain")
    assert (report.written, report.found["with_mask"]) == (6, 6)
    plain = FolderSource(tmp_path / "plain")
    for record in plain.records("train"):
        np.testing.assert_array_equal(plain.read_image(record), source.read_image(record))
    assert convert(source, tmp_path / "plain").written == 0
    synthetic = SyntheticSource(num_train=2, num_val=1, size=32)
    assert not convert(synthetic, tmp_path / "shapes").failed
    assert FolderSource(tmp_path / "shapes").class_names == synthetic.class_names


def test_images_of_many_channels_are_arrays(tmp_path):
    source = MemorySource(channels=5)
    assert not convert(source, tmp_path / "plain").failed
    record = source.records("train")[0]
    stored = np.load(tmp_path / "plain" / "images" / f"{record.image_id}.npy", allow_pickle=False)
    np.testing.assert_array_equal(stored, source.read_image(record))
    assert convert(source, tmp_path / "plain").written == 0


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "a\\x", "a//x", ".x/y"])
def test_ids_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(LabelFormatError, match=r"D501 image id"):
        convert(MemorySource(ids=(name if "/" in name else f"{name}/",)), tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("name", ["#a", " a", "images/b", "sub/b.png"])
def test_ids_that_a_list_would_change_are_refused(tmp_path, name):
    source = MemorySource(ids=(name,))
    source.records = lambda split: [Record(name)]
    with pytest.raises(LabelFormatError, match=r"D501 image id .* cannot be a line"):
        convert(source, tmp_path / "plain")


def test_an_id_twice_is_refused(tmp_path):
    with pytest.raises(LabelFormatError, match=r"D303 image id 'atrain' occurs more than once"):
        convert(MemorySource(ids=("a", "a")), tmp_path / "plain")


def test_masks_as_labels_are_refused(tmp_path):
    source = FolderSource(plain_folder(tmp_path / "raw"), label_type="mask")
    with pytest.raises(ConfigError, match="label_type='mask'"):
        convert(source, tmp_path / "plain")


def test_class_file_of_mirrored_classes(tmp_path):
    source = MemorySource()
    source.flip_pairs = ((1, 2),)
    source.background = None
    convert(source, tmp_path / "plain")
    content = yaml.safe_load((tmp_path / "plain" / "classes.yaml").read_text())
    assert content["flip_pairs"] == [[1, 2]]
    assert content["background"] is None
    assert content["classes"][1] == {"id": 1, "name": "left", "color": [128, 0, 0]}


def test_group_patterns():
    def records(*pairs):
        return [Record(image_id, group=group) for image_id, group in pairs]

    assert group_pattern(records(("a", None))) is None
    assert group_pattern(records(("x/p1_s3", "p1"), ("x/p12_s9", "p12"))) == "(p12|p1)"
    assert group_pattern(records(("p1_s3", "other"))) is None


def test_lost_groups_are_said(tmp_path):
    source = MemorySource()
    source.records = lambda split: [Record(f"{split}1", group="unrelated")]
    assert "groups of the images" in convert(source, tmp_path / "plain").format()


def test_stems_of_one_image_in_two_splits_are_written_once(tmp_path):
    root = plain_folder(tmp_path / "raw")
    shutil.copy(root / "val.txt", root / "test.txt")
    report = convert(FolderSource(root), tmp_path / "plain")
    assert report.found["splits"] == {"train": 6, "val": 2, "test": 2}
    assert report.written == len(STEMS)


def test_progress_is_shown_on_stderr_unless_it_is_off(tmp_path, capsys):
    source = FolderSource(plain_folder(tmp_path / "data"))
    convert_source(source, tmp_path / "a", progress=False)
    assert capsys.readouterr() == ("", "")
    convert_source(source, tmp_path / "b")
    out, err = capsys.readouterr()
    assert out == ""
    assert "8/8" in err
