import gzip
import os
import pickle
import sys

import h5py
import nibabel
import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import write_list
from helpers.trees_medical import (
    LPS_THICK,
    SLICES,
    raw_acdc,
    volume_image,
    volume_labels,
    write_nifti,
)

from scribbleseg import ConfigError, LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.data import (
    StackCache,
    open_hdf5,
    read_data_set,
    read_stack,
    read_stack_header,
    slice_axis_of,
    write_nifti_like,
)
from scribbleseg.data.sources import NiftiSource

PIR_THICK = np.array([[0, 0, 2.0, 1], [-1.0, 0, 0, 2], [0, -6.0, 0, 3], [0, 0, 0, 1]])
OBLIQUE = LPS_THICK @ np.array([[1, 0.1, 0, 5], [-0.1, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
FIRST = "patient001/patient001_frame01"


def record_of(source, image_id):
    """The record of an image, whatever its split."""
    records = [record for split in ("train", "val") for record in source.records(split)]
    return next(record for record in records if record.image_id == image_id)


# ---------------------------------------------------------------------- volumes


@pytest.mark.parametrize("affine", [LPS_THICK, np.diag([1.5, 1.25, 8, 1]), OBLIQUE])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_slices_are_the_same_whatever_the_stored_order(tmp_path, affine, suffix):
    slices = volume_image(3, volume_labels(3, 4))
    path = write_nifti(tmp_path / f"a{suffix}", slices, affine)
    header = read_stack_header(path)
    assert (header.shape(2), slice_axis_of([header])) == (SLICES, 2)
    np.testing.assert_allclose(header.spacing(2), (8, 1.25, 1.5), rtol=0.02)
    np.testing.assert_array_equal(read_stack(path, 2), slices)


def test_slice_axis_is_the_one_with_the_largest_spacing(tmp_path):
    ras = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(ras, np.diag([1.0, 5.0, 2.0, 1])), path)
    header = read_stack_header(path)
    assert (header.lengths, header.zooms, header.orientation) == ((2, 3, 4), (1, 5, 2), "RAS")
    assert (slice_axis_of([header]), header.shape(1), header.spacing(1)) == (
        1,
        (3, 4, 2),
        (5, 2, 1),
    )
    # columns run from left to right, rows from head to feet
    np.testing.assert_array_equal(read_stack(path, 1)[1], ras[:, 1, ::-1].T)
    assert header.shape(0) == read_stack(path, 0).shape == (2, 4, 3)
    nibabel.save(nibabel.Nifti1Image(ras, np.eye(4)), path)
    assert slice_axis_of([read_stack_header(path)]) == 2


def test_a_data_set_has_one_slice_axis(tmp_path):
    # four scans of thick axial slices, two nearly isotropic ones whose rows are widest
    for number, slices in enumerate((6.0, 6.0, 0.9, 6.0, 0.9, 6.0)):
        image = nibabel.Nifti1Image(np.zeros((8, 10, 6), np.uint8), np.diag([0.8, 1, slices, 1]))
        nibabel.save(image, tmp_path / f"c{number}.nii.gz")
        nibabel.save(image, tmp_path / f"c{number}_gt.nii.gz")
    headers = [read_stack_header(tmp_path / f"c{number}.nii.gz") for number in range(6)]
    assert [slice_axis_of([header]) for header in headers] == [2, 2, 1, 2, 1, 2]
    assert slice_axis_of(headers) == 2
    options = {"class_names": ["a", "b"], "label_type": "mask"}
    source = NiftiSource(tmp_path, **options)
    assert source.slice_axis == 2
    records = source.records("predict")
    assert {source.read_image(record).shape for record in records} == {(10, 8, 1)}
    assert {round(record.spacing[0], 3) for record in records} == {6.0, 0.9}
    assert NiftiSource(tmp_path, slice_axis=1, **options).slice_axis == 1


@pytest.mark.parametrize("affine", [LPS_THICK, PIR_THICK, OBLIQUE, np.diag([-3, 1.0, 1.0, 1])])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_predictions_go_back_voxel_by_voxel(tmp_path, affine, axis):
    voxels = np.random.default_rng(0).integers(0, 5, (3, 4, 5), dtype=np.int16)
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_slope_inter(0.5, 3)  # of intensities, not of labels
    image.header["descrip"] = b"scan 7"
    reference = tmp_path / "image.nii.gz"
    nibabel.save(image, reference)
    used = slice_axis_of([read_stack_header(reference)]) if axis is None else axis
    stack = np.round(2 * (read_stack(reference, used) - 3)).astype(np.int64)
    target = tmp_path / "out" / "prediction.nii.gz"
    write_nifti_like(stack, reference, target, axis=axis)
    written = nibabel.load(target)
    np.testing.assert_array_equal(np.asarray(written.dataobj), voxels)
    np.testing.assert_array_equal(written.affine, nibabel.load(reference).affine)
    assert written.get_data_dtype() == np.uint8
    assert bytes(written.header["descrip"]).startswith(b"scan 7")
    np.testing.assert_array_equal(read_stack(target, used), stack)
    before = target.read_bytes()
    write_nifti_like(stack, reference, target, axis=axis)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["prediction.nii.gz"]


def test_wrong_predictions_are_refused(tmp_path):
    labels = volume_labels(0, 3)
    reference = write_nifti(tmp_path / "a.nii", labels)
    for wrong, message in (
        (labels.transpose(0, 2, 1), r"\(4, 24, 20\), expected \(4, 20, 24\)"),
        (labels.astype(np.int16) * 150, r"ids 0 to 300 do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            write_nifti_like(wrong, reference, tmp_path / "b.nii")
    assert not (tmp_path / "b.nii").exists()


def test_ids_that_were_stored_scaled_or_as_floats(tmp_path):
    raw_acdc(tmp_path)
    path = tmp_path / f"{FIRST}_scribble.nii.gz"
    image = nibabel.load(path)
    ids = np.asarray(image.dataobj)

    def read(values, dtype):
        changed = nibabel.Nifti1Image(values, image.affine)
        changed.set_data_dtype(dtype)
        nibabel.save(changed, path)
        source = NiftiSource(tmp_path, unlabelled_value=4)
        return source.read_scribble(record_of(source, f"{FIRST}_slice001"))

    expected = read(ids, np.uint8)
    for values, dtype in (
        (ids.astype(np.float64), np.int16),  # nibabel chooses a slope of about 1e-4
        (ids.astype(np.float32) - np.float32(1e-7) * (ids > 0), np.float32),
        (ids * 0.9998, np.float64),
    ):
        np.testing.assert_array_equal(read(values, dtype), expected)
    with pytest.raises(LabelFormatError, match=r"D203 .*_scribble\.nii\.gz: .*interpolated"):
        read(ids * 0.99, np.float64)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.h5"])
def test_headers_that_promise_too_much(tmp_path, name):
    """A file of 2 kB must not ask for gigabytes, packed or not."""
    path = tmp_path / name
    if name.endswith(".h5"):
        with h5py.File(path, "w") as content:
            content.create_dataset("label", (60000, 60000), "u2", chunks=(64, 64))
        message = r"D202 .*a\.h5: .*promises 7,200,000,000"
        with pytest.raises(LabelFormatError, match=message), open_hdf5(path, "slice") as content:
            read_data_set(content, "label", path)
        return
    data = bytearray(nibabel.Nifti1Image(np.zeros((11, 12, 12), np.uint8), np.eye(4)).to_bytes())
    data[40:48] = np.array([3, 2000, 2000, 2000], "<i2").tobytes()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    for read in (read_stack_header, lambda path: read_stack(path, 2)):
        with pytest.raises(LabelFormatError, match=r"D202 .*promises 8,000,000,000 bytes"):
            read(path)


def test_faulty_files_are_named(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", volume_labels(0, 3))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(LabelFormatError, match=r"D202 .*a\.nii\.gz.*copy it again"):
        read_stack(path, 2)
    path.write_bytes(b"no volume")
    with pytest.raises(LabelFormatError, match=r"D202 .*a\.nii\.gz"):
        read_stack_header(path)
    with pytest.raises(ScribbleNotFoundError, match=r"b\.nii does not exist"):
        read_stack(tmp_path / "b.nii", 2)
    colours = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for values, message in (
        (np.zeros((2, 2, 2, 3), np.int16), r"D203 .*c\.nii.*\(2, 2, 2, 3\).*one file each"),
        (colours, r"D203 .*c\.nii: holds colours"),
    ):
        nibabel.save(nibabel.Nifti1Image(values, LPS_THICK), tmp_path / "c.nii")
        with pytest.raises(LabelFormatError, match=message):
            read_stack(tmp_path / "c.nii", 2)
    path = write_nifti(tmp_path / "d.nii", volume_labels(0, 3), np.eye(4))
    header = bytearray(path.read_bytes())
    header[320:324] = bytes(4)  # srow_z[2]: what nibabel itself would not write
    path.write_bytes(header)
    with pytest.raises(LabelFormatError, match=r"D203 .*d\.nii: .*an axis of length 0"):
        read_stack_header(path)


def test_axes_of_length_one(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    whole = np.ascontiguousarray(values.transpose(2, 1, 0)[:, :, ::-1])  # LPS: columns run left
    for shape, expected in (
        ((2, 3, 4), whole),
        ((2, 3, 4, 1), whole),
        ((2, 3, 4, 1, 1), whole),
        ((2, 3), whole[:1]),
    ):
        stored = values if len(shape) > 2 else values[:, :, 0]
        image = nibabel.Nifti1Image(stored.reshape(shape), LPS_THICK)
        nibabel.save(image, tmp_path / "a.nii")
        stack = read_stack(tmp_path / "a.nii", 2)
        np.testing.assert_array_equal(stack, expected)
        assert read_stack_header(tmp_path / "a.nii").shape(2) == stack.shape


def test_missing_package(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii", volume_labels(0, 3))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"scribbleseg\[medical\]"):
        read_stack(path, 2)


def test_cache_keeps_what_fits_and_sees_changes(tmp_path):
    made = []
    files = {name: write_list(tmp_path / name, [name]) for name in "abc"}

    def get(cache, name, kind="image"):
        def load():
            made.append(f"{kind} {name}")
            return np.zeros(100, np.uint8)

        cache.get(files[name], kind, load)
        return len(made)

    cache = StackCache(250)
    assert [get(cache, name) for name in "aabac"] == [1, 1, 2, 2, 3]
    # "b" was used longest ago, and is dropped
    assert [get(cache, name) for name in "ab"] == [3, 4]
    assert get(cache, "b", "label") == 5
    os.utime(files["b"], ns=(1, 1))
    assert get(cache, "b") == 6
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.max_bytes, get(copy, "b")) == (250, 7)
    small = StackCache(10)  # keeps one stack all the same
    assert [get(small, "a"), get(small, "a")] == [8, 8]


# ----------------------------------------------------------------------- source


def test_folds_never_divide_a_patient(tmp_path):
    for patient in range(6):
        for frame in (1, 12):
            path = tmp_path / f"p{patient}_f{frame}.nii.gz"
            write_nifti(path, volume_labels(patient, 3))
            write_nifti(path.with_name(path.name.replace(".nii", "_gt.nii")), volume_labels(0, 3))
    assert NiftiSource.matches(tmp_path)
    options = {"class_names": ["a", "b", "c"], "label_type": "mask", "patient_regex": r"^(p\d+)_"}
    held_out: list[str] = []
    for fold in range(5):
        source = NiftiSource(tmp_path, fold=fold, **options)
        cases = {record.group for record in source.records("val")}
        assert not cases & {record.group for record in source.records("train")}
        patients = sorted({case.split("_")[0] for case in cases})
        assert len(cases) == 2 * len(patients)
        held_out += patients
    assert sorted(held_out) == [f"p{patient}" for patient in range(6)]


def test_lists_of_cases(tmp_path, caplog):
    raw_acdc(tmp_path)
    write_list(tmp_path / "train.txt", [f"{FIRST}.nii.gz", "patient002/patient002_frame01"])
    write_list(tmp_path / "val.txt", ["patient003/patient003_frame01", "patient009/frame01"])
    source = NiftiSource(tmp_path, unlabelled_value=4)
    groups = {record.group for record in source.records("train")}
    assert groups == {FIRST, "patient002/patient002_frame01"}
    assert "patient001_4d.nii.gz" in caplog.text  # is left out
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*val\.txt: 1 of 2 cases .*patient009"):
        source.records("val")


def test_labels_of_another_grid(tmp_path):
    raw_acdc(tmp_path)
    path = tmp_path / f"{FIRST}_scribble.nii.gz"
    image = nibabel.load(path)
    ids, affine = np.asarray(image.dataobj), image.affine
    source = NiftiSource(tmp_path, unlabelled_value=4)
    record = record_of(source, f"{FIRST}_slice000")
    wrong = {
        "1.5x1.25x8 mm, 24x18x4 of them": (ids[:, 2:], affine),
        "3x1.25x8 mm": (ids, affine @ np.diag([2, 1, 1, 1.0])),
        "1.5x1.25x8 mm, 24x20x4 of them, whose axes point to RPS": (
            ids,
            np.diag([-1, 1, 1, 1.0]) @ affine,
        ),
    }
    for own, (values, changed) in wrong.items():
        nibabel.save(nibabel.Nifti1Image(values, changed), path)
        message = rf"D201 .*_scribble\.nii\.gz: its voxels are {own}.*frame01\.nii\.gz 1\.5x1\.25x8"
        with pytest.raises(LabelFormatError, match=message):
            source.read_scribble(record)
    moved = affine.copy()
    moved[:3, 3] += 5  # compared voxel by voxel all the same
    nibabel.save(nibabel.Nifti1Image(ids, moved), path)
    assert (source.read_scribble(record) != 255).any()
    (problem,) = source.problems()
    assert (problem.code, problem.severity) == ("D201", "warning")
    assert "origin or direction differs" in problem.message


def test_distances_are_millimetres_whatever_the_unit_of_the_file(tmp_path):
    for unit, scale in (("mm", 1), ("micron", 1000), ("meter", 0.001), ("unknown", 1)):
        affine = np.diag([*np.array([1.5, 1.25, 8]) * scale, 1])
        image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), affine)
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / "a.nii")
        zooms = read_stack_header(tmp_path / "a.nii").zooms
        np.testing.assert_allclose(zooms, (1.5, 1.25, 8), rtol=1e-5)


def test_volumes_are_read_once_in_every_process(tmp_path, monkeypatch):
    source = NiftiSource(raw_acdc(tmp_path), unlabelled_value=4)
    reads = []

    def counted(path, axis):
        reads.append(path.name)
        return read_stack(path, axis)

    monkeypatch.setattr(internal("volumes"), "read_stack", counted)
    records = source.records("train")
    for _ in range(2):
        images = [
            (source.read_image(record), source.read_scribble(record))[0] for record in records
        ]
    assert len(reads) == len(set(reads)) == 8
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read_image(records[0]), images[0])
    assert len(reads) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, r"fold=5: expected one of 0, 1, 2, 3, 4"),
        ({"channels": 2}, r"channels=2"),
        ({"slice_axis": 3}, r"slice_axis=3"),
        ({"mask_suffix": ".nii.gz"}, r"image_suffix and mask_suffix are both '\.nii\.gz'"),
        ({"scribble_suffix": "_scribble.png"}, r"scribble_suffix='_scribble\.png'"),
        ({"patient_regex": "("}, r"patient_regex='\('"),
        ({"class_names": ["a", "A"]}, r"D401 class_names: class name 'A' \(id 1\) is used twice"),
        ({"class_names": ["a", "b"], "background": 2}, r"D401 class_names: background names 2"),
        ({"cache_mib": -1}, r"cache_mib=-1"),
        ({"label_type": "box"}, r"label_type='box': clicks and boxes of volumes"),
    ],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises((ConfigError, LabelFormatError), match=message):
        NiftiSource(raw_acdc(tmp_path, patients=1), **options)


def test_a_pattern_that_searches_for_ever_is_refused(tmp_path):
    source = NiftiSource(raw_acdc(tmp_path), patient_regex="([a-z0-9/_]+)+!")
    with pytest.raises(ConfigError, match="first_id=2: expected one of None, 0, 1"):
        NiftiSource(tmp_path, first_id=2)
    with pytest.raises(ConfigError, match=r"D501 patient_regex='.*write each part once"):
        source.records("train")


def test_what_is_missing_is_named(tmp_path):
    raw_acdc(tmp_path, patients=1)
    with pytest.raises(ScribbleNotFoundError, match=r"1 labelled cases of 1 patients"):
        NiftiSource(tmp_path).records("train")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"no class file"):
        NiftiSource(tmp_path)
    with pytest.raises(ScribbleNotFoundError, match=r"no such folder"):
        NiftiSource(tmp_path / "none")
