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
    stored,
    volume_image,
    volume_labels,
    volume_scribbles,
    write_nifti,
)

from scribbleseg import ConfigError, LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.data import (
    StackCache,
    check_source,
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
        voxels = np.zeros((8, 10, 6), np.int16)
        affine = np.diag([0.8, 1.0, slices, 1])
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / f"c{number}.nii.gz")
        labels = nibabel.Nifti1Image(voxels.astype(np.uint8), affine)
        nibabel.save(labels, tmp_path / f"c{number}_gt.nii.gz")
    headers = [read_stack_header(tmp_path / f"c{number}.nii.gz") for number in range(6)]
    assert [slice_axis_of([header]) for header in headers] == [2, 2, 1, 2, 1, 2]
    assert slice_axis_of(headers) == 2
    options = {"class_names": ["a", "b"], "label_type": "mask"}
    source = NiftiSource(tmp_path, **options)
    assert source.slice_axis == 2
    shapes = {source.read_image(record).shape for record in source.records("predict")}
    assert shapes == {(10, 8, 1)}
    spacings = {round(record.spacing[0], 3) for record in source.records("predict")}
    assert spacings == {6.0, 0.9}
    assert NiftiSource(tmp_path, slice_axis=1, **options).slice_axis == 1


@pytest.mark.parametrize("affine", [LPS_THICK, PIR_THICK, OBLIQUE, np.diag([-3, 1.0, 1.0, 1])])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_predictions_go_back_voxel_by_voxel(tmp_path, affine, axis):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 5, (3, 4, 5), dtype=np.int16)
    reference = tmp_path / "image.nii.gz"
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_slope_inter(1, 0)
    image.header["descrip"] = b"scan 7"
    nibabel.save(image, reference)
    used = slice_axis_of([read_stack_header(reference)]) if axis is None else axis
    stack = read_stack(reference, used)
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


def test_scaled_values_and_labels_do_not_mix(tmp_path):
    reference = write_nifti(tmp_path / "a.nii", volume_labels(0, 3))
    image = nibabel.load(reference)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine)
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "b.nii")
    write_nifti_like(volume_labels(0, 3), tmp_path / "b.nii", tmp_path / "c.nii")
    np.testing.assert_array_equal(read_stack(tmp_path / "c.nii", 2), volume_labels(0, 3))


def test_wrong_predictions_are_refused(tmp_path):
    reference = write_nifti(tmp_path / "a.nii", volume_labels(0, 3))
    with pytest.raises(ValueError, match=r"\(4, 24, 20\), expected \(4, 20, 24\)"):
        write_nifti_like(volume_labels(0, 3).transpose(0, 2, 1), reference, tmp_path / "b.nii")
    with pytest.raises(ValueError, match=r"ids 0 to 300 do not fit"):
        write_nifti_like(volume_labels(0, 3).astype(np.int16) * 150, reference, tmp_path / "b.nii")
    assert not (tmp_path / "b.nii").exists()


def test_ids_that_were_stored_scaled_or_as_floats(tmp_path):
    raw_acdc(tmp_path)
    path = tmp_path / f"{FIRST}_scribble.nii.gz"
    image = nibabel.load(path)
    ids = np.asarray(image.dataobj)
    source = NiftiSource(tmp_path, unlabelled_value=4)
    records = {r.image_id: r for s in ("train", "val") for r in source.records(s)}
    expected = source.read_scribble(records[f"{FIRST}_slice001"])

    def read(values, dtype, slope=None):
        changed = nibabel.Nifti1Image(values, image.affine)
        changed.set_data_dtype(dtype)
        if slope is not None:
            changed.header.set_slope_inter(slope, 0)
        nibabel.save(changed, path)
        own = NiftiSource(tmp_path, unlabelled_value=4)
        return own.read_scribble(records[f"{FIRST}_slice001"])

    for values, dtype in (
        (ids.astype(np.float64), np.int16),  # nibabel chooses a slope of about 1e-4
        (ids.astype(np.float32) - np.float32(1e-7) * (ids > 0), np.float32),
        (ids * 0.9998, np.float64),
    ):
        np.testing.assert_array_equal(read(values, dtype), expected)
    stored = nibabel.load(path).header["datatype"]
    assert stored == 64
    with pytest.raises(LabelFormatError, match=r"D203 .*_scribble\.nii\.gz: .*interpolated"):
        read(ids * 0.99, np.float64)


