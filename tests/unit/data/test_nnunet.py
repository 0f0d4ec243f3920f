import json
from itertools import product

import pytest
from helpers.tiny_folders import blocks, photo, save
from helpers.trees_medical import (
    SLICES,
    nnunet_pictures,
    nnunet_volumes,
    volume_image,
    volume_labels,
    write_nifti,
)

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.data.sources import NnUNetSource


def facts_with(root, **changes):
    path = root / "dataset.json"
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))


def test_folds_are_those_of_nnunet(tmp_path):
    nnunet_volumes(tmp_path, cases=12, channels=1)
    folds = [
        {record.group for record in NnUNetSource(tmp_path, fold=fold).records("val")}
        for fold in range(5)
    ]
    # scikit-learn: KFold(5, shuffle=True, random_state=12345).split(12 cases)
    numbers = [{0, 3, 8}, {7, 10, 11}, {6, 9}, {1, 4}, {2, 5}]
    assert folds == [{f"case_{number:02d}" for number in fold} for fold in numbers]


def test_stored_folds_win(tmp_path):
    nnunet_volumes(tmp_path, cases=3, channels=1)
    path = tmp_path / "splits_final.json"
    path.write_text('[{"train": ["case_02"], "val": ["case_00", "case_01"]}]')
    source = NnUNetSource(tmp_path)
    assert {record.group for record in source.records("train")} == {"case_02"}
    assert {record.group for record in source.records("val")} == {"case_00", "case_01"}
    with pytest.raises(ConfigError, match=r"fold=1: .*splits_final\.json has no such fold"):
        NnUNetSource(tmp_path, fold=1).records("train")
    for text, message in (
        ('[{"train": ["case_07"]}]', r"D301 .*1 of 1 cases have no image .*case_07"),
        ("[", r"D202 .*splits_final\.json"),
        ('[{"train": null}]', r"D202 .*splits_final.*expected a list of case"),
        ('[{"train": "case_00"}]', r"D202 .*splits_final.*expected a list of case"),
        ('[{"train": [1, 2]}]', r"D202 .*splits_final.*expected a list of case"),
    ):
        path.write_text(text)
        with pytest.raises(ScribbleSegError, match=message):
            NnUNetSource(tmp_path).records("train")
    path.unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"3 labelled cases .* at least 5"):
        NnUNetSource(tmp_path).records("train")


def test_dense_labels_are_no_scribbles(tmp_path):
    nnunet_volumes(tmp_path, sparse=False, channels=1)
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*scribbles .*scribblesTr"):
        NnUNetSource(tmp_path).records("train")


def test_files_of_channels(tmp_path):
    nnunet_pictures(tmp_path)
    for number, channel in product(range(6), range(3)):
        grey = photo(number, blocks(number, 3))[..., channel]
        save(tmp_path / "imagesTr" / f"img{number}_000{channel}.png", grey)
    source = NnUNetSource(tmp_path)
    record = source.records("train")[0]
    save(tmp_path / "imagesTr" / f"{record.image_id}_0002.png", grey[:-3])
    with pytest.raises(LabelFormatError, match=r"D201 .*_0002\.png: is 48x37 .* 48x40"):
        source.read_image(record)
    (tmp_path / "imagesTr" / "img1_0001.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*'img1' .*\[0, 2\].*3 channels"):
        NnUNetSource(tmp_path).records("train")
    # a picture may hold three channels, a volume may not
    nnunet_volumes(tmp_path / "volumes", channels=1)
    facts_with(tmp_path / "volumes", channel_names={"0": "T1", "1": "T2", "2": "PD"})
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*'case_00' .*\[0\].*3 channels"):
        NnUNetSource(tmp_path / "volumes").records("train")


def test_test_images_are_predicted(tmp_path):
    nnunet_volumes(tmp_path, channels=1)
    source = NnUNetSource(tmp_path)
    assert NnUNetSource.matches(tmp_path)
    assert len(source.records("predict")) == 6 * SLICES[0]
    with pytest.raises(ScribbleNotFoundError, match=r"imagesTs: holds no case"):
        source.records("test")
    masks = volume_labels(7, 3)
    write_nifti(tmp_path / "imagesTs" / "new_0000.nii.gz", volume_image(7, masks))
    source = NnUNetSource(tmp_path)
    assert [r.image_id for r in source.records("predict")] == [f"new_slice00{i}" for i in range(4)]
    assert not {r.group for r in source.records("train")} & {"new"}
    write_nifti(tmp_path / "imagesTs" / "case_00_0000.nii.gz", volume_image(7, masks))
    with pytest.raises(LabelFormatError, match=r"D303 .*'case_00' is in imagesTr and in imagesTs"):
        NnUNetSource(tmp_path).records("test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"D401 .*dataset\.json: has no `labels`"),
        ({"labels": {"0": "background", "1": "liver"}}, r"D401 .*'0' is 'background'"),
        ({"labels": {"background": 0, "a": [1, 2]}}, r"D401 .*'a' is the region \[1, 2\]"),
        ({"labels": {"background": 0, "a": 2}}, r"D401 .*ids go to 2 and 1 are unused"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, r"D401 .*`ignore` has the id 1"),
        ({"channel_names": None}, r"D401 .*channel_names is None"),
        ({"channel_names": None, "file_ending": None}, r"D401 .*nnU-Net v1.*convert_MSD"),
        ({"labels": {"background": 0, "a": 1, "ignore": "2"}}, r"D401 .*ignore is '2', expected"),
    ],
)
def test_faulty_facts_are_named(tmp_path, changes, message):
    facts_with(nnunet_pictures(tmp_path, cases=1), **changes)
    with pytest.raises(LabelFormatError, match=message):
        NnUNetSource(tmp_path)


def test_faults(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*dataset\.json: does not exist"):
        NnUNetSource(tmp_path)
    nnunet_pictures(tmp_path)
    with pytest.raises(ConfigError, match=r"fold=-1"):
        NnUNetSource(tmp_path, fold=-1)
    save(tmp_path / "imagesTr" / "odd.png", blocks(0, 3))
    with pytest.raises(LabelFormatError, match=r"D301 .*odd\.png: expected a name .*_0000\.png"):
        NnUNetSource(tmp_path).records("train")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(LabelFormatError, match=r"D202 .*dataset\.json"):
        NnUNetSource(tmp_path)
