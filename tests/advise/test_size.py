from __future__ import annotations

from dataclasses import replace

import pytest

import sensitivity as sv
from sensitivity.advise.size import saved_bytes
from sensitivity.records import Pruning, QuantSpec, Recipe
from sensitivity.records.size import layer_bytes
from tests.made_studies import INT4, INT8, make_layer, make_study, with_second_recipe

ACTIVATIONS_ONLY = Recipe("A8", activations=QuantSpec())
PRUNED = Recipe("P", pruning=Pruning(level=0.5))


def conv(**changes):
    """A 3x3 convolution, 16 to 32 channels, float32, with bias."""
    elements = 16 * 32 * 9
    plain = {"in_channels": 16, "out_channels": 32, "kernel_size": (3, 3), "groups": 1}
    return replace(make_layer(0), parameters=elements + 32, weight_bytes=4 * elements, **(plain | changes))


def test_bytes_follow_the_recipe_and_biases_stay_in_float() -> None:
    weights, bias = 16 * 32 * 9, 32
    assert layer_bytes(conv(), None) == 4 * weights + 4 * bias
    assert layer_bytes(conv(), INT8) == weights + 4 * bias
    assert layer_bytes(conv(), INT4) == weights // 2 + 4 * bias


@pytest.mark.parametrize("recipe", [ACTIVATIONS_ONLY, PRUNED], ids=lambda recipe: recipe.name)
def test_a_recipe_that_leaves_weights_alone_saves_nothing(recipe: Recipe) -> None:
    assert layer_bytes(conv(), recipe) == layer_bytes(conv(), None)


def test_weights_stored_in_half_precision_save_half() -> None:
    half = replace(conv(), weight_bytes=2 * 16 * 32 * 9)
    assert layer_bytes(half, None) - layer_bytes(half, INT8) == 16 * 32 * 9


def test_a_model_in_half_precision_is_as_large_for_the_model_as_for_its_study() -> None:
    """``Wrapped.size_bytes`` and ``Study.protect`` count the same bytes, biases of two bytes among them."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 5, 1)).half()
    wrapped = sv.wrap(net, torch.zeros(1, 3, 8, 8, dtype=torch.float16))
    stored = sum(parameter.numel() * parameter.element_size() for parameter in net.parameters())
    assert wrapped.size_bytes() == stored == sum(layer_bytes(layer, None) for layer in wrapped.layers)
    scheme = sv.Scheme.only("layers:0:0", sv.INT8)
    quantized = stored - 3 * 8 * 9  # one byte in place of two for each weight, none for the bias
    assert wrapped.size_bytes(scheme) == quantized
    recipes = dict.fromkeys(["layers:0:0"], sv.INT8)
    assert sum(layer_bytes(layer, recipes.get(layer.name)) for layer in wrapped.layers) == quantized


def test_groups_and_linear_layers_count_their_own_elements() -> None:
    assert conv(groups=16, out_channels=16).weight_elements == 16 * 9
    assert conv(kernel_size=()).weight_elements == 16 * 32


def test_weight_elements_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    for module in (torch.nn.Conv2d(8, 16, 3, groups=4), torch.nn.ConvTranspose2d(8, 16, 2, groups=2)):
        layer = conv(in_channels=8, out_channels=16, groups=module.groups, kernel_size=module.kernel_size)
        assert layer.weight_elements == module.weight.numel()


def test_unknown_channels_count_biases_as_weights() -> None:
    assert conv(in_channels=0, out_channels=0).weight_elements == conv().parameters


def test_odd_bits_round_up_to_whole_bytes() -> None:
    layer = conv(in_channels=1, out_channels=1, kernel_size=(1, 1))
    layer = replace(layer, parameters=1, weight_bytes=4)
    assert layer_bytes(layer, INT4) == 1


def test_saved_bytes_are_of_each_layer_under_the_recipe() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    wide = Recipe("INT4", weights=QuantSpec(format="int16"))
    assert list(saved_bytes(study, "INT8").values()) == [3 * 256, 3 * 144]
    assert saved_bytes(study, "INT4")[study.layers[0].name] == 256 * 7 // 2
    half = tuple(replace(layer, weight_bytes=layer.weight_bytes // 4) for layer in study.layers)
    grown = saved_bytes(replace(study, layers=half, recipes={"INT8": wide}), "INT8")
    assert grown[study.layers[0].name] == -256, "16 bits in place of 8 take more room"