def test_headers_that_promise_too_much(tmp_path):
    """A file of 1,944 bytes must not ask for gigabytes, packed or not."""
    for name in ("a.nii", "b.nii.gz"):
        image = nibabel.Nifti1Image(np.zeros((11, 12, 12), np.uint8), np.eye(4))
        data = bytearray(image.to_bytes())
        data[40:48] = np.array([3, 2000, 2000, 2000], "<i2").tobytes()
        path = tmp_path / name
        path.write_bytes(gzip.compress(bytes(data)) if name.endswith("gz") else bytes(data))
        for read in (read_stack_header, lambda path: read_stack(path, 2)):
            with pytest.raises(LabelFormatError, match=r"D202 .*promises 8,000,000,000 bytes"):
                read(path)
    with h5py.File(tmp_path / "c.h5", "w") as content:
        content.create_dataset("label", (60000, 60000), "u2", chunks=(64, 64), compression="gzip")
    with (
        pytest.raises(LabelFormatError, match=r"D202 .*c\.h5: .*promises 7,200,000,000"),
        open_hdf5(tmp_path / "c.h5", "slice") as content,
    ):
        read_data_set(content, "label", tmp_path / "c.h5")


def test_damaged_files_are_named(tmp_path):
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
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), np.eye(4)), tmp_path / "c.nii"
    )
    with pytest.raises(LabelFormatError, match=r"D203 .*c\.nii.*\(2, 2, 2, 3\).*one file each"):
        read_stack_header(tmp_path / "c.nii")


def test_axes_of_length_one(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(values, LPS_THICK), tmp_path / "a.nii")
    for name, shape in (("b", (2, 3, 4, 1)), ("c", (2, 3, 4, 1, 1))):
        nibabel.save(
            nibabel.Nifti1Image(values.reshape(shape), LPS_THICK), tmp_path / f"{name}.nii"
        )
        stack = read_stack(tmp_path / f"{name}.nii", 2)
        np.testing.assert_array_equal(stack, read_stack(tmp_path / "a.nii", 2))
        assert read_stack_header(tmp_path / f"{name}.nii").shape(2) == stack.shape == (4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(values[:, :, 0], LPS_THICK), tmp_path / "flat.nii")
    flat = read_stack(tmp_path / "flat.nii", 2)
    np.testing.assert_array_equal(flat[0], read_stack(tmp_path / "a.nii", 2)[0])
    header = read_stack_header(tmp_path / "flat.nii")
    assert header.shape(2) == flat.shape == (1, 3, 2)


def test_volumes_of_colours_or_without_orientation_are_refused(tmp_path):
    colours = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, LPS_THICK), tmp_path / "a.nii")
    with pytest.raises(LabelFormatError, match=r"D203 .*a\.nii: holds colours"):
        read_stack(tmp_path / "a.nii", 2)
    path = write_nifti(tmp_path / "b.nii", volume_labels(0, 3), np.eye(4))
    header = bytearray(path.read_bytes())
    header[320:324] = bytes(4)  # srow_z[2]: what nibabel itself would not write
    path.write_bytes(header)
    with pytest.raises(
        LabelFormatError, match=r"D203 .*b\.nii: its affine has an axis of length 0"
    ):
        read_stack_header(tmp_path / "b.nii")


