"""Our calls of TensorRT 10 and 11 through the real bindings of each, into a mock that logs them.

What this proves: every class, method, argument and enum that the backend uses exists in every version and means what
the backend takes it for; memory, shapes, profiles, faults and callbacks go where they should. What it cannot prove:
anything that NVIDIA's own code decides (fusion, precision, accuracy, speed). ``test_on_gpu.py`` is for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from tests.deploy.engines.trt.contract import kit as kits
from tests.deploy.engines.trt.contract.drive_facts import MODEL

Scenario = Callable[[str], dict[str, Any]]


def checksum(data: bytes) -> str:
    """What the mock logs of bytes that it is given."""
    total = 0
    for byte in data:
        total = (total * 31 + byte) % 2**32
    return f"size={len(data)} sum={total}"


def named(calls: list[str], beginning: str) -> list[str]:
    return [call.removeprefix(beginning).strip() for call in calls if call.startswith(beginning)]


def test_these_are_the_bindings_of_that_version(scenario: Scenario, kit: kits.Kit) -> None:
    assert scenario("the_flags_of_this_version")["returned"]["version"] == kit.version
    (built_for,) = named(scenario("settings")["calls"], "createInferBuilder")
    assert int(built_for) // 10000 == int(kit.major)  # compiled into the bindings


def test_the_network_is_strongly_typed_whatever_the_number_of_the_flag(scenario: Scenario, kit: kits.Kit) -> None:
    flag = scenario("the_flags_of_this_version")["returned"]["strongly_typed"]
    assert flag == {"10": 1, "11": 0}[kit.major]
    assert named(scenario("fixed_shape")["calls"], "builder createNetworkV2") == [f"flags={1 << flag}"]


def test_tf32_is_cleared_and_nothing_is_switched_on(scenario: Scenario) -> None:
    calls = scenario("fixed_shape")["calls"]
    assert named(calls, "config clearFlag") == [str(scenario("the_flags_of_this_version")["returned"]["tf32"])]
    assert named(calls, "config setFlag") == []


def test_engines_keep_every_detail(scenario: Scenario) -> None:
    detailed = scenario("the_flags_of_this_version")["returned"]["detailed"]
    assert named(scenario("fixed_shape")["calls"], "config setProfilingVerbosity") == [str(detailed)]


def test_the_model_arrives_byte_for_byte(scenario: Scenario) -> None:
    assert named(scenario("fixed_shape")["calls"], "parser parse") == [checksum(MODEL)]


def test_a_wrapped_model_arrives_as_the_graph_with_qdq_and_runs(scenario: Scenario) -> None:
    outcome = scenario("from_a_model")
    graph = bytes.fromhex(outcome["returned"]["bytes"])
    assert named(outcome["calls"], "parser parse") == [checksum(graph)]
    assert outcome["returned"]["right"] is True
    assert len(outcome["returned"]["quantized"]) == 2
    operators = [node.op_type for node in onnx.load_from_string(graph).graph.node]
    assert operators.count("QuantizeLinear") == 2
    assert operators.count("DequantizeLinear") == 4


def test_a_rest_in_fp16_arrives_as_a_graph_in_fp16_with_casts_around_what_stays_in_fp32(scenario: Scenario) -> None:
    outcome = scenario("with_the_rest_in_fp16")
    written = bytes.fromhex(outcome["returned"]["bytes"])
    assert named(outcome["calls"], "parser parse") == [checksum(written)]
    assert written.hex() != outcome["returned"]["plain"]
    assert named(outcome["calls"], "config setFlag") == []  # neither FP16, which 11 does not know, nor REFIT
    assert outcome["returned"]["right"] is True
    assert "it was built from another model" in outcome["returned"]["refusal"]  # one with nothing kept in fp32
    graph = onnx.load_from_string(written)
    onnx.checker.check_model(graph, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {info.name: info.type.tensor_type.elem_type for info in inferred.value_info}
    types |= {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    of = {node.op_type: node for node in graph.graph.node}
    assert {types[of["Conv"].output[0]], types[of["QuantizeLinear"].input[1]]} == {half}
    outputs = [name for node in graph.graph.node if "Normalization" in node.op_type for name in node.output]
    assert outputs
    assert {types[name] for name in outputs} == {single}
    assert graph.opset_import[0].version == 20


def test_refit_is_refused_before_tensorrt_is_called(scenario: Scenario) -> None:
    outcome = scenario("refit_of_a_model")
    assert outcome["error"] == "EngineError"
    assert outcome["message"].startswith("'tensorrt' has no setting 'refit'. It has batch, timing_cache, ")
    assert not named(outcome["calls"], "builder")
    assert not named(outcome["calls"], "createInferRefitter")


def test_inputs_and_outputs_in_fp16_are_given_and_taken_as_such(scenario: Scenario) -> None:
    outcome = scenario("with_inputs_and_outputs_in_fp16")
    graph = onnx.load_from_string(bytes.fromhex(outcome["returned"]["bytes"])).graph
    ports = {port.type.tensor_type.elem_type for port in (*graph.input, *graph.output)}
    assert ports == {onnx.TensorProto.FLOAT16}
    assert outcome["returned"]["right"] is True


def test_the_order_is_parse_configure_build_load(scenario: Scenario) -> None:
    wanted = ["createInferBuilder", "parser parse", "config clearFlag", "builder buildSerializedNetwork", "runtime"]
    calls = scenario("fixed_shape")["calls"]
    places = [next(place for place, call in enumerate(calls) if call.startswith(prefix)) for prefix in wanted]
    assert places == sorted(places)


def test_a_fixed_shape_needs_no_profile(scenario: Scenario) -> None:
    calls = scenario("fixed_shape")["calls"]
    assert not named(calls, "profile ")
    assert not named(calls, "config addOptimizationProfile")


def test_the_engine_gets_the_addresses_of_torchs_memory_and_its_stream(scenario: Scenario) -> None:
    outcome = scenario("fixed_shape")
    addresses = named(outcome["calls"], "context setTensorAddress")
    bound = dict(line.split() for line in addresses)
    assert [int(bound[name]) for name in "xyz"] == outcome["returned"]["addresses"]
    assert named(outcome["calls"], "context enqueueV3") == ["stream=4711"]
    assert outcome["returned"]["waited"] == 1


def test_outputs_are_what_the_engine_wrote_there(scenario: Scenario) -> None:
    assert scenario("fixed_shape")["returned"]["right"] == [True, True]


def test_inputs_and_outputs_keep_the_order_of_the_graph_also_when_loaded(scenario: Scenario) -> None:
    assert scenario("another_order_in_the_plan")["returned"] == [[[1, 3, 2, 2], [1, 5]]] * 2


def test_read_only_reversed_and_strided_arrays_and_tensors_are_taken(scenario: Scenario) -> None:
    assert scenario("awkward_inputs")["returned"] == [True] * 4


def test_an_engine_says_what_it_is(scenario: Scenario, kit: kits.Kit) -> None:
    text = scenario("fixed_shape")["returned"]["text"]
    assert text.startswith(f"TensorRTEngine(TensorRT {kit.version}, mock GPU, compute capability 0.0, model ")


def test_a_dynamic_batch_has_one_profile_with_its_three_shapes(scenario: Scenario) -> None:
    calls = scenario("dynamic_batch")["calls"]
    assert named(calls, "profile setDimensions") == ["x 0 1x3x2x2", "x 1 4x3x2x2", "x 2 16x3x2x2"]
    assert named(calls, "config addOptimizationProfile") == ["profile"]


def test_a_dynamic_batch_runs_with_every_size(scenario: Scenario) -> None:
    outcome = scenario("dynamic_batch")
    assert outcome["returned"] == [True, True]
    assert named(outcome["calls"], "context setInputShape") == ["x 1x3x2x2", "x 3x3x2x2"]


def test_settings_reach_the_builder(scenario: Scenario) -> None:
    calls = scenario("settings")["calls"]
    pool = scenario("the_flags_of_this_version")["returned"]["workspace"]
    assert named(calls, "config setMemoryPoolLimit") == [f"{pool} {1 << 20}"]
    assert named(calls, "config setBuilderOptimizationLevel") == ["2"]
    untouched = scenario("fixed_shape")["calls"]
    assert not named(untouched, "config setMemoryPoolLimit") + named(untouched, "config setBuilderOptimizationLevel")


def test_the_timing_cache_is_read_shared_and_written(scenario: Scenario) -> None:
    outcome = scenario("timing_cache")
    assert named(outcome["calls"], "config setTimingCache") == ["ignore_mismatch=0", "ignore_mismatch=0"]
    # each build reads the file once before it and once after it, to keep what others have written meanwhile
    assert named(outcome["calls"], "config createTimingCache") == ["size=0", "size=0", "size=1", "size=1"]
    assert named(outcome["calls"], "timing_cache combine") == ["ignore_mismatch=0", "ignore_mismatch=0"]
    assert outcome["returned"] == {"sizes": [1, 3], "files": ["gpu.cache"]}  # and leaves no half-written file behind


def test_no_timing_cache_is_attached_unasked(scenario: Scenario) -> None:
    assert not named(scenario("fixed_shape")["calls"], "config setTimingCache")


def test_layers_have_their_executed_precision_in_the_schema_of_this_version(scenario: Scenario) -> None:
    outcome = scenario("latency_and_profile")
    nodes = {name: nodes for name, nodes, _, _ in outcome["returned"]["after"]}
    precision = {name: precision for name, _, precision, _ in outcome["returned"]["after"]}
    assert nodes["conv1"] == ["conv1.weight_dequantize", "conv1", "relu[0]"]
    assert precision["conv1"] == "int8"
    assert precision["head + PWN(sigmoid)"] == "fp32"
    json = scenario("the_flags_of_this_version")["returned"]["json"]
    assert named(outcome["calls"], "inspector getEngineInformation") == [str(json), str(json)]
    assert named(outcome["calls"], "inspector setExecutionContext") == ["context", "context"]


def test_layers_have_times_once_profiled_and_a_context_of_their_own(scenario: Scenario) -> None:
    outcome = scenario("latency_and_profile")
    assert outcome["returned"]["before"] == [None, None, None]
    reformat = "Reformatting CopyNode for Input Tensor 0 to conv1"
    assert outcome["returned"]["times_s"] == pytest.approx({"conv1": 0.0005, reformat: 0.00025})
    times_s = {name: time_s for name, _, _, time_s in outcome["returned"]["after"]}
    assert times_s == {**outcome["returned"]["times_s"], "head + PWN(sigmoid)": None}
    assert len(named(outcome["calls"], "engine createExecutionContext")) == 2


def test_an_engine_is_saved_loaded_and_profiled_through_the_public_verbs(scenario: Scenario) -> None:
    returned = scenario("saved_loaded_and_profiled_through_the_public_verbs")["returned"]
    assert {"engines/model.engine", "engines/model.onnx", "engines/README.md"} <= set(returned["files"])
    assert returned["built_again"] == 0
    assert returned["equal"]
    assert returned["profile"] == pytest.approx({returned["layer"][0]: 0.0005})
    assert "it was built from another model" in returned["refusal"]


def test_after_a_run_layers_are_profiled_once_without_being_asked(scenario: Scenario, kit: kits.Kit) -> None:
    outcome = scenario("layers_after_a_run")
    layers, version = outcome["returned"]
    assert version == kit.version
    assert dict(layers)["conv1"] == pytest.approx(0.0005)
    assert len(layers) == 6
    assert len(named(outcome["calls"], "context enqueueV3")) == 1 + 5 + 20  # the run, a warm-up, one profile


def test_latency_is_timed_after_a_warm_up_with_the_memory_bound_once(scenario: Scenario) -> None:
    outcome = scenario("latency_and_profile")
    assert outcome["returned"]["latency_s"] > 0
    assert len(named(outcome["calls"], "context enqueueV3")) == (5 + 3) + (5 + 4)  # latency, then the profile
    assert len(named(outcome["calls"], "context setTensorAddress x")) == 2


def test_debug_tensors_come_back_as_the_engine_has_them_or_the_version_is_too_old(
    scenario: Scenario, kit: kits.Kit
) -> None:
    if not kit.shows_tensors:
        outcome = scenario("debug_tensors_wanted")
        assert outcome["error"] == "EngineBuildError"
        assert f"needs TensorRT 10.12 or newer, and this is {kit.version}" in outcome["message"]
        return
    outcome = scenario("debug_tensors")
    assert outcome["returned"]["found"]["conv1.in_quantized"] == ["torch.int8", [[0, 1, 2], [3, 4, 5]]]
    dtype, values = outcome["returned"]["found"]["conv1.out"]
    assert dtype == "torch.float32"
    assert len(values) == 2
    assert list(outcome["returned"]["unread"]) == ["packed"]
    assert "INT4, which torch cannot hold" in outcome["returned"]["unread"]["packed"]
    assert named(outcome["calls"], "network markUnfusedTensorsAsDebugTensors") == [""]
    assert named(outcome["calls"], "context setUnfusedTensorsDebugState") == ["1"]


def test_fusion_is_not_touched_unasked(scenario: Scenario) -> None:
    assert not named(scenario("fixed_shape")["calls"], "network markUnfusedTensorsAsDebugTensors")


def test_a_saved_engine_runs_without_being_built_again(scenario: Scenario) -> None:
    outcome = scenario("saved_and_loaded")
    assert outcome["returned"] is True
    assert len(named(outcome["calls"], "builder buildSerializedNetwork")) == 1
    assert named(outcome["calls"], "runtime deserializeCudaEngine") == ["'a plan'", "'a plan'"]


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("loaded_for_another_model", "it was built from another model"),
        ("loaded_on_another_gpu", "it was built on mock GPU, compute capability 0.0, and this is other GPU"),
        ("loaded_with_another_tensorrt", "and this is 99.0.0"),
    ],
)
def test_an_engine_is_refused_where_it_does_not_belong(scenario: Scenario, name: str, difference: str) -> None:
    outcome = scenario(name)
    assert outcome["error"] == "EngineError"
    assert difference in outcome["message"]
    assert outcome["message"].endswith("Build it again.")
    assert len(named(outcome["calls"], "runtime deserializeCudaEngine")) == 1  # the one that was saved, not the other


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (
            "parser_errors",
            "EngineBuildError",
            "node 'stage1:0:0' (Conv): Invalid zero point; node 'pool' (MaxPool): No",
        ),
        ("build_fails", "EngineBuildError", "TensorRT says: Error Code 10: Could not find any implementation."),
        ("tensorrt_cannot_start", "EngineError", "cannot start here. TensorRT says: CUDA initialization failure"),
        ("plan_cannot_be_loaded", "EngineError", "cannot load this engine. TensorRT says: the plan is of another"),
        ("no_room_to_run", "EngineError", "TensorRT says: out of memory. Free GPU memory."),
        ("running_fails", "EngineError", "failed while running. TensorRT says: enqueueV3: the mock was told to fail."),
        ("shape_refused_by_tensorrt", "EngineError", "the shape is outside the optimization profile."),
        ("timing_cache_of_another_gpu", "EngineBuildError", "does not fit this TensorRT and GPU. TensorRT says: the"),
        ("timing_cache_is_a_folder", "EngineBuildError", "Is a directory"),
        ("dynamic_batch_not_said", "EngineBuildError", "batch=(smallest, usual, largest)"),
        ("dynamic_batch_too_large", "EngineError", "(17, 3, 2, 2), and the engine was built for 'x' (-1, 3, 2, 2)"),
        ("dynamic_height", "EngineBuildError", "only its first dimension, the batch, may be dynamic"),
        ("batch_of_a_fixed_model", "EngineBuildError", "input 'x' has the fixed shape (1, 3, 2, 2)"),
        ("output_shape_depends_on_data", "EngineError", "output 'boxes' depends on the data"),
        ("input_in_int4", "EngineError", "tensor 'x' is INT4, which torch cannot hold"),
        ("two_inputs_given", "EngineError", "2 inputs were given, and the engine takes 1: 'x' (1, 3, 2, 2) float32"),
        ("wrong_dtype", "EngineError", "an input is float64, and the engine was built for 'x'"),
        ("wrong_shape", "EngineError", "an input has shape (1, 2, 2, 2), and the engine was built for 'x'"),
        ("text_as_input", "EngineError", "an input of dtype <U4 is nothing that TensorRT takes"),
        ("no_repeats", "EngineError", "repeats=0 times nothing"),
        ("debug_tensors_not_built_in", "EngineError", "debug_tensors=True"),
        ("too_old", "EngineError", "TensorRT 8.6.1 is too old"),
        ("no_such_model", "EngineBuildError", "nothing.onnx cannot be read"),
        ("with_the_rest_in_bf16", "ExportError", "in the types that are written there, and that is 'fp16' or 'fp32'"),
    ],
)
def test_a_fault_is_an_error_of_ours_with_tensorrts_own_words(
    scenario: Scenario, name: str, error: str, words: str
) -> None:
    outcome = scenario(name)
    assert outcome["error"] == error
    assert words in outcome["message"]


def test_nothing_runs_after_a_refused_input(scenario: Scenario) -> None:
    for name in ("two_inputs_given", "wrong_dtype", "wrong_shape", "shape_refused_by_tensorrt"):
        assert not named(scenario(name)["calls"], "context enqueueV3")
