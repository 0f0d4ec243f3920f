from __future__ import annotations

import json

import pytest

from scribbleseg import merge_regularizers

REGULARIZERS = "--model.init_args.regularizers"
GATED = {"gated_crf": {"weight": 0.1, "radius": 3}}


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    contents = {"gated": GATED, "entropy": {"entropy": 0.2}, "none": None}
    paths = {}
    for name, terms in contents.items():
        paths[name] = str(tmp_path / f"{name}.yaml")
        config = {"model": {"class_path": "X", "init_args": {"regularizers": terms}}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config))
    return paths


def merged(*words: str):
    *_, last = merge_regularizers(["fit", *words])
    name, _, value = last.partition("=")
    assert name == REGULARIZERS
    return json.loads(value)


def test_one_option_leaves_the_others_of_its_term(files) -> None:
    found = merged("--config", files["gated"], f"{REGULARIZERS}.gated_crf.weight=0.5")
    assert found == {"gated_crf": {"weight": 0.5, "radius": 3}}
    found = merged(f"--config={files['gated']}", f"{REGULARIZERS}.gated_crf", "0.7")
    assert found == {"gated_crf": {"weight": 0.7, "radius": 3}}


def test_files_add_up_and_null_starts_afresh(files) -> None:
    gated, entropy, none = (f"--config={files[n]}" for n in ("gated", "entropy", "none"))
    assert merged(gated, entropy) == {**GATED, "entropy": 0.2}
    assert merged(gated, none, entropy) == {"entropy": 0.2}
    assert merged(gated, none) is None
    assert merged(gated, f'{REGULARIZERS}={{"entropy": 1.0}}') == {"entropy": 1.0}
    assert merged(entropy, "--model.regularizers.entropy.start=0.5") == {
        "entropy": {"weight": 0.2, "start": 0.5}
    }


def test_anything_else_is_left_alone(files, tmp_path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("model: {class_path: X}")
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [")
    for words in (
        ["fit", "--config", str(other), "--model.init_args.lr=1"],
        ["fit", "--config", str(broken)],
        ["fit", "--config", "missing.yaml"],
        ["fit", "--config"],
        [],
    ):
        assert merge_regularizers(words) == words
    words = ["fit", "--config", files["gated"], "--trainer.max_epochs", "3"]
    assert merge_regularizers(words)[:5] == words
