"""Activation tensors by size: what a calibration that kept them all would have to keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from sensitivity.records import Layer

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ActivationTensor:
    """The tensor behind one activation function.

    Attributes:
        name: ``stage:block:layer:act:kind``, e.g. ``stage3:0:1:act:mb``.
        elements: Its elements over all samples.
    """

    name: str
    elements: int


class ActivationTable(Sequence[ActivationTensor]):
    """The tensors behind a model's activation functions, in execution order.

    Attributes:
        samples: Number of samples that the sizes are for.
    """

    def __init__(self, layers: Iterable[Layer], *, samples: int, batch: int) -> None:
        self.samples = samples
        self._tensors = tuple(
            ActivationTensor(f"{layer.name}:act:{layer.kind}", layer.activation_elements * samples // batch)
            for layer in layers
            if layer.activation is not None and layer.activation_elements is not None
        )

    @overload
    def __getitem__(self, key: int) -> ActivationTensor: ...

    @overload
    def __getitem__(self, key: slice) -> Sequence[ActivationTensor]: ...

    def __getitem__(self, key: int | slice) -> ActivationTensor | Sequence[ActivationTensor]:
        return self._tensors[key]

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[ActivationTensor]:
        return iter(self._tensors)

    @property
    def largest(self) -> ActivationTensor | None:
        """The tensor with the most elements; None where the model has no activation function."""
        return max(self._tensors, key=lambda tensor: tensor.elements, default=None)

    def to_frame(self) -> pd.DataFrame:
        """One row a tensor: name, elements, bytes in float32."""
        import pandas as pd

        rows = [(tensor.name, tensor.elements, 4 * tensor.elements) for tensor in self._tensors]
        return pd.DataFrame(rows, columns=["name", "elements", "float32_bytes"])

    def __repr__(self) -> str:
        plural = "s" if self.samples != 1 else ""
        width = max((len(tensor.name) for tensor in self._tensors), default=0)
        total = sum(tensor.elements for tensor in self._tensors)
        lines = [f"{len(self)} activation tensors, elements for {self.samples} sample{plural}"]
        for tensor in self._tensors:
            mark = "  largest" if tensor is self.largest else ""
            lines.append(f"{tensor.name:{width}}  {tensor.elements:.2e}{mark}")
        return "\n".join([*lines, f"{'all':{width}}  {total:.2e}  ({4 * total / 2**20:.0f} MiB in float32)"])
