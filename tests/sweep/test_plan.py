"""Which variants a sweep has, and when two of them are the same."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.perturb.perturber import Perturber
from sensitivity.sweep.plan import Direction, Variant, plan_sweep
from sensitivity.sweep.storage.claim import sweep_facts
from tests.sweep.recording_task import RecordingTask


@pytest.fixture(scope="module")
def layers() -> list[sv.Layer]:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    return list(sv.wrap(model, torch.randn(1, 3, 2, 2)).layers)


def test_one_at_a_time_perturbs_the_layer_alone_and_all_but_one_the_others_in_execution_order(
    layers: list[sv.Layer],
) -> None:
    alone = plan_sweep(layers, [sv.INT8], direction="one-at-a-time")
    others = plan_sweep(layers, [sv.INT8], direction="all-but-one")
    assert [list(variant.recipes.items()) for variant in alone] == [[(layer, sv.INT8)] for layer in layers]
    for layer, variant in zip(layers, others, strict=True):
        assert variant.layer is layer
        assert list(variant.recipes) == [other for other in layers if other is not layer]
        assert set(variant.recipes.values()) == {sv.INT8}
        assert len(variant.recipes) == len(layers) - 1
        assert layer not in variant.recipes
        with pytest.raises(KeyError, match=layer.name):
            variant.recipes[layer]


@pytest.mark.parametrize("direction", ["one-at-a-time", "all-but-one"])
def test_a_variant_is_told_by_what_it_does_and_not_by_the_names_of_its_recipes(
    direction: Direction, layers: list[sv.Layer]
) -> None:
    renamed = replace(sv.INT8, name="another name")
    variants, again = (plan_sweep(layers, [recipe], direction=direction) for recipe in (sv.INT8, renamed))
    assert variants == again
    assert len({*variants, *again}) == len(layers)
    assert set(variants).isdisjoint(plan_sweep(layers, [sv.INT4_WEIGHTS], direction=direction))
    assert pickle.loads(pickle.dumps(variants)) == variants, "workers know them by the same digests"


def test_both_directions_are_the_same_where_they_perturb_the_same(layers: list[sv.Layer]) -> None:
    first, second = layers[:2]
    [without_first, without_second] = plan_sweep([first, second], [sv.INT8], direction="all-but-one")
    assert without_first == Variant.alone(second, sv.INT8)
    assert without_second == Variant.alone(first, sv.INT8)
    assert without_second != without_first


def test_the_same_recipe_under_two_names_is_run_once_and_has_two_rows() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval(), torch.randn(1, 3, 2, 2)
    calls: list[int] = []
    task = RecordingTask([x])
    task.fail_on = lambda _: bool(calls.append(1))  # type: ignore[func-returns-value]
    recipes = [sv.INT4_WEIGHTS, replace(sv.INT4_WEIGHTS, name="twin")]
    how = sv.Sweep(replay=False)
    counts = []
    for some in (recipes[:1], recipes):
        calls.clear()
        study = sv.wrap(model, x).analyze(task, some, settings=how, progress=False)
        counts.append(len(calls))
    assert counts[0] == counts[1]
    drops = {name: [m.drop for m in study.of_recipe(name)] for name in ("twin", sv.INT4_WEIGHTS.name)}
    assert drops["twin"] == drops[sv.INT4_WEIGHTS.name]
    assert len(study.measurements) == 4


def test_a_store_knows_the_ranges_of_every_recipe_that_a_variant_applies(layers: list[sv.Layer]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    images = torch.randn(2, 3, 2, 2)
    recipes = [sv.INT8, sv.INT8_ACTIVATIONS]
    calibration = sv.wrap(model, images[:1]).calibrate(images, recipes)
    mixed = Variant(dict(zip(layers, recipes, strict=False)), layers[0], sv.INT8)
    assert mixed.distinct_recipes == set(recipes)
    keys = {fact.key for fact in sweep_facts(model, RecordingTask([images]), [mixed], Perturber(model, [calibration]))}
    assert {f"fact calibration {recipe.digest}" for recipe in recipes} <= keys
