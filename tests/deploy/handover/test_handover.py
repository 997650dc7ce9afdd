"""A scheme in the words of other tools: each tool quantizes the layers that the scheme says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.handover.registry import TOOLS
from sensitivity.errors import LayerNotFoundError, RecipeError
from tests.deploy.nets import Attention

SIZE = (1, 3, 12, 12)
ASYMMETRIC_WEIGHTS = sv.Recipe("asymmetric", sv.QuantSpec("int8", symmetric=False), None)
CHANNEL_ACTIVATIONS = sv.Recipe("channels", None, sv.QuantSpec("int8", "per-channel"))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        similarity = self.blocks(torch.relu(self.stem(x))).flatten(2)
        mixed = similarity @ similarity.transpose(1, 2)  # a product that is no layer
        logits: torch.Tensor = self.head(mixed.mean(2))
        return logits


@pytest.fixture(scope="module")
def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    return sv.wrap(Net().eval(), torch.zeros(SIZE))


def protecting(wrapped: sv.Wrapped, *modules: str, recipe: sv.Recipe = sv.INT8) -> sv.Scheme:
    return sv.Scheme.all(recipe).protect([layer.name for layer in wrapped.layers if layer.module in modules])


class Reader:
    def __init__(self, name: str) -> None:
        noise = np.random.default_rng(0)
        self.batches = [{name: noise.normal(size=SIZE).astype(np.float32)} for _ in range(2)]

    def get_next(self) -> Any:
        return self.batches.pop() if self.batches else None


def test_onnx_runtime_quantizes_the_layers_of_the_scheme_and_no_other_node(wrapped: sv.Wrapped, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx, of the extra [test]")
    pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime, of the extra [test]")
    wrapped.deploy(sv.Scheme(), "onnxruntime").save(tmp_path / "float")
    float_onnx, int8_onnx = tmp_path / "float" / "model.onnx", tmp_path / "int8.onnx"
    handover = protecting(wrapped, "blocks.2").handover("onnxruntime", wrapped.layers)
    reader = Reader(onnx.load(float_onnx).graph.input[0].name)
    names = {"settings": handover.settings, "float_onnx": float_onnx, "int8_onnx": int8_onnx}
    exec(handover.code, names | {"calibration_data_reader": reader})
    graph = onnx.load(int8_onnx).graph
    writers = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    read = {node.name: [writers.get(name) == "DequantizeLinear" for name in node.input[:2]] for node in products}
    layers = {layer.module for layer in wrapped.layers}
    assert {name for name, both in read.items() if all(both)} == layers - {"blocks.2"}
    assert len(products) == len(layers) + 1
    assert read["blocks.2"] == [False, False]


def test_nncf_patterns_match_the_nodes_of_the_protected_layers_alone(wrapped: sv.Wrapped) -> None:
    (pattern,) = protecting(wrapped, "blocks.0").handover("nncf", wrapped.layers).settings["ignored_patterns"]
    in_openvino = "__module.blocks.0/aten::_convolution/Convolution_1"
    for name in ("blocks.0", "blocks.0#1", in_openvino, "blocks.0#1/WithoutBiases"):
        assert re.match(pattern, name) is not None, name
    for name in ("blocks/2/conv2d/0", "blocks.00", "stem", "xblocks.0", "__module.blocks.00/aten::_convolution"):
        assert re.match(pattern, name) is None, name


def test_nncf_finds_the_nodes_of_a_torch_module_by_their_weights(wrapped: sv.Wrapped) -> None:
    """NNCF's names leave out modules that a forward calls out of a list, as ``blocks`` here."""
    handover = protecting(wrapped, "blocks.0").handover("nncf", wrapped.layers)
    assert handover.settings["ignored_weights"] == ["blocks.0.weight"]
    assert set(handover.settings["ignored_weights"]) <= set(dict(wrapped.model.named_parameters()))
    assert 'set(settings["ignored_weights"])' in handover.code


