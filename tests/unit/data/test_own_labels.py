"""Files that cross tools: labels of our own commands, volumes, deep images, odd names."""

from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest
from helpers.tiny_folders import plain_folder
from helpers.trees_medical import raw_acdc

from scribbleseg import LabelFormatError
from scribbleseg.data import convert_source, synthesize_folder
from scribbleseg.data.sources import FolderSource, NiftiSource
from scribbleseg.functional import Intensity


def test_drawn_scribbles_keep_the_background_where_zero_means_not_drawn(tmp_path) -> None:
    root = plain_folder(tmp_path)
    source = FolderSource(root, unlabelled_value=0)
    synthesize_folder(source, root / "drawn", progress=False)
    again = FolderSource(root, unlabelled_value=0, scribble_dir="drawn")
    ids: set[int] = set()
    for record in again.records("train"):
        scribble, mask = again.read_scribble(record), source.read_mask(source.with_mask(record))
        assert (scribble == mask)[scribble != 255].all()
        ids |= set(np.unique(scribble).tolist())
    assert {0, 255} < ids


def test_labels_with_another_orientation_than_their_image_are_refused(tmp_path) -> None:
    root = raw_acdc(tmp_path)
    path = root / "patient001" / "patient001_frame01_scribble.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), path)
    source = NiftiSource(root, unlabelled_value=4)
    record = next(
        r for split in ("train", "val") for r in source.records(split) if "patient001" in r.image_id
    )
    with pytest.raises(LabelFormatError, match=r"D201 .*_scribble.*point to RAS.*LPS"):
        source.read_scribble(record)


def test_converted_volumes_have_the_pixels_of_the_window(tmp_path) -> None:
    source = NiftiSource(
        raw_acdc(tmp_path / "raw"), unlabelled_value=4, intensity=Intensity("range", -100, 600)
    )
    convert_source(source, tmp_path / "plain", progress=False)
    plain = FolderSource(tmp_path / "plain")
    for split in ("train", "val"):
        for ours, theirs in zip(plain.records(split), source.records(split), strict=True):
            assert ours.image_id == theirs.image_id
            expected = source.read_image(theirs)
            assert (plain.read_image(ours)[..., :1] == expected[..., :1]).all()


def test_slices_are_no_views_of_the_cache(tmp_path) -> None:
    source = NiftiSource(raw_acdc(tmp_path), unlabelled_value=4)
    record = source.records("train")[0]
    before = source.read_image(record).copy()
    source.read_image(record)[:] = 0
    assert (source.read_image(record) == before).all()


def test_names_that_are_not_unicode_are_refused(tmp_path) -> None:
    root = plain_folder(tmp_path)
    image = min((root / "images").iterdir())
    try:
        image.rename(image.with_name(os.fsdecode(b"caf\xe9.png")))
    except OSError:
        pytest.skip("this file system holds Unicode names only")
    with pytest.raises(LabelFormatError, match=r"D501 .*caf.*not UTF-8.*convmv"):
        FolderSource(root).records("predict")
