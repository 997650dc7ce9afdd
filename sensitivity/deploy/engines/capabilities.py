"""What the engines of this library can run."""

from __future__ import annotations

from sensitivity.contracts import EngineCapabilities

OPENVINO = EngineCapabilities(
    depthwise_channel_activations=True,
    rests=("fp32", "bf16", "fp16"),
    times_layers=True,
    takes_threads=True,
    dynamic=("batch", "size"),
)
"""Whether the CPU computes in half precision, and whether it saturates, is asked on the machine."""

ONNXRUNTIME = EngineCapabilities(
    depthwise_channel_activations=True,
    rests=("fp32", "fp16"),
    runs_written_types=True,
    rounds_every_node=True,
    keeps_fp32=True,
    takes_threads=True,
    dynamic=("batch", "size"),
    saturates=False,
)

ONNXRUNTIME_INT8 = EngineCapabilities(times_layers=True, takes_threads=True, dynamic=("batch", "size"))
"""Scales for each channel of an input stay in float here; whether it saturates is asked on the machine."""

TENSORRT = EngineCapabilities(
    activation_formats=("int8",),
    affine_activations=False,
    rests=("fp32", "fp16"),
    runs_written_types=True,
    keeps_fp32=True,
    times_layers=True,
    dynamic=("batch",),
    saturates=False,
)
"""Symmetric int8 with zero point 0 only; a GPU adds products of int8 in 32 bits."""

SIMULATION = EngineCapabilities(
    depthwise_channel_activations=True, rests=("fp32", "bf16", "fp16"), keeps_fp32=True, saturates=False
)
