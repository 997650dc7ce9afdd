"""NNCF: the torch module, the ONNX graph read by OpenVINO, or the torch module converted by OpenVINO."""

from __future__ import annotations

import copy
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from job import Job, answer

_MULTIPLY = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
_MOVES = ("Reshape", "Convert", "Transpose", "Multiply", "Subtract", "MaxPool", "Interpolate", "Squeeze", "Unsqueeze")


def work(job: Job) -> tuple[list[str], str]:
    from nets import batches, net

    source = (job.folder / "source").read_text()
    images = batches(job.net)
    if source == "torch":
        model = net(job.net)
        nodes = _nodes_of_torch(model, images[0])
        return _layers_of_torch(job.pasted(model=model, images=images)["quantized"], nodes), version("nncf")
    import openvino

    if source == "onnx":
        model = openvino.Core().read_model(job.folder / "float.onnx")
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
        import sensitivity as sv

        folded = sv.wrap(net(job.net), images[0]).folded()
        model = openvino.convert_model(folded.model, example_input=images[0])
    quantized = job.pasted(model=model, images=[image.numpy() for image in images], int8_xml=job.folder / "int8.xml")[
        "quantized"
    ]
    return _layers_of_openvino(quantized, job), version("nncf")


def _nodes_of_torch(model: Any, image: Any) -> dict[str, str]:
    """NNCF's nodes that read a parameter called ``weight``, with the path of its module."""
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
    from nncf.torch.function_hook.wrapper import wrap_model

    graph = build_nncf_graph(wrap_model(copy.deepcopy(model)), image)
    edges = [
        (node.node_name, source.node_name)
        for node in graph.get_all_nodes()
        for source in graph.get_previous_nodes(node)
    ]
    return {node: weight.removesuffix(".weight") for node, weight in edges if weight.endswith(".weight")}


def _layers_of_torch(model: Any, nodes: dict[str, str]) -> list[str]:
    """The modules at whose product NNCF quantizes the second operand, the weight; it does so with the input alone."""
    names = (re.search(r"pre_hooks\.(.+)__1\.0\._num_bits", name) for name in model.state_dict())
    return [nodes[match.group(1)] for match in names if match and match.group(1) in nodes]


def _layers_of_openvino(model: Any, job: Job) -> list[str]:
    layers = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _MULTIPLY and all(_is_quantized(operation, port) for port in (0, 1)):
            layers += [path for path in job.layers if _is_named(operation.get_friendly_name(), path)]
    return layers


def _is_named(name: str, path: str) -> bool:
    return re.split("[/#]", name.removeprefix("__module."))[0] == path


def _is_quantized(operation: Any, port: int) -> bool:
    """Whether a FakeQuantize, or an int8 constant that is converted, stands in front of an input.

    NNCF moves quantizers up through what moves values or picks some of them.
    """
    node = operation.input_value(port).get_node()
    if node.get_type_name() == "Concat":
        return all(_is_quantized(node, number) for number in range(node.get_input_size()))
    if node.get_type_name() in _MOVES:
        return _is_quantized(node, 0)
    if node.get_type_name() == "Constant":
        return bool(node.get_element_type().get_type_name() in ("i8", "u8"))
    return bool(node.get_type_name() == "FakeQuantize")


if __name__ == "__main__":
    answer(work)
