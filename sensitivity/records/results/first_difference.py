"""Where the tensors inside a deployed graph part from the simulation, though every layer by itself agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from sensitivity.errors import StudyError
from sensitivity.records.arguments import check_fields

_SHOWN_NODES = 8


class Origin(StrEnum):
    """What is at fault where correct layers give a wrong whole."""

    ENGINE = "engine"
    """ONNX's own definition of the nodes gives what was simulated, and the engine does not."""

    GRAPH = "graph"
    """ONNX's own definition of the nodes gives something else than was simulated: the export wrote another model."""

    UNKNOWN = "unknown"
    """No piece of the graph shows the difference by itself, or ONNX's own definition could not be run."""


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """The first tensor of a graph that parts from the simulation, in the order in which the graph is computed.

    Attributes:
        part: Path of the exported submodule; empty for the whole model.
        tensor: Name of the tensor in the graph.
        layer: Name of the layer that writes it; empty where it is an output that no layer writes.
        sqnr_db: The engine's tensor against the simulation's.
        simulation_sqnr_db: The simulation's against fp32; None where that was not compared.
        behind: Layers in front of it whose outputs agree, in execution order.
        nodes: Names of the nodes that give the difference when the engine runs them alone on the simulation's numbers;
            the first is where it begins. Empty where no piece shows it.
        operators: Operator of each node.
        origin: What is at fault.
    """

    part: str
    tensor: str
    layer: str
    sqnr_db: float
    simulation_sqnr_db: float | None = None
    behind: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    origin: Origin = Origin.UNKNOWN

    @property
    def node(self) -> str:
        """Name of the node where the difference begins; empty where no piece of the graph shows it."""
        return self.nodes[0] if self.nodes else ""

    @property
    def reason(self) -> str:
        """The same as sentences for people."""
        subject = f"the output of layer {self.layer}" if self.layer else f"the output {self.tensor}"
        compared = f"SQNR {self.sqnr_db:.1f} dB to the simulation"
        if self.simulation_sqnr_db is not None:
            compared += f", which has {self.simulation_sqnr_db:.1f} dB to fp32"
        agree = ""
        if self.behind:
            agree = f"; the outputs of the layers in front of it ({', '.join(self.behind)}) agree"
        return f"the tensors part first at {subject} ({compared}){agree}. {self._where()}"

    def _where(self) -> str:
        if not self.nodes:
            return "No piece of the graph shows this by itself, so that the node where it begins is not known."
        shown = [f"{node} ({kind})" for node, kind in zip(self.nodes, self.operators, strict=True)]
        if len(shown) > _SHOWN_NODES:
            shown = [*shown[: _SHOWN_NODES - 1], f"{len(shown) - _SHOWN_NODES} more", shown[-1]]
        chain = ", ".join(shown)
        if self.origin is Origin.GRAPH:
            return (
                f"It begins at node {shown[0]}: by ONNX's own definition the nodes {chain} compute something else than "
                "the model does, so that the exported graph is wrong, not the engine."
            )
        advice = f"protect {self.layer!r}" if self.layer else "protect the layers in front of it"
        right = ", which ONNX's own definition computes as simulated" if self.origin is Origin.ENGINE else ""
        return (
            f"It begins at node {shown[0]}: the engine computes the nodes {chain} wrongly when it runs them "
            f"together{right}. Try another version of the engine, or {advice}."
        )

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made plain values of.

        Raises:
            StudyError: If it is something else.
        """
        lists = {name: tuple(plain.get(name, ())) for name in ("behind", "nodes", "operators")}
        try:
            difference = cls(**{**plain, **lists, "origin": Origin(plain.get("origin", "unknown"))})
        except (TypeError, ValueError) as error:
            raise StudyError(f"first_differences holds no difference: {error}.") from error
        check_fields(difference, StudyError, skip=("sqnr_db", "simulation_sqnr_db"))
        return difference
