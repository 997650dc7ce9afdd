"""NNCF: the torch module, the ONNX graph read by OpenVINO, or the torch module converted by OpenVINO."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from job import Job, answer

_MULTIPLY = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
_MOVES = ("Reshape", "Convert", "Transpose", "Multiply", "Subtract")


def work(job: Job) -> tuple[list[str], str]:
    from nets import batches, net

    source = (job.folder / "source").read_text()
    images = batches()
    if source == "torch":
        quantized = job.pasted(model=net(job.net), images=images)["quantized"]
        return _layers_of_torch(quantized), version("nncf")
    import openvino

    if source == "onnx":
        model = openvino.Core().read_model(job.folder / "float.onnx")
    else:
        model = openvino.convert_model(net(job.net), example_input=images[0])
    quantized = job.pasted(model=model, images=[image.numpy() for image in images], int8_xml=job.folder / "int8.xml")[
        "quantized"
    ]
    return _layers_of_openvino(quantized, job), version("nncf")


def _layers_of_torch(model: Any) -> list[str]:
    """The modules at whose product NNCF quantizes the second operand, the weight; it does so with the input alone."""
    names = (re.search(r"pre_hooks\.(.+)/\w+/\d+__1\.0\._num_bits", name) for name in model.state_dict())
    return [match.group(1).replace("/", ".") for match in names if match]


def _layers_of_openvino(model: Any, job: Job) -> list[str]:
    layers = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _MULTIPLY and all(_is_quantized(operation, port) for port in (0, 1)):
            layers += [path for path in job.layers if _is_named(operation.get_friendly_name(), path)]
    return layers


def _is_named(name: str, path: str) -> bool:
    return re.split("[/#]", name.removeprefix("__module."))[0] == path


def _is_quantized(operation: Any, port: int) -> bool:
    """Whether a FakeQuantize, or an int8 constant that is converted, stands in front of an input."""
    node = operation.input_value(port).get_node()
    while node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    if node.get_type_name() == "Constant":
        return bool(node.get_element_type().get_type_name() in ("i8", "u8"))
    return bool(node.get_type_name() == "FakeQuantize")


if __name__ == "__main__":
    answer(work)
