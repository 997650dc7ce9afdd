"""What TensorRT runs, in which precision: read from the engine inspector's JSON, of TensorRT 10 and 11.

10 describes a tensor's type and layout in one text (``"Format/Datatype": "Row major linear FP32"``); 11 has ``Format``
and ``Datatype`` apart. The other difference, ``Bindings`` that became ``I/O Tensors``, does not matter here: names,
shapes and types of inputs and outputs are asked of the engine itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sensitivity.contracts import EngineLayer, FormatChange
from sensitivity.errors import EngineError

NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s\[]|$)")
"""A node in a layer's metadata; nodes are set apart by a record or unit separator, a space, or nothing."""

MULTIPLIED = {
    "i8": "int8",
    "s8": "int8",
    "u8": "int8",
    "e4m3": "fp8",
    "e5m2": "fp8",
    "f16": "fp16",
    "h16": "fp16",
    "bf16": "bf16",
    "tf32": "tf32",
    "f32": "fp32",
}
_TYPE = f"({'|'.join(MULTIPLIED)}|i32|s32)"
TACTIC = re.compile(f"(?:^|_){_TYPE}{_TYPE}_{_TYPE}{_TYPE}(?=_|$)")
"""A kernel's types in its name: read and written, then multiplied with and summed in: ``_i8f32_i8i32_``."""

MOVES = ("reformat", "noop", "signal", "wait")
CHANGES = ("reformat", "quantize", "dequantize")
INTEGERS = ("int8", "uint8")
FLOATS = ("fp32", "fp16", "bf16")
TYPES = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "uint8",
    "fp8": "fp8",
    "int4": "int4",
    "fp4": "fp4",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
WIDTH = ("int4", "fp4", "int8", "uint8", "fp8", "bf16", "fp16", "tf32", "fp32")


def read_layers(text: str, times_s: Mapping[str, float] | None = None) -> list[EngineLayer]:
    """The layers of an engine.

    Args:
        text: What the inspector answers for the whole engine, as JSON.
        times_s: Seconds by layer name, where the engine was profiled.

    Returns:
        One entry a layer as TensorRT fused it, in its order.

    Raises:
        EngineError: If the text is not the inspector's JSON, or the engine keeps no details.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"the engine inspector answered no JSON with layers: {text[:80]!r}.") from error
    if any(not isinstance(layer, dict) for layer in layers):
        raise EngineError(
            "this engine keeps only the names of its layers: it was not built with detailed profiling verbosity. "
            "Build it with this library."
        )
    times_s = times_s or {}
    computed = {node for layer in layers if not _moves(layer) for node in nodes_of(layer)}
    makers = {str(tensor.get("Name")): layer["Name"] for layer in layers for tensor in layer.get("Outputs", ())}
    return [
        EngineLayer(
            name=layer["Name"],
            nodes=tuple(node for node in nodes_of(layer) if not (_moves(layer) and node in computed)),
            precision=precision_of(layer),
            time_s=times_s.get(layer["Name"]),
            reads=_reads(layer, makers),
            changes=change_of(layer),
        )
        for layer in layers
    ]


def change_of(layer: Mapping[str, Any]) -> FormatChange | None:
    """What a layer that only copies turns its tensor into; None for all others."""
    if str(layer.get("LayerType", "")).lower() not in CHANGES:
        return None
    read, written = (next(map(type_of, layer.get(side, ())), None) for side in ("Inputs", "Outputs"))
    if read in FLOATS and written in INTEGERS:
        return "to int8"
    if read in INTEGERS and written in FLOATS:
        return "to float"
    return "layout"


def _reads(layer: Mapping[str, Any], makers: Mapping[str, str]) -> tuple[str, ...]:
    sources = (makers.get(str(tensor.get("Name"))) for tensor in layer.get("Inputs", ()))
    return tuple(dict.fromkeys(source for source in sources if source is not None))


def _moves(layer: Mapping[str, Any]) -> bool:
    """Whether a layer only copies: TensorRT names the node it copies for, which another layer computes."""
    return str(layer.get("LayerType", "")).lower() in MOVES


def nodes_of(layer: Mapping[str, Any]) -> tuple[str, ...]:
    """The ONNX nodes that a layer runs: those its metadata names, else the parts of its own name."""
    named = NODE.findall(layer.get("Metadata", ""))
    if named:
        return tuple(dict.fromkeys(named))
    return tuple(part.strip() for part in layer["Name"].split(" + "))


def precision_of(layer: Mapping[str, Any]) -> str:
    """What a layer computes in.

    In this order: the types in its kernel's name; else the wider of its weights' and its first input's type (int8
    weights that meet a float input are multiplied in float); else its first input's or output's type; else ``unknown``.
    """
    tactic = TACTIC.search(str(layer.get("TacticName", "")))
    if tactic is not None and tactic[1] in MULTIPLIED:
        return MULTIPLIED[tactic[1]]
    tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
    first = next((dtype for dtype in map(type_of, tensors) if dtype is not None), None)
    weights = layer.get("Weights")
    stored = _type_in(str(weights.get("Type", ""))) if isinstance(weights, dict) else None
    known = [dtype for dtype in (stored, first) if dtype in WIDTH]
    return max(known, key=WIDTH.index) if known else (first or "unknown")


def type_of(tensor: Mapping[str, Any]) -> str | None:
    """Type of a tensor in either schema; None if it is not told."""
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        dtype = _type_in(str(tensor.get(key, "")))
        if dtype is not None:
            return dtype
    return None


def _type_in(text: str) -> str | None:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return next((TYPES[word] for word in words if word in TYPES), None)
