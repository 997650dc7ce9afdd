"""Cures are values inside a recipe; a recipe without any is the one that it was before there were cures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from sensitivity.errors import RecipeError
from sensitivity.quantize.recipes import FP8, INT4_WEIGHTS, INT8, INT8_ACTIVATIONS, THESIS, Prune
from sensitivity.records import Recipe


def test_a_recipe_without_cures_has_the_digest_and_the_json_of_versions_without_them() -> None:
    assert INT8.to_json().keys() == {"name", "weights", "activations", "pruning", "placement"}
    assert INT4_WEIGHTS.weights is not None
    spec = asdict(INT4_WEIGHTS.weights)
    before = json.dumps({"activations": None, "placement": "deploy", "pruning": None, "weights": spec}, sort_keys=True)
    assert INT4_WEIGHTS.digest == hashlib.sha256(before.encode()).hexdigest()[:16]


@pytest.mark.parametrize("cures", [{"bias_correction": True}, {"rounding": "compensated"}])
def test_a_cured_recipe_survives_json_and_is_another_one(cures: dict[str, object]) -> None:
    cured = replace(INT8, **cures)  # type: ignore[arg-type]
    assert Recipe.from_json(json.loads(json.dumps(cured.to_json()))) == cured
    assert cured.digest != INT8.digest
    assert cured.has_cures
    assert not INT8.has_cures
    ((name, value),) = cures.items()
    assert f"{name}={value!r}" in repr(cured)
    assert name not in repr(INT8)


def test_cured_adds_cures_and_says_so_in_the_name() -> None:
    corrected = INT8.cured(bias_correction=True)
    assert corrected == replace(INT8, name="int8+bias-correction", bias_correction=True)
    both = corrected.cured(rounding="compensated")
    assert both == replace(corrected, name="int8+bias-correction+compensated", rounding="compensated")
    assert both.cured(bias_correction=False, name="mine") == replace(both, name="mine", bias_correction=False)


def test_weights_alone_need_calibration_once_a_cure_looks_at_their_inputs() -> None:
    assert not INT4_WEIGHTS.needs_calibration
    assert INT4_WEIGHTS.cured(rounding="compensated").needs_calibration
    assert INT4_WEIGHTS.cured(bias_correction=True).needs_calibration


def test_cures_are_refused_where_there_is_nothing_to_cure() -> None:
    for recipe in (INT8_ACTIVATIONS, FP8, Prune(0.5)):
        with pytest.raises(RecipeError, match="no weights in an integer format: there is nothing to round"):
            recipe.cured(rounding="compensated")
    for cure in ({"bias_correction": True}, {"rounding": "compensated"}):
        with pytest.raises(RecipeError, match="placement 'conv-norm-act', where no cure is defined"):
            replace(THESIS, **cure)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="rounding='up': give one of 'nearest', 'compensated'"):
        replace(INT8, rounding="up")  # type: ignore[arg-type]
