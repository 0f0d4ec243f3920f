"""Data commands start without torch, and Ctrl-C at any time is one sentence."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.internals import internal
from helpers.tiny_folders import plain_folder

import scribbleseg
import scribbleseg.data
from scribbleseg.data import main as run_main

with_progress = internal("image job").with_progress
HEAVY = ("torch", "lightning", "albumentations", "torchvision", "skimage", "matplotlib")
INTERRUPTED_IMPORT = """
import os, signal, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "scribbleseg.data.jobs.convert":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
from scribbleseg.data.__main__ import main
sys.exit(main(["--help"]))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_commands_start_without_torch(tmp_path):
    root = plain_folder(tmp_path / "data")
    code = (
        "import sys; from scribbleseg.data.__main__ import main\n"
        f"status = main(['synthesize', {str(root)!r}, '--out', {str(tmp_path / 'out')!r}, "
        "'--workers', '0'])\n"
        f"print(status, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    finished = run(code)
    assert finished.stdout.splitlines()[-1] == "0 []", finished.stderr


def test_check_starts_without_torch(tmp_path):
    root = plain_folder(tmp_path / "data")
    heavy = HEAVY[:4]
    code = (
        "import sys; from scribbleseg.data.__main__ import main\n"
        f"main(['check', {str(root)!r}])\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    finished = run(code)
    assert finished.stdout.splitlines()[-1] == "[]", finished.stderr


def test_the_package_imports_nothing_until_a_name_is_used():
    code = (
        "import sys, scribbleseg, scribbleseg.data\n"
        f"print([name for name in ('numpy', *{HEAVY!r}) if name in sys.modules])"
    )
    assert run(code).stdout.strip() == "[]"


@pytest.mark.parametrize("package", [scribbleseg, scribbleseg.data])
def test_every_public_name_is_found_and_listed(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    assert not hasattr(package, "no_such_name")
    with pytest.raises(ImportError, match="no_such_name"):
        exec(f"from {package.__name__} import no_such_name")


def test_subpackages_are_attributes():
    assert scribbleseg.methods.PFAModule is scribbleseg.PFAModule
    assert scribbleseg.data.ScribbleDataModule is scribbleseg.ScribbleDataModule


@pytest.fixture(autouse=True)
def _interrupts_count():
    """Whoever starts the tests in the background of a shell has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interruption_while_packages_are_imported():
    finished = run(INTERRUPTED_IMPORT)
    assert finished.returncode == 130
    assert finished.stderr == "\ninterrupted: no label or image was changed\n"


def test_interruption_waits_until_processes_have_started():
    done, passed = threading.Event(), []
    # it may take the signal that the main thread blocks
    idle = threading.Thread(target=done.wait, daemon=True)
    idle.start()
    before = signal.getsignal(signal.SIGINT)

    def start():
        with internal("processes")._interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(20):
                time.sleep(0.005)
            passed.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        done.set()
    assert passed, "the interrupt came in the middle"
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with internal("processes")._interrupts_held():
        passed.append(True)
    assert len(passed) == 2, "nothing is raised without an interrupt"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_interruption_while_files_are_written(tmp_path, workers):
    root, out = plain_folder(tmp_path / "data"), tmp_path / "out"
    command = [sys.executable, "-m", "scribbleseg.data", "propagate", str(root)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--workers", workers],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (out / "manifest.json").exists():
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert "Traceback" not in messages, messages
    assert process.returncode in (130, 0), messages
    if process.returncode == 130:
        assert f"interrupted: finished images stay in {out}" in messages
        assert len([line for line in messages.splitlines() if "interrupted" in line]) == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_of_a_data_job(terminal, capsys, monkeypatch):
    # every image takes 12 seconds; a log file gets news after 30, a terminal at once
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)

    def work():
        for number in range(10):
            yield number
            now[0] += 12

    assert list(with_progress(work(), 10, "propagate", enabled=True)) == [*range(10)]
    text = capsys.readouterr().err
    found = [int(number) for number in re.findall(r"propagate: .*?\| (\d+)/10 \[", text)]
    if terminal:
        assert len(set(found)) >= 9
    else:
        assert found == [0, 4, 8, 10]
        assert "propagate:  40%" in text
        assert "4/10 [00:36<00:54,  9.00s/image]" in text
    assert list(with_progress(work(), 10, "propagate", enabled=False)) == [*range(10)]
    assert capsys.readouterr().err == ""


def test_a_command_says_which_lists_it_wrote_and_who_is_a_patient(tmp_path, caplog):
    stems = tuple(f"patient{patient:03}_slice{n}" for patient in range(5) for n in range(2))
    root = plain_folder(tmp_path / "data", stems=stems, lists=False)
    library = logging.getLogger("scribbleseg")
    before = library.level
    library.setLevel(logging.WARNING)
    try:
        assert run_main(["check", str(root)]) == 0
    finally:
        library.setLevel(before)
    assert f"{root}: wrote train.txt (8 images) and val.txt (2 images" in caplog.text
    assert "10 images of 5 patients, volumes or videos, told from their names" in caplog.text
