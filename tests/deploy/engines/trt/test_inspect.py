from __future__ import annotations

import json

import pytest

from sensitivity.deploy.engines.trt.inspect import precision_of, read_layers, type_of
from sensitivity.errors import EngineError
from tests.deploy.engines.trt.contract.inspector_texts import INSPECTOR


@pytest.mark.parametrize("major", ["10", "11"])
def test_both_schemas_tell_the_same(major: str) -> None:
    layers = read_layers(INSPECTOR[major], {"conv1": 0.5})
    assert [(layer.nodes, layer.precision, layer.time_s) for layer in layers] == [
        (("Reformatting CopyNode for Input Tensor 0 to conv1",), "fp32", None),
        (("conv1.weight_dequantize", "conv1", "relu[0]"), "int8", 0.5),
        (("head", "PWN(sigmoid)"), "fp32", None),
    ]


def test_the_schemas_of_these_tests_differ_as_the_versions_do() -> None:
    tensors = {major: json.loads(text)["Layers"][0]["Inputs"][0] for major, text in INSPECTOR.items()}
    assert "Format/Datatype" in tensors["10"]
    assert "Datatype" not in tensors["10"]
    assert "Format/Datatype" not in tensors["11"]
    assert "Bindings" in json.loads(INSPECTOR["10"])
    assert "I/O Tensors" in json.loads(INSPECTOR["11"])


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Half"}, "fp16"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "int8"),
        ({"Format": "Row major linear FP32 format (kLINEAR)", "Datatype": "Int8"}, "int8"),
        ({"Format": "Row major linear format (kLINEAR)", "DataType": "BFloat16"}, "bf16"),
        ({"Format": "Row major linear FP32 format (kLINEAR)"}, "fp32"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, None),
        ({}, None),
    ],
)
def test_a_tensors_type_is_read_from_either_schema(tensor: dict[str, str], expected: str | None) -> None:
    assert type_of(tensor) == expected


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs", "int8"),
        ("sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize32x32x64", "int8"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64", "fp16"),
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "bf16"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc", "fp32"),
        ("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64", "fp8"),
    ],
)
def test_a_kernels_name_goes_before_the_types_around_it(kernel: str, expected: str) -> None:
    around = {"Inputs": [{"Datatype": "Int64"}], "Outputs": [{"Datatype": "Half"}], "Weights": {"Type": "Half"}}
    assert precision_of({"Name": "x", "TacticName": kernel, **around}) == expected


def test_int8_weights_that_meet_a_float_input_are_multiplied_in_float() -> None:
    layer = {"Name": "x", "Weights": {"Type": "Int8"}, "Inputs": [{"Datatype": "Float"}], "Outputs": []}
    assert precision_of(layer) == "fp32"
    assert precision_of(layer | {"Inputs": [{"Datatype": "Int8"}]}) == "int8"


def test_a_layer_without_weights_has_the_type_of_its_first_input() -> None:
    assert precision_of({"Name": "x", "Inputs": [{"Datatype": "Half"}], "Outputs": [{"Datatype": "Int8"}]}) == "fp16"
    assert precision_of({"Name": "x", "Inputs": [], "Outputs": [{"Datatype": "Int32"}]}) == "int32"


def test_what_is_not_told_is_unknown_not_guessed() -> None:
    assert precision_of({"Name": "x"}) == "unknown"


def test_a_copy_does_not_claim_the_node_that_another_layer_computes() -> None:
    copy = {"Name": "copy", "LayerType": "Reformat", "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: concat]"}
    conv = {"Name": "conv1", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: conv1]"}
    layers = read_layers(json.dumps({"Layers": [copy, conv]}))
    assert [layer.nodes for layer in layers] == [("concat",), ("conv1",)]


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", "null"])
def test_an_answer_without_layers_is_an_error(text: str) -> None:
    with pytest.raises(EngineError, match="answered no JSON with layers"):
        read_layers(text)


def test_an_engine_that_keeps_only_names_is_an_error() -> None:
    with pytest.raises(EngineError, match="not built with detailed profiling verbosity"):
        read_layers(json.dumps({"Layers": ["conv1", "relu"], "Bindings": ["x"]}))