def test_nncf_is_told_whether_activations_have_a_zero_point(wrapped: sv.Wrapped) -> None:
    presets = [
        protecting(wrapped, "stem", recipe=recipe).handover("nncf", wrapped.layers).settings["preset"]
        for recipe in (sv.INT8, sv.INT8_AFFINE)
    ]
    assert presets == ["performance", "mixed"]


def test_modelopt_gets_quantizers_of_each_layers_own_recipe_after_all_are_disabled(wrapped: sv.Wrapped) -> None:
    stem = wrapped.layers[0].name
    scheme = protecting(wrapped, "blocks.0", "blocks.2").quantize(stem, sv.FP8)
    disabled, *entries = scheme.handover("modelopt", wrapped.layers).settings["quant_cfg"]
    assert disabled == {"quantizer_name": "*", "enable": False}
    assert {entry["quantizer_name"]: (entry["cfg"]["num_bits"], entry["cfg"]["axis"]) for entry in entries} == {
        "stem.weight_quantizer": ([4, 3], 0),
        "stem.input_quantizer": ([4, 3], None),
        "head.weight_quantizer": (8, 0),
        "head.input_quantizer": (8, None),
    }


def test_tools_with_a_quantizer_for_each_module_are_told_its_bits_codes_and_axis(wrapped: sv.Wrapped) -> None:
    stem, head = wrapped.layers[0].name, wrapped.layers[-1].name
    scheme = sv.Scheme().quantize(stem, sv.INT8_AFFINE).quantize(head, sv.INT8_WEIGHTS)
    for tool in ("aimet", "pt2e"):
        layers = wrapped.handover(scheme, tool).settings["layers"]
        assert set(layers) == {"stem", "head"}
        weight, values = layers["stem"]["weight"], layers["stem"]["input"]
        assert (weight["bits"], weight["smallest"], weight["largest"], weight["axis"]) == (8, -127, 127, 0)
        assert (values["dtype"], values["smallest"], values["largest"], values["symmetric"]) == ("uint8", 0, 255, False)
        assert layers["head"]["input"] is None
        assert layers["head"]["weight"]["axis"] == 0


def test_a_transposed_convolution_has_its_scales_along_the_second_axis() -> None:
    wrapped = sv.wrap(nn.Sequential(nn.ConvTranspose2d(3, 6, 2), nn.Conv2d(6, 2, 1)).eval(), torch.zeros(SIZE))
    layers = wrapped.handover(sv.Scheme.all(sv.INT8), "aimet").settings["layers"]
    assert (layers["0"]["weight"]["axis"], layers["1"]["weight"]["axis"]) == (1, 0)


def test_a_layer_in_another_modules_code_is_refused_where_a_tool_has_quantizers_for_modules() -> None:
    wrapped = sv.wrap(Attention().eval(), torch.zeros(1, 4, 16))
    inside = next(layer for layer in wrapped.layers if layer.module == "attend")
    for tool in ("aimet", "pt2e", "modelopt"):
        with pytest.raises(RecipeError, match=rf"in code of its own.*Nearest: scheme.protect\('{inside.name}'\)"):
            wrapped.handover(sv.Scheme.all(sv.INT8), tool)


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_a_handover_is_plain_and_reads_well(wrapped: sv.Wrapped, tool: str) -> None:
    handover = protecting(wrapped, "stem").handover(tool, wrapped.layers)
    assert json.loads(json.dumps(handover.to_json())) == handover.to_json()
    assert handover.protected == ("stem",)
    assert set(handover.quantized) == {"blocks.0", "blocks.2", "head"}
    assert repr(handover).startswith(f"Handover to {tool}: 3 layers quantized, 1 left in float\n  note: ")
    assert wrapped.handover(protecting(wrapped, "stem"), tool) == handover
    compile(handover.code, tool, "exec")


