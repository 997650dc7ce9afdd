"""Graphs whose weights lie in other files, which an engine would look for in the current folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from sensitivity.errors import EngineError

_KEY = b"\n\x08location\x12"
"""How an ONNX file holds the key that names another file."""


def check_self_contained(graph: bytes, name: str) -> None:
    """Refuse a graph that reads weights from other files: ``deployed.save`` writes none, and hashes do not cover them.

    Args:
        graph: Content of an ONNX file. Where the package ``onnx`` is not installed, the bytes alone are searched.
        name: Of the file, for the message.

    Raises:
        EngineError: If it does.
    """
    if b"location" not in graph:
        return
    tensors = list(_outside(graph)) if find_spec("onnx") else ["a weight"] * (_KEY in graph)
    if tensors:
        raise EngineError(
            f"{name} holds a graph whose weights lie in other files ({tensors[0]!r:.60}), which no deployment does. Do "
            "not trust it; save the deployment again."
        )


def _outside(graph: bytes) -> Iterator[str]:
    """Names of the tensors that are stored elsewhere; nothing where this is no graph, which the engine will tell."""
    import onnx

    try:
        model = onnx.load_model_from_string(graph)
    except Exception:  # noqa: BLE001 - protobuf's own errors, which differ from version to version
        return
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            if message.external_data or message.data_location == onnx.TensorProto.EXTERNAL:
                yield message.name
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else list(value)