def test_missing_package(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii", volume_labels(0, 3))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"scribbleseg\[medical\]"):
        read_stack(path, 2)


def test_cache_keeps_what_fits_and_sees_changes(tmp_path):
    made = []

    def stack_of(name):
        def load():
            made.append(name)
            return np.zeros(100, np.uint8)

        return load

    files = {name: write_list(tmp_path / name, [name]) for name in "abc"}
    cache = StackCache(250)
    for name in "aabac":
        cache.get(files[name], "image", stack_of(name))
    assert made == ["a", "b", "c"]
    cache.get(files["a"], "image", stack_of("a"))  # "b" was used longest ago
    cache.get(files["b"], "image", stack_of("b"))
    assert made == ["a", "b", "c", "b"]
    cache.get(files["b"], "label", stack_of("b as label"))
    assert made[-1] == "b as label"
    os.utime(files["b"], ns=(1, 1))
    cache.get(files["b"], "image", stack_of("b again"))
    assert made[-1] == "b again"
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.max_bytes == 250
    copy.get(files["b"], "image", stack_of("b in a worker"))
    assert made[-1] == "b in a worker"
    small = StackCache(10)
    small.get(files["a"], "image", stack_of("one"))
    small.get(files["a"], "image", stack_of("two"))
    assert made[-1] == "one"


# ----------------------------------------------------------------------- source


def test_records_and_arrays_of_raw_acdc(tmp_path):
    source = NiftiSource(raw_acdc(tmp_path), unlabelled_value=4)
    assert source.class_names == ("background", "rv", "myocardium", "lv")
    assert (source.in_channels, source.background) == (1, 0)
    train, val = source.records("train"), source.records("val")
    assert (len(train), len(val)) == (16, 8)
    groups = {record.group for record in val}
    assert not groups & {record.group for record in train}
    assert all(record.mask is None for record in train)
    predict = source.records("predict")
    assert [record.image_id for record in predict[:5]] == [
        *(f"{FIRST}_slice{number:03d}" for number in range(4)),
        "patient002/patient002_frame01_slice000",
    ]
    assert predict[0].spacing == pytest.approx((8.0, 1.25, 1.5))
    record = next(record for record in (*train, *val) if record.image_id == f"{FIRST}_slice002")
    assert record.group == FIRST
    masks = volume_labels(1, 4)
    values = volume_image(1, masks).astype(np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.round(np.clip((values[2] - low) / (high - low), 0, 1) * 255)
    image = source.read_image(record)
    assert (image.dtype, image.shape) == (np.uint8, (20, 24, 1))
    assert np.abs(image[..., 0] - expected).max() <= 1
    np.testing.assert_array_equal(source.read_scribble(record), volume_scribbles(masks)[2])
    np.testing.assert_array_equal(source.read_mask(source.with_mask(record)), masks[2])


def test_folds_cover_every_patient_once(tmp_path):
    raw_acdc(tmp_path)
    held_out = [
        {record.group for record in NiftiSource(tmp_path, fold=fold).records("val")}
        for fold in range(5)
    ]
    assert sorted(len(groups) for groups in held_out) == [1, 1, 1, 1, 2]
    assert len(set().union(*held_out)) == 6


def test_two_frames_of_a_patient_stay_together(tmp_path):
    for patient in range(5):
        for frame in (1, 12):
            masks = volume_labels(patient, 3)
            name = f"p{patient}_f{frame}"
            write_nifti(tmp_path / f"{name}.nii.gz", volume_image(patient, masks))
            write_nifti(tmp_path / f"{name}_gt.nii.gz", masks)
    options = {"class_names": ["a", "b", "c"], "label_type": "mask"}
    source = NiftiSource(tmp_path, patient_regex=r"^(p\d+)_", **options)
    val = {record.group for record in source.records("val")}
    assert len(val) == 2
    assert len({group.split("_")[0] for group in val}) == 1
    record = source.records("train")[0]
    np.testing.assert_array_equal(
        source.read_scribble(record), volume_labels(int(record.group[1]), 3)[0]
    )
    assert NiftiSource.matches(tmp_path)


def test_separate_folders_and_lists(tmp_path):
    for number in range(3):
        masks = volume_labels(number, 3)
        write_nifti(tmp_path / "imagesTr" / f"w_{number}.nii.gz", volume_image(number, masks))
        write_nifti(tmp_path / "labelsTr" / f"w_{number}.nii.gz", masks)
        write_nifti(tmp_path / "scribblesTr" / f"w_{number}.nii.gz", volume_scribbles(masks, 0))
    write_list(tmp_path / "train.txt", ["w_2", "w_0.nii.gz"])
    write_list(tmp_path / "val.txt", ["w_1"])
    options = {
        "class_names": ["other", "liver", "spleen"],
        "image_dir": "imagesTr",
        "mask_dir": "labelsTr",
        "mask_suffix": ".nii.gz",
        "scribble_dir": "scribblesTr",
        "scribble_suffix": ".nii.gz",
        "unlabelled_value": 0,
        "channels": 3,
        "intensity": {"mode": "range", "low": 0, "high": 510},
    }
    source = NiftiSource(tmp_path, **options)
    assert {record.group for record in source.records("train")} == {"w_0", "w_2"}
    record = source.records("val")[1]
    image = source.read_image(record)
    values = volume_image(1, volume_labels(1, 3))[1]
    np.testing.assert_array_equal(image[..., 1], np.round(np.clip(values, 0, 510) / 2))
    assert image.shape == (20, 24, 3)
    scribble = volume_scribbles(volume_labels(1, 3))[1]
    np.testing.assert_array_equal(
        source.read_scribble(record), np.where(scribble == 0, 255, scribble)
    )
    write_list(tmp_path / "val.txt", ["w_9"])
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*val\.txt: 1 of 1 cases .*w_9"):
        NiftiSource(tmp_path, **options).records("val")


def test_check_finds_faults_and_counts(tmp_path, caplog):
    raw_acdc(tmp_path)
    report = check_source(NiftiSource(tmp_path, unlabelled_value=4))
    assert not report.errors
    assert report.statistics["all"]["disagreement_percent"] == 0
    assert "patient001_4d.nii.gz" in caplog.text
    report = check_source(NiftiSource(tmp_path))
    assert {finding.code for finding in report.errors} == {"D101"}
    assert "patient00" in report.errors[0].message
    assert "`unlabelled_value: 4`" in report.errors[0].message


def test_labels_of_another_grid(tmp_path):
    raw_acdc(tmp_path)
    path = tmp_path / f"{FIRST}_scribble.nii.gz"
    write_nifti(path, volume_scribbles(volume_labels(1, 4), 4)[:, :-2])
    source = NiftiSource(tmp_path, unlabelled_value=4)
    records = {r.image_id: r for s in ("train", "val") for r in source.records(s)}
    with pytest.raises(LabelFormatError, match=r"D201 .*_scribble\.nii\.gz.*24x18.*24x20.*frame01"):
        source.read_scribble(records[f"{FIRST}_slice000"])


def test_labels_of_another_spacing_or_place(tmp_path, caplog):
    raw_acdc(tmp_path)
    path = tmp_path / f"{FIRST}_scribble.nii.gz"
    image = nibabel.load(path)
    ids, affine = np.asarray(image.dataobj), image.affine
    source = NiftiSource(tmp_path, unlabelled_value=4)
    records = {r.image_id: r for s in ("train", "val") for r in source.records(s)}
    record = records[f"{FIRST}_slice000"]
    nibabel.save(nibabel.Nifti1Image(ids, affine @ np.diag([2, 1, 1, 1.0])), path)
    with pytest.raises(LabelFormatError, match=r"D201 .*_scribble.*its voxels are 3x1.25x8 mm"):
        source.read_scribble(record)
    moved = affine.copy()
    moved[:3, 3] += 5  # compared voxel by voxel all the same
    nibabel.save(nibabel.Nifti1Image(ids, moved), path)
    assert (source.read_scribble(record) != 255).any()
    (problem,) = source.problems()
    assert (problem.code, problem.severity) == ("D201", "warning")
    assert "origin or direction differs" in problem.message


def test_volumes_are_read_once(tmp_path, monkeypatch):
    source = NiftiSource(raw_acdc(tmp_path), unlabelled_value=4)
    reads = []

    def counted(path, axis):
        reads.append(path.name)
        return read_stack(path, axis)

    monkeypatch.setattr(internal("volumes"), "read_stack", counted)
    for _ in range(2):
        for record in source.records("train"):
            source.read_image(record)
            source.read_scribble(record)
    assert len(reads) == len(set(reads)) == 8


def test_options_are_checked(tmp_path):
    raw_acdc(tmp_path, patients=1)
    with pytest.raises(ConfigError, match=r"fold=5: expected 0 to 4"):
        NiftiSource(tmp_path, fold=5)
    with pytest.raises(ConfigError, match=r"channels=2"):
        NiftiSource(tmp_path, channels=2)
    with pytest.raises(ConfigError, match=r"slice_axis=3"):
        NiftiSource(tmp_path, slice_axis=3)
    with pytest.raises(ConfigError, match=r"image_suffix and mask_suffix are both '\.nii\.gz'"):
        NiftiSource(tmp_path, mask_suffix=".nii.gz")
    with pytest.raises(ConfigError, match=r"scribble_suffix='_scribble\.png'"):
        NiftiSource(tmp_path, scribble_suffix="_scribble.png")
    with pytest.raises(ConfigError, match=r"patient_regex='\('"):
        NiftiSource(tmp_path, patient_regex="(")
    with pytest.raises(ConfigError, match=r"class_names=\['a', 'A'\]"):
        NiftiSource(tmp_path, class_names=["a", "A"])
    with pytest.raises(ConfigError, match=r"cache_mib=-1"):
        NiftiSource(tmp_path, cache_mib=-1)
    with pytest.raises(ScribbleNotFoundError, match=r"1 labelled cases of 1 patients"):
        NiftiSource(tmp_path).records("train")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"no class file"):
        NiftiSource(tmp_path)
    with pytest.raises(ScribbleNotFoundError, match=r"no such folder"):
        NiftiSource(tmp_path / "none")


def test_source_can_be_sent_to_workers(tmp_path):
    source = NiftiSource(raw_acdc(tmp_path), unlabelled_value=4)
    record = source.records("train")[0]
    image = source.read_image(record)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read_image(record), image)


def test_helper_writes_what_it_says():
    slices = volume_labels(0, 3)
    voxels = stored(slices, np.eye(4))
    assert voxels.shape == (24, 20, 4)
    # left and front: first column, first row
    assert voxels[0, -1, 2] == slices[2, 0, 0]
    np.testing.assert_array_equal(voxels[3, ::-1, 1], slices[1, :, 3])
