"""Copies of graphs: they hold what is needed, and take no more memory than that."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from sensitivity.deploy.graph.copies import swept, without_weights

RUNS_OUT_AT = 2**30
COPIES_OF_32_MEGABYTES = f"""
import resource
from tests.deploy.graph.test_copies import graph_with_a_large_weight
from sensitivity.deploy.graph.copies import swept, without_weights
graph = graph_with_a_large_weight()
resource.setrlimit(resource.RLIMIT_DATA, ({RUNS_OUT_AT}, {RUNS_OUT_AT}))
copies = [copied for _ in range(40) for copied in (swept(graph), without_weights(graph))]
print(len(copies))
"""


def graph_with_a_large_weight() -> ModelProto:
    """``y = x + small``, beside what nothing reads: ``x + large``."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [node("Add", ["x", "large"], ["unread"], name="unread"), node("Add", ["x", "small"], ["y"], name="read")]
    large, small = np.zeros(2**23, np.float32), np.ones(1, np.float32)
    weights = [onnx.numpy_helper.from_array(large, "large"), onnx.numpy_helper.from_array(small, "small")]
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, [1])], [info("y", 1, [1])], weights, doc_string="told")
    graph.value_info.append(info("unread", 1, None))
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("custom", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="a test")


def test_a_swept_copy_holds_what_the_outputs_need_and_all_else_that_a_model_tells() -> None:
    graph = graph_with_a_large_weight()
    copied = swept(graph)
    assert [tensor.name for tensor in copied.graph.initializer] == ["small"]
    assert [node.name for node in copied.graph.node] == ["read"]
    assert len(graph.graph.initializer) == len(graph.graph.node) == 2
    for field in ("node", "initializer"):
        copied.graph.ClearField(field)
        graph.graph.ClearField(field)
    assert copied == graph


def test_a_copy_without_weights_has_their_names() -> None:
    graph = graph_with_a_large_weight()
    copied = without_weights(graph)
    assert [tensor.name for tensor in copied.graph.initializer] == ["large", "small"]
    assert copied.ByteSize() < 1000
    again = swept(copied, initializers=graph.graph.initializer)
    assert again == swept(graph)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process so")
def test_copies_take_no_memory_for_what_they_do_not_hold() -> None:
    done = subprocess.run([sys.executable, "-c", COPIES_OF_32_MEGABYTES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "80"), done.stderr
