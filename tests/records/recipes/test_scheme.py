"""The rest of a scheme: what is not quantized, and what of it stays in fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import sensitivity as sv
from sensitivity.errors import RecipeError
from sensitivity.records.recipes import recipe as recipes

HALF = sv.Scheme.all(sv.INT8).with_rest("fp16", keep_fp32=("norms", "blocks.*.norm"))


def test_a_scheme_with_a_rest_survives_json(tmp_path: Path) -> None:
    HALF.save(tmp_path / "scheme.json")
    assert sv.Scheme.load(tmp_path / "scheme.json") == HALF
    assert sv.Scheme.from_json(HALF.to_json()).keep_fp32 == ("norms", "blocks.*.norm")


def test_a_scheme_prints_as_a_table_of_its_rules() -> None:
    advised = sv.Scheme.all(sv.INT8).protect(["stage3:4:2", "@stem"])
    advised = replace(
        advised, reasons={"stage3:4:2": "drop 21.6 points"}, size_bytes=7, predicted_drop=0.0123456, unit="%"
    )
    assert repr(advised).splitlines() == [
        "Scheme: 3 rules, 7 bytes, predicted drop 1.235 points",
        "  *           int8",
        "  stage3:4:2  protected  drop 21.6 points",
        "  @stem       protected",
    ]
    assert repr(replace(advised, unit="dB")).startswith("Scheme: 3 rules, 7 bytes, predicted drop 0.01235 dB\n")
    assert sv.Scheme.from_json(advised.to_json()) == advised
    assert repr(HALF) == "Scheme: 1 rule, the other layers in fp16, norms, blocks.*.norm in fp32\n  *  int8"
    assert repr(sv.Scheme()) == "Scheme: no rules"


def test_a_recipe_prints_as_the_call_that_makes_it() -> None:
    for recipe in (sv.INT8, sv.THESIS, sv.FP8, sv.INT4_WEIGHTS, sv.Prune(0.5)):
        assert eval(repr(recipe), vars(recipes)) == recipe
    assert repr(sv.INT4_WEIGHTS) == (
        "Recipe(name='int4-weights', weights=QuantSpec(format='int4', granularity='per-channel'))"
    )


def test_a_file_of_an_older_version_has_its_rest_in_fp32() -> None:
    plain = HALF.to_json()
    del plain["rest"], plain["keep_fp32"]
    assert sv.Scheme.from_json(plain) == sv.Scheme.all(sv.INT8)


def test_further_rules_keep_the_rest() -> None:
    for changed in (HALF.protect("@exit"), HALF.quantize("@stem", sv.INT4_WEIGHTS)):
        assert (changed.rest, changed.keep_fp32) == (HALF.rest, HALF.keep_fp32)


def test_one_word_need_not_be_in_a_tuple_and_fp32_takes_all_back() -> None:
    assert sv.Scheme().with_rest("bf16", keep_fp32="norms").keep_fp32 == ("norms",)
    assert HALF.with_rest("fp32") == sv.Scheme.all(sv.INT8)


def test_what_was_predicted_for_another_rest_is_dropped() -> None:
    known = sv.Scheme(predicted_drop=0.01, size_bytes=7).with_rest("bf16")
    assert (known.predicted_drop, known.size_bytes) == (None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rest": "int8"}, "rest='int8' is no precision"),
        ({"rest": "bf16", "keep_fp32": ("",)}, "must be a tuple of text"),
        ({"rest": "bf16", "keep_fp32": [3]}, "must be a tuple of text"),
        ({"keep_fp32": ("norms",)}, "everything is in fp32"),
    ],
)
def test_a_rest_that_makes_no_sense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sv.Scheme(**settings)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=message):
        sv.Scheme.from_json({"rules": [], **settings})
