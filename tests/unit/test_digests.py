"""The comparison with recorded facts sees what changed, and rewrites only on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.digests import Digests, sha_of

FACTS = {"a": [1, 2.5, "x"], "b": {"c": math.nan, "d": None, "e": True}}


def recorded(tmp_path, facts=FACTS) -> Digests:
    Digests(tmp_path / "some.json", rewrite=True).check("one", facts)
    return Digests(tmp_path / "some.json")


def test_equal_facts_pass(tmp_path):
    recorded(tmp_path).check("one", FACTS)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({**FACTS, "a": [1, 2.6, "x"]}, r"one/a/1: 2\.5 -> 2\.6"),
        ({**FACTS, "a": [1, 2.5]}, "one/a: "),
        ({**FACTS, "a": [2, 2.5, "x"]}, "one/a/0: 1 -> 2"),
        ({"a": FACTS["a"]}, "one/b: gone"),
        ({**FACTS, "z": 0}, "one/z: new"),
        ({**FACTS, "b": {"c": 0.0, "d": None, "e": True}}, "one/b/c"),
        ({**FACTS, "b": {"c": math.nan, "d": 0, "e": True}}, "one/b/d"),
        ({**FACTS, "b": {"c": math.nan, "d": None, "e": 1}}, "one/b/e"),
    ],
)
def test_any_difference_is_named_with_its_place(tmp_path, facts, message):
    digests = recorded(tmp_path)
    with pytest.raises(AssertionError, match=message):
        digests.check("one", facts)
    with pytest.raises(AssertionError, match="--rewrite-digests"):
        digests.check("two", FACTS)


def test_tolerances_hold_for_floats_only(tmp_path):
    digests = recorded(tmp_path)
    digests.check("one", {**FACTS, "a": [1, 2.51, "x"]}, rtol=0.01)
    digests.check("one", {**FACTS, "a": [1, 2.51, "x"]}, atol=0.02)
    with pytest.raises(AssertionError, match="one/a/1"):
        digests.check("one", {**FACTS, "a": [1, 2.51, "x"]}, rtol=0.001)
    with pytest.raises(AssertionError, match="one/a/0"):
        digests.check("one", {**FACTS, "a": [2, 2.5, "x"]}, rtol=10)


def test_an_array_is_known_by_values_shape_and_dtype():
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert sha_of(array) == sha_of(torch.from_numpy(array)) == sha_of(np.asfortranarray(array))
    others = [array + 1, array.reshape(3, 2), array.astype(np.int64)]
    assert len({sha_of(array), *map(sha_of, others)}) == 4
    assert sha_of(array).startswith("uint8[2,3] ")
