"""Tiny medical data sets on disk: NIfTI volumes beside their labels, nnU-Net folders."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import tifffile
from helpers.tiny_folders import blocks, photo, save, scribble_of, write_list

SLICES = (4, 20, 24)
"""Slices, rows and columns of every volume."""

LPS_THICK = np.diag([-1.5, -1.25, 8.0, 1.0])
"""As DICOM converters write it: columns run to the left, rows to the back, slices of 8 mm."""


def volume_labels(seed: int, classes: int, shape: tuple[int, int, int] = SLICES) -> np.ndarray:
    """Dense ids, shape ``(slices, H, W)``: no slice like another, upside down or mirrored."""
    stack = np.stack([blocks(seed + number, classes, shape[1:]) for number in range(shape[0])])
    stack[:, :3] = 0
    return stack


def volume_scribbles(masks: np.ndarray, unlabelled: int = 255) -> np.ndarray:
    stack = np.stack([scribble_of(mask) for mask in masks])
    return np.where(stack == 255, unlabelled, stack).astype(np.uint8)


def volume_image(seed: int, masks: np.ndarray) -> np.ndarray:
    """int16 intensities that depend on the class, different in every slice."""
    noise = np.random.default_rng(seed).integers(0, 40, masks.shape)
    return (masks.astype(np.int16) * 300 + noise - 100).astype(np.int16)


def stored(slices: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxels as they lie in a file of this affine; slices ``(N, H, W)`` are seen in RAS.

    Rows of a slice run from front to back and columns from left to right, slices feet to head.
    """
    ras = slices[:, ::-1].transpose(2, 1, 0)
    wanted = nibabel.orientations.io_orientation(affine)
    own = nibabel.orientations.axcodes2ornt("RAS")
    change = nibabel.orientations.ornt_transform(own, wanted)
    return nibabel.orientations.apply_orientation(ras, change)


def write_nifti(path: Path, slices: np.ndarray, affine: np.ndarray = LPS_THICK) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stored(slices, affine), affine), path)
    return path


def raw_acdc(root: Path, *, patients: int = 6, unlabelled: int = 4) -> Path:
    """``patientPPP/patientPPP_frame01.nii.gz`` with ``_gt`` and ``_scribble``, and a 4-D series."""
    for patient in range(1, patients + 1):
        name = f"patient{patient:03d}"
        masks = volume_labels(patient, 4)
        base = root / name / f"{name}_frame01"
        write_nifti(base.with_name(f"{base.name}.nii.gz"), volume_image(patient, masks))
        write_nifti(base.with_name(f"{base.name}_gt.nii.gz"), masks)
        scribbles = volume_scribbles(masks, unlabelled)
        write_nifti(base.with_name(f"{base.name}_scribble.nii.gz"), scribbles)
    series = nibabel.Nifti1Image(np.zeros((4, 4, 2, 3), np.int16), LPS_THICK)
    nibabel.save(series, root / "patient001" / "patient001_4d.nii.gz")
    write_list(root / "classes.txt", ["background", "rv", "myocardium", "lv"])
    return root


def nnunet_volumes(
    root: Path, *, cases: int = 6, channels: int = 2, sparse: bool = True, ending: str = ".nii.gz"
) -> Path:
    """A raw folder of volumes; with ``sparse`` the labels have ``ignore`` = 3."""
    for number in range(cases):
        masks = volume_labels(number, 3)
        for channel in range(channels):
            path = root / "imagesTr" / f"case_{number:02d}_{channel:04d}{ending}"
            write_nifti(path, volume_image(10 * number + channel, masks))
        labels = volume_scribbles(masks, 3) if sparse else masks
        write_nifti(root / "labelsTr" / f"case_{number:02d}{ending}", labels)
    facts = {
        "channel_names": {str(channel): f"MR{channel}" for channel in range(channels)},
        "labels": {"background": 0, "liver": 1, "spleen": 2} | ({"ignore": 3} if sparse else {}),
        "numTraining": cases,
        "file_ending": ending,
    }
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return root


def nnunet_pictures(root: Path, *, cases: int = 6) -> Path:
    """A raw folder of RGB pictures (three channels in one file) with sparse labels."""
    for number in range(cases):
        mask = blocks(number, 3)
        save(root / "imagesTr" / f"img{number}_0000.png", photo(number, mask))
        scribble = scribble_of(mask)
        scribble[scribble == 255] = 3
        save(root / "labelsTr" / f"img{number}.png", scribble)
        save(root / "masksTr" / f"img{number}.png", mask)
    facts = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "cell": 1, "vessel": 2, "ignore": 3},
        "numTraining": cases,
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return root


def channel_folder(root: Path, kind: str, *, images: int = 6) -> Path:
    """A plain folder whose images are ``"deep"`` (16-bit grey PNG) or ``"bands"`` (4-band TIFF)."""
    stems = [f"img_{number}" for number in range(images)]
    for number, stem in enumerate(stems):
        mask = blocks(number, 3)
        save(root / "scribbles" / f"{stem}.png", scribble_of(mask))
        save(root / "masks" / f"{stem}.png", mask)
        colours = photo(number, mask)
        if kind == "deep":
            save(root / "images" / f"{stem}.png", colours[..., 0].astype(np.uint16) * 200 + 1000)
        else:
            path = root / "images" / f"{stem}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            bands = np.concatenate([colours, colours[..., :1] // 2], axis=2).astype(np.uint16) * 16
            tifffile.imwrite(path, bands.transpose(2, 0, 1), photometric="minisblack")
    write_list(root / "classes.txt", ["background", "cell", "vessel"])
    write_list(root / "train.txt", stems[:-2])
    write_list(root / "val.txt", stems[-2:])
    options = "channels: 1\n" if kind == "deep" else "channels: 4\nrgb_channels: [2, 1, 0]\n"
    (root / "dataset.yaml").write_text(options, encoding="utf-8")
    return root
