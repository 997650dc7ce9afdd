"""What cures know of the inputs of layers, as it is kept with a calibration. No torch here.

A convolution multiplies its weight by patches of its input: one patch for each output position, as long as one filter.
The mean of the patches tells the mean of an output, their second moments tell the squared error that a changed weight
makes. Neither depends in size on the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import CalibrationError
from sensitivity.records import Recipe

StatisticKind = Literal["means", "shifts", "moments"]
"""Means of patches; mean errors that quantizing the activations makes of them; their second moments."""

_ARRAYS = ("mean", "shift", "moment_mean")


def statistics_for(recipe: Recipe) -> frozenset[StatisticKind]:
    """What the cures of a recipe need to know."""
    needed: set[StatisticKind] = set()
    if recipe.bias_correction:
        needed.add("means")
        if recipe.activations is not None:
            needed.add("shifts")
    if recipe.rounding == "compensated":
        needed.add("moments")
    return frozenset(needed)


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """Statistics of the inputs of one layer, over all its calls.

    A patch has (G, K) elements: for each group of a convolution, as many as one filter has weights, in their order.

    Attributes:
        mean: Mean patch over all positions of all images, float64 (G, K).
        shift: Mean error that the activation quantizer makes of a patch, float64 (G, K); None where it was not needed.
        moments: Second moments of patches, float32 (G, B, B) each: blocks along K, in order; none where not needed.
        moment_mean: Mean of the patches that the moments are of, float64 (G, K); None where there are none.
    """

    mean: NDArray[np.float64]
    shift: NDArray[np.float64] | None = None
    moments: tuple[NDArray[np.float32], ...] = ()
    moment_mean: NDArray[np.float64] | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name, in a fixed order."""
        named = {name: getattr(self, name) for name in _ARRAYS}
        arrays = {name: array for name, array in named.items() if array is not None}
        return arrays | {f"moments.{number}": block for number, block in enumerate(self.moments)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> InputStatistics:
        """What ``arrays`` gave.

        Raises:
            CalibrationError: If the arrays do not fit together.
        """
        blocks = tuple(arrays[f"moments.{number}"] for number in range(sum("moments." in name for name in arrays)))
        made = cls(arrays["mean"], arrays.get("shift"), blocks, arrays.get("moment_mean"))
        shapes = {array.shape for name, array in arrays.items() if name in _ARRAYS}
        groups, elements = made.mean.shape
        sides = [block.shape[1:] for block in blocks]
        whole = not blocks or (sum(side[0] for side in sides) == elements and made.moment_mean is not None)
        fits = all(block.shape[0] == groups and block.shape[1] == block.shape[2] for block in blocks)
        if len(shapes) != 1 or not whole or not fits:
            raise CalibrationError(
                f"statistics of inputs that do not fit together: {[a.shape for a in arrays.values()]}."
            )
        if not all(bool(np.isfinite(array).all()) for array in arrays.values()):
            raise CalibrationError("statistics of inputs that are not finite.")
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InputStatistics):
            return NotImplemented
        own, other_arrays = self.arrays(), other.arrays()
        return own.keys() == other_arrays.keys() and all(np.array_equal(own[name], other_arrays[name]) for name in own)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Statistics:
    """What cures know of the inputs of all layers.

    Attributes:
        kinds: What was measured.
        layers: Statistics by layer name.
        uncured: Layers without, with the reason.
    """

    kinds: frozenset[StatisticKind]
    layers: Mapping[str, InputStatistics] = field(default_factory=dict)
    uncured: Mapping[str, str] = field(default_factory=dict)

    def serves(self, recipe: Recipe) -> bool:
        """Whether all is known that the cures of a recipe need."""
        return statistics_for(recipe) <= self.kinds

    def facts(self) -> dict[str, Any]:
        """All but the arrays, as plain values."""
        names = {name: list(inputs.arrays()) for name, inputs in sorted(self.layers.items())}
        return {"kinds": sorted(self.kinds), "layers": names, "uncured": dict(sorted(self.uncured.items()))}

    def named_arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every array with its name in a file, in a fixed order."""
        for layer, inputs in sorted(self.layers.items()):
            for name, array in inputs.arrays().items():
                yield f"{layer} statistics/{name}", array

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Statistics:
        """What ``facts`` and ``named_arrays`` gave.

        Raises:
            CalibrationError: If something is missing or does not fit.
        """
        layers = {
            layer: InputStatistics.of_arrays({name: tensors[f"{layer} statistics/{name}"] for name in names})
            for layer, names in facts["layers"].items()
        }
        return cls(frozenset(facts["kinds"]), layers, dict(facts["uncured"]))
