"""What an export is asked for, and what it gives: graphs of parts of a model, and what failed on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from sensitivity.deploy.graph.export.dynamic import DynamicAxis
from sensitivity.deploy.prepare.signature import Signature

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""The version of ONNX operators that is written; every engine here reads it."""

HALF_OPSET = 20
"""The version for graphs in half precision: the first with GELU as one operator, which then rounds once, as torch's."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One link of the chain that failed.

    Attributes:
        part: Path of the submodule; empty for the whole model.
        exporter: ``dynamo``, ``legacy``, or ``none`` where there was nothing to try.
        reason: What was wrong.
        printed: What the exporter printed and warned of.
    """

    part: str
    exporter: str
    reason: str
    printed: str = field(default="", compare=False)

    def __str__(self) -> str:
        subject = self.part or "the whole model"
        return f"{subject}: {self.reason}" if self.exporter == "none" else f"{subject} ({self.exporter}): {self.reason}"


@dataclass(frozen=True)
class GraphForm:
    """What graphs are written for.

    Attributes:
        dynamic: What may change in size when they are run.
        opset: Version of ONNX operators.
    """

    dynamic: tuple[DynamicAxis, ...] = ()
    opset: int = OPSET


FIXED = GraphForm()
"""The sizes of the example, for any engine."""


@dataclass(frozen=True, eq=False)
class Part:
    """A submodule as an fp32 graph.

    Attributes:
        path: Its path in the model; empty for the whole model.
        graph: The graph; weights are named by their path in the whole model.
        signature: What it takes and returns.
        exporter: Which exporter wrote it.
        example: The input tensors of the example pass.
        printed: What the exporter printed and warned of.
        dynamic: What may change in size.
    """

    path: str
    graph: ModelProto
    signature: Signature
    exporter: str
    example: tuple[Tensor, ...]
    printed: str = ""
    dynamic: tuple[DynamicAxis, ...] = ()


@dataclass(frozen=True, eq=False)
class Exported:
    """What could be exported of a model, and what not.

    Attributes:
        parts: The graphs, none inside another.
        attempts: What failed on the way.
    """

    parts: tuple[Part, ...]
    attempts: tuple[Attempt, ...]
