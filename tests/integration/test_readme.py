"""The README's code blocks run as written, and its two commands are what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import scribbleseg.methods

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def test_readme_is_one_page() -> None:
    assert README.count("\n") <= 200


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_python_blocks_run(code: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = code.replace('accelerator="auto"', 'accelerator="cpu", enable_progress_bar=False')
    assert len(code.splitlines()) <= 14
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_commands_name_files_that_exist() -> None:
    text = "\n".join(code for language, code in BLOCKS if language == "bash")
    for path in re.findall(r"examples/[\w/.]+", text):
        assert (ROOT / path).is_file(), path


def test_every_method_is_in_the_table() -> None:
    for name in scribbleseg.methods.__all__:
        assert re.search(rf"^\| `{name}` \|", README, flags=re.MULTILINE), name


def test_ci_runs_the_readmes_test_command() -> None:
    assert "test-command" in (ROOT / ".ci" / "run").read_text()
    command = README.split("<!-- test-command -->")[1].split("```bash\n")[1].split("\n")[0]
    assert "pytest" in command
    assert "[test]" in command
