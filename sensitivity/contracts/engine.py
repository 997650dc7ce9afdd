"""An engine: what runs a deployed graph, and what it can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

FormatChange = Literal["to int8", "to float", "layout"]
"""What an operation does that computes nothing; ``EngineLayer.changes`` says more."""


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One operation as an engine runs it, which may be several nodes of the graph fused into one.

    Attributes:
        name: The engine's own name of the operation.
        nodes: Names of the graph's nodes that it runs; a convolution's node bears the module path of its layer.
        precision: What it computes in: ``int8``, ``fp8``, ``fp16``, ``bf16``, ``fp32``, or the engine's own word.
        time_s: Time of one run in seconds, the median or mean of several, or None where the engine does not tell.
        reads: Names of the operations whose outputs it reads; empty where the engine does not tell.
        changes: What it does where it computes nothing and only turns a tensor into another form: ``to int8`` (or
            uint8) from float, ``to float`` from int8, or its ``layout`` in memory; None for all other operations.
    """

    name: str
    nodes: tuple[str, ...]
    precision: str
    time_s: float | None = None
    reads: tuple[str, ...] = ()
    changes: FormatChange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapabilities:
    """What an engine can run; the defaults hold for every engine that reads Q/DQ as ONNX defines it.

    Attributes:
        weight_formats: Names of number formats of weights; None for every one whose codes int8 holds.
        weight_granularities: How many weights share a scale: ``per-tensor``, ``per-channel``.
        activation_formats: The same of activations; None for every one that fills int8 or uint8.
        affine_activations: Whether activations may have a zero point other than 0.
        depthwise_channel_activations: Whether a depthwise convolution runs in int8 with a scale for each channel of its
            input (QuantizeLinear with an axis). No engine known runs other layers so.
        rests: Precisions in which it can compute what is not quantized. An engine with others than ``fp32`` is built
            with the keyword ``rest=`` where a scheme asks for one of them.
        runs_written_types: Whether it computes every node in the types that the graph has there. Half precision is
            then written into the graph that it is built of, with what stays in fp32 between casts, and ``rest=`` is not
            given.
        rounds_every_node: Whether it rounds what every node writes to the type that is written there; an engine that
            fuses nodes keeps fp32 in between.
        keeps_fp32: Whether it computes marked modules in fp32 where the other layers are in half precision.
        times_layers: Whether ``layer_info`` tells the time of every operation once the engine has run.
        takes_threads: Whether it runs on the CPU and is built with the keyword ``threads=``, a number of threads.
        dynamic: What may change in size in a graph that it runs: ``batch``, the first axis, and ``size``, the height
            and width of images.
        saturates: Whether large sums of 8-bit products are cut off on this machine, as on an x86 CPU without VNNI;
            None where only a trial can tell: ``sensitivity.deploy.doctor.saturation.capabilities_here``.
    """

    weight_formats: tuple[str, ...] | None = None
    weight_granularities: tuple[str, ...] = ("per-tensor", "per-channel")
    activation_formats: tuple[str, ...] | None = None
    affine_activations: bool = True
    depthwise_channel_activations: bool = False
    rests: tuple[str, ...] = ("fp32",)
    runs_written_types: bool = False
    rounds_every_node: bool = False
    keeps_fp32: bool = False
    times_layers: bool = False
    takes_threads: bool = False
    dynamic: tuple[str, ...] = ()
    saturates: bool | None = None


@runtime_checkable
class RunsGraph(Protocol):
    """The least that an engine has; what else ``Engine`` asks for gets its default where it is missing.

    Attributes:
        name: Short text: ``openvino``, ``onnxruntime``, ``torch``, ``tensorrt``.
    """

    name: str

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """All outputs of the graph, in its order, as numpy arrays.

        Args:
            inputs: One float array for each input of the graph, in its order.

        Raises:
            EngineError: If the number, a shape or a dtype of the inputs is not what the engine was built for.
        """

    def layer_info(self) -> list[EngineLayer]:
        """What was built: every operation with its executed precision, times where the engine was profiled."""

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        """Median time of one run in seconds, after a warm-up."""


@runtime_checkable
class Engine(RunsGraph, Protocol):
    """What runs a deployed graph; a class that inherits from this one has the defaults.

    Attributes:
        version: Version of the package that runs the graph; None where there is none to tell.
        computes_in_float: Whether the engine is a reference that computes int8 layers in float between quantizers, and
            declares it; ``verify`` then compares the codes and does not ask for int8.
        is_simulation: Whether it ignores the graph and runs the simulation itself.
        capabilities: What it can run.
        saturates: Whether large sums of 8-bit products are cut off in this engine on this machine, as on an x86 CPU
            without VNNI. None where nobody asked: ``deploy`` asks, and writes the answer here.
    """

    version: str | None = None
    computes_in_float: bool = False
    is_simulation: bool = False
    capabilities: EngineCapabilities = EngineCapabilities()
    saturates: bool | None = None


@runtime_checkable
class SavesItself(Protocol):
    """What an ``Engine`` may have besides: it is built slowly, and can be kept in a file."""

    def save(self, path: str | Path) -> None:
        """Write the built engine.

        Raises:
            EngineError: If the file cannot be written.
        """


@runtime_checkable
class ProfilesLayers(Protocol):
    """What an ``Engine`` may have besides: a profiler of its own."""

    def profile(self, *inputs: Any, repeats: int = 20) -> Mapping[str, float]:
        """Seconds of each operation by its name in ``layer_info``, which has them too from then on.

        Args:
            inputs: As for ``run``.
            repeats: Runs, after a warm-up, of which the median is taken, or the mean where only that is told.
        """
