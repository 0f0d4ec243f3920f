"""MATLAB files are read in a process of their own, whatever happens to it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.internals import internal
from scipy.io import savemat

from scribbleseg import LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import read_mat

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_variables_and_fields(tmp_path):
    savemat(tmp_path / "a.mat", {"LabelMap": IDS.astype(np.uint16), "other": 1})
    key, values = read_mat(tmp_path / "a.mat", ("GTcls.Segmentation", "LabelMap"), "labels")
    assert (key, values.dtype) == ("LabelMap", np.uint16)
    np.testing.assert_array_equal(values, IDS)
    savemat(tmp_path / "b.mat", {"GTcls": {"Segmentation": IDS}})
    np.testing.assert_array_equal(read_mat(tmp_path / "b.mat", ("GTcls.Segmentation",), "")[1], IDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Other": IDS}, r"no variable LabelMap, only \['Other'"),
        ({"LabelMap": IDS.astype(float)}, r"LabelMap is float64 of shape \(3, 4\)"),
        ({"LabelMap": IDS[None]}, r"LabelMap is uint8 of shape \(1, 3, 4\)"),
        ({"LabelMap": "text"}, "LabelMap is"),
    ],
)
def test_other_content(tmp_path, content, message):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(LabelFormatError, match=rf"D202 .*a\.mat: .*{message}.*expected labels of"):
        read_mat(tmp_path / "a.mat", ("LabelMap",), "labels of one image")


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(LabelFormatError, match=r"D202 .*a\.mat: cannot be read"):
        read_mat(tmp_path / "a.mat", ("LabelMap",), "labels")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*none\.mat does not exist"):
        read_mat(tmp_path / "none.mat", ("LabelMap",), "labels")
    os.mkfifo(tmp_path / "pipe.mat")
    with pytest.raises(LabelFormatError, match=r"D202 .*pipe\.mat: .*a pipe"):
        read_mat(tmp_path / "pipe.mat", ("LabelMap",), "labels")


def test_a_crash_of_the_reader_is_an_error_of_the_file(tmp_path, monkeypatch):
    savemat(tmp_path / "a.mat", {"LabelMap": IDS})
    crashing = subprocess.Popen(
        [sys.executable, "-c", "import os; input(); os.abort()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    monkeypatch.setitem(internal("MATLAB")._WORKERS, os.getpid(), crashing)
    with pytest.raises(LabelFormatError, match=r"D202 .*a\.mat: .*the reader crashed"):
        read_mat(tmp_path / "a.mat", ("LabelMap",), "labels")
    # the next file has a new process
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", ("LabelMap",), "labels")[1], IDS)