def test_tensorrt_is_handed_an_onnx_file_with_q_dq_on_the_layers_of_the_scheme(
    wrapped: sv.Wrapped, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx, of the extra [test]")
    wrapped.calibrate(torch.randn(2, *SIZE[1:], generator=torch.Generator().manual_seed(0)), sv.INT8)
    scheme = protecting(wrapped, "blocks.2")
    handover = wrapped.handover(scheme, "tensorrt")
    exec(handover.code, {"wrapped": wrapped, "scheme": scheme, "folder": tmp_path})
    graph = onnx.load(tmp_path / "model.onnx").graph
    writers = {output: node.op_type for node in graph.node for output in node.output}
    nodes = {node.name: node for node in graph.node}
    for name in handover.settings["int8_nodes"]:
        assert [writers.get(source) for source in nodes[name].input[:2]] == ["DequantizeLinear"] * 2
    assert handover.settings["float_nodes"] == ["blocks.2"]
    assert "DequantizeLinear" not in [writers.get(source) for source in nodes["blocks.2"].input]


@pytest.mark.parametrize(
    ("scheme", "tool", "message"),
    [
        (sv.Scheme.all(sv.INT8), "quark", "tool='quark' is no tool .* Choose one of: nncf, modelopt, onnxruntime"),
        (sv.Scheme(), "aimet", "quantizes no layer"),
        (sv.Scheme(), "tensorrt", "quantizes no layer"),
        (sv.Scheme.all(sv.FP8), "pt2e", "PT2E is handed integers of up to 8 bits"),
        (sv.Scheme.all(sv.INT8_AFFINE), "tensorrt", "TensorRT knows symmetric int8 with zero point 0 only"),
        (sv.Scheme.all(ASYMMETRIC_WEIGHTS), "aimet", "AIMET is handed symmetric ones"),
        (sv.Scheme.all(CHANNEL_ACTIVATIONS), "pt2e", "PT2E is handed one scale a tensor there"),
        (sv.Scheme(), "onnxruntime", "quantizes no layer"),
        (sv.Scheme(), "modelopt", "quantizes no layer"),
        (sv.Scheme.all(sv.INT8).quantize("stem*", sv.FP8), "nncf", "the scheme has 2 recipes: 'fp8.*Nearest"),
        (sv.Scheme.all(sv.INT8).with_rest("fp16"), "nncf", "computes non-quantized layers in fp16"),
        (sv.Scheme.all(sv.Prune(0.5)), "modelopt", "prunes"),
        (sv.Scheme.all(sv.THESIS), "nncf", "has placement 'conv-norm-act'"),
        (sv.Scheme.all(replace(sv.INT8, bias_correction=True)), "onnxruntime", "cures layers"),
        (sv.Scheme.all(sv.INT8_WEIGHTS), "onnxruntime", "leaves the activations in float"),
        (sv.Scheme.all(sv.FP8), "nncf", "is handed symmetric int8 there"),
        (sv.Scheme.all(sv.INT8_AFFINE), "modelopt", "ModelOpt is handed int8, int4, fp8_e4m3, symmetric"),
    ],
)
def test_what_a_tool_cannot_do_is_refused(wrapped: sv.Wrapped, scheme: sv.Scheme, tool: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        scheme.handover(tool, wrapped.layers)


def test_a_rule_that_selects_no_layer_is_refused(wrapped: sv.Wrapped) -> None:
    with pytest.raises(LayerNotFoundError, match="nothing"):
        sv.Scheme.all(sv.INT8).protect("nothing").handover("nncf", wrapped.layers)


def test_a_scheme_that_a_study_chose_knows_the_layers_and_others_ask_for_them(wrapped: sv.Wrapped) -> None:
    images = torch.randn(2, *SIZE[1:], generator=torch.Generator().manual_seed(0))
    study = wrapped.analyze(sv.FeatureFidelity(images), sv.INT8, calibration=images, progress=False)
    scheme = study.protect(top=1)
    assert scheme.handover("onnxruntime") == scheme.handover("onnxruntime", wrapped.layers)
    assert sv.Scheme.from_json(scheme.to_json()) == scheme
    with pytest.raises(RecipeError, match=r"layers=None: .* Give layers=wrapped\.layers"):
        sv.Scheme.from_json(scheme.to_json()).handover("onnxruntime")
