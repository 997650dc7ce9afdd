"""Which recipes are tried where the caller names none."""

from __future__ import annotations

import pytest

import sensitivity as sv
from sensitivity.deploy.engines.registry import kind_of
from sensitivity.search.candidates import runnable, usual_candidates


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("fewer_bits", [False, True])
def test_every_usual_candidate_does_something_else_and_has_a_name_of_its_own(saturates: bool, fewer_bits: bool) -> None:
    recipes = usual_candidates(fewer_bits=fewer_bits, saturates=saturates)
    assert len({recipe.digest for recipe in recipes}) == len({recipe.name for recipe in recipes}) == len(recipes)


def test_openvino_runs_all_of_them_and_tensorrt_those_without_a_zero_point() -> None:
    recipes = usual_candidates(fewer_bits=True, saturates=False)
    assert runnable(recipes, kind_of("openvino").target) == (list(recipes), [])
    able, notes = runnable(recipes, kind_of("tensorrt").target)
    assert able == [r for r in recipes if r.activations is not None and r.activations.symmetric]
    assert len(notes) == len(recipes) - len(able)
    assert "int8-affine was not tried: TensorRT knows symmetric int8" in notes[0]


def test_no_weight_has_eight_bits_where_sums_saturate() -> None:
    for recipe in usual_candidates(fewer_bits=True, saturates=True):
        assert recipe.weight_bits < 8


def test_weights_in_fewer_bits_are_tried_for_a_budget_of_bytes_alone() -> None:
    def bits(*, fewer_bits: bool) -> set[float]:
        return {recipe.weight_bits for recipe in usual_candidates(fewer_bits=fewer_bits, saturates=False)}

    assert bits(fewer_bits=False) == {8.0}
    assert bits(fewer_bits=True) == {4.0, 6.0, 8.0}
    assert sv.INT8_AFFINE in usual_candidates(fewer_bits=False, saturates=False)


def test_weights_in_7_bits_are_tried_with_compensated_rounding_as_well() -> None:
    def compensated(*, saturates: bool) -> list[tuple[str, bool, float]]:
        recipes = usual_candidates(fewer_bits=False, saturates=saturates)
        return [(r.name, r.bias_correction, r.weight_bits) for r in recipes if r.rounding == "compensated"]

    assert compensated(saturates=True) == [("int8-affine-compensated-7bit-weights", True, 7)]
    assert compensated(saturates=False) == []
