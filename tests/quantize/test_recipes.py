"""Presets: what they say, that they survive JSON, and that they cost no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sensitivity
from sensitivity.errors import RecipeError
from sensitivity.quantize import recipes
from sensitivity.quantize.recipes import (
    INT4_WEIGHTS,
    INT8,
    INT8_ACTIVATIONS,
    INT8_AFFINE,
    INT8_MINMAX,
    INT8_WEIGHTS,
    PRESETS,
    THESIS,
    Prune,
)
from sensitivity.records import Pruning, QuantSpec, Recipe
from sensitivity.records.recipes.formats import find_format, formats
from sensitivity.records.recipes.observers import Granularity, observers
from sensitivity.records.recipes.recipe import PLACEMENTS

FORMATS = tuple(number_format.name for number_format in formats())
OBSERVERS = tuple(kind.name for kind in observers())


def test_every_preset_is_listed_once_and_stands_at_the_front_door() -> None:
    constants = [value for name, value in vars(recipes).items() if name.isupper() and isinstance(value, Recipe)]
    assert sorted(preset.name for preset in PRESETS) == sorted(recipe.name for recipe in constants)
    offered = [getattr(sensitivity, name) for name in sensitivity.__all__ if name.isupper()]
    assert sorted(preset.name for preset in offered) == sorted(preset.name for preset in PRESETS)


def test_presets_have_the_names_that_tables_show() -> None:
    names = ["int8", "int8-affine", "int8-minmax", "int8-weights", "int8-activations", "int4-weights", "fp8", "thesis"]
    assert [preset.name for preset in PRESETS] == names
    assert [Prune(0.5).name, Prune("2:4").name] == ["prune-0.5", "prune-2:4"]
    assert Prune(0.1 + 0.2).name == "prune-0.3"
    assert Prune(0.1 + 0.2).pruning == Pruning(level=0.1 + 0.2)


def test_int8_is_what_engines_run() -> None:
    assert INT8_MINMAX.weights == QuantSpec("int8", "per-channel", symmetric=True, observer="minmax")
    assert INT8_MINMAX.activations == QuantSpec("int8", "per-tensor", symmetric=True, observer="minmax")
    for preset in (INT8, INT8_MINMAX, INT8_AFFINE):
        assert preset.placement == "deploy"
        assert preset.weights is not None
        assert preset.weights.symmetric
        assert (preset.weights.format, preset.weights.granularity) == ("int8", "per-channel")
    assert INT8.activations is not None
    assert (INT8.activations.format, INT8.activations.symmetric) == ("int8", True)
    assert INT8_AFFINE.activations is not None
    assert (INT8_AFFINE.activations.format, INT8_AFFINE.activations.symmetric) == ("uint8", False)
    assert (INT8_WEIGHTS.weights, INT8_WEIGHTS.activations) == (INT8.weights, None)
    assert (INT8_ACTIVATIONS.weights, INT8_ACTIVATIONS.activations) == (None, INT8.activations)
    assert not INT4_WEIGHTS.needs_calibration


def test_the_thesis_recipe_sits_around_conv_norm_and_activation_with_a_moving_average() -> None:
    assert THESIS.placement == "conv-norm-act"
    assert THESIS.activations is not None
    assert THESIS.activations.observer == "ema"


def test_pruning_takes_a_level_or_a_pattern() -> None:
    assert Prune(0.25).pruning == Pruning(level=0.25)
    assert Prune("1:4").pruning == Pruning(n=1, m=4)
    for wrong in ("24", "2:", "a:b", "-1:4", "0.5"):
        with pytest.raises(RecipeError, match=rf"{wrong!r} is not of the form 'n:m'"):
            Prune(wrong)
    with pytest.raises(RecipeError, match="must lie in"):
        Prune(1.0)
    with pytest.raises(RecipeError, match="not 4:2"):
        Prune("4:2")


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2", "log2"])
def test_what_no_format_or_weight_can_have_is_refused_when_it_is_said(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} has no zero point, so symmetric=False makes no sense"):
        QuantSpec(name, symmetric=False)
    with pytest.raises(RecipeError, match=f"'entropy' is defined for integer formats, not for '{name}'"):
        QuantSpec(name, observer="entropy")


def test_weights_are_refused_what_only_activations_can_have() -> None:
    entropy, sampled = QuantSpec(observer="entropy"), QuantSpec(observer="mse", sample_every=8)
    with pytest.raises(RecipeError, match="'mine' cannot be applied to weights: the observer 'entropy' chooses"):
        Recipe("mine", weights=entropy)
    with pytest.raises(
        RecipeError,
        match="'mine' cannot be applied to weights: sample_every=8 is for activations",
    ):
        Recipe("mine", weights=sampled)
    assert Recipe("mine", activations=entropy).activations == entropy
    assert Recipe("mine", activations=sampled).activations == sampled


def quant_specs(*, of_weights: bool = False) -> st.SearchStrategy[QuantSpec]:
    def build(granularity: Granularity, group_size: int, symmetric: bool, observer: str, **rest: Any) -> QuantSpec:
        whole = find_format(rest["format"]).kind == "integer"
        if observer == "entropy" and (of_weights or not whole):
            observer = "mse"
        return QuantSpec(
            granularity=granularity,
            symmetric=symmetric or not whole,
            observer=observer,
            group_size=group_size if granularity == "per-group" else None,
            **rest,
        )

    return st.builds(
        build,
        st.sampled_from(["per-tensor", "per-channel", "per-group"]),
        st.integers(1, 512),
        format=st.sampled_from(FORMATS),
        symmetric=st.booleans(),
        observer=st.sampled_from(OBSERVERS),
        axis=st.none() | st.integers(-2, 3),
        percentile=st.floats(50, 100, exclude_min=True),
    )


def prunings() -> st.SearchStrategy[Pruning]:
    levels = st.builds(Pruning, level=st.floats(0, 1, exclude_max=True))
    patterns = st.integers(2, 16).flatmap(lambda m: st.builds(Pruning, n=st.integers(1, m - 1), m=st.just(m)))
    return levels | patterns


@given(
    st.text(),
    st.none() | quant_specs(of_weights=True),
    st.none() | quant_specs(),
    prunings(),
    st.sampled_from(PLACEMENTS),
)
def test_any_recipe_survives_json(
    name: str, weights: QuantSpec | None, activations: QuantSpec | None, pruning: Pruning, placement: Any
) -> None:
    recipe = Recipe(name, weights, activations, pruning, placement)
    back = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert back == recipe
    assert back.digest == recipe.digest == recipe.renamed("other").digest


@pytest.mark.parametrize("preset", [*PRESETS, Prune(0.5), Prune("2:4")], ids=lambda preset: preset.name)
def test_presets_survive_json(preset: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(preset.to_json()))) == preset


def test_presets_cost_no_torch() -> None:
    code = "import sys, sensitivity.quantize.recipes; sys.exit('torch' in sys.modules)"
    package = Path(recipes.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=package)
