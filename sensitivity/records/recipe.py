"""What is done to a layer: formats, granularity, placement, pruning."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from sensitivity.errors import RecipeError

INTEGERS = ("int2", "int3", "int4", "int5", "int6", "int7", "int8", "uint8", "int16")
FORMATS = (*INTEGERS, "fp8_e4m3", "fp8_e5m2", "log2")
OBSERVERS = ("minmax", "ema", "percentile", "mse", "entropy")
COUNTING_OBSERVERS = ("percentile", "mse", "entropy")
GRANULARITIES = ("per-tensor", "per-channel", "per-group")
PLACEMENTS = ("deploy", "conv-norm-act")

Granularity = Literal["per-tensor", "per-channel", "per-group"]
Placement = Literal["deploy", "conv-norm-act"]


def _check(what: str, given: object, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise RecipeError(f"{what} {given!r} is not known. Choose one of: {', '.join(choices)}.")


def _unusual(value: Any, always: tuple[str, ...]) -> str:
    """A dataclass as the call that makes it, without the settings that are as they usually are."""
    shown = [
        f"{one.name}={getattr(value, one.name)!r}"
        for one in fields(value)
        if one.name in always or getattr(value, one.name) != one.default
    ]
    return f"{type(value).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, repr=False)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        format: Number format, one of ``FORMATS``.
        granularity: One scale for the whole tensor, for each channel of ``axis``, or for each group of
            ``group_size`` elements along the flattened rest of a channel.
        symmetric: Zero point 0 and a range symmetric about zero; otherwise affine with a zero point.
        observer: How the range is chosen, one of ``OBSERVERS``.
        axis: Channel axis for ``per-channel`` and ``per-group``; None means the output channels of a weight
            (axis 0, or 1 for a transposed convolution) and axis 1 of an activation.
        group_size: Elements in a group, for ``per-group`` only.
        percentile: For the ``percentile`` observer: the share of values kept inside the range, in percent.
        sample_every: For the observers that count values (``percentile``, ``mse``, ``entropy``) in activations: count
            about every n-th value of an image; the extremes are still those of all values. 8 makes calibration about
            as fast as ``minmax``. Weights are always observed in full.

    Raises:
        RecipeError: If a name is unknown or the settings contradict each other.
    """

    format: str = "int8"
    granularity: Granularity = "per-tensor"
    symmetric: bool = True
    observer: str = "minmax"
    axis: int | None = None
    group_size: int | None = None
    percentile: float = 99.99
    sample_every: int = 1

    def __post_init__(self) -> None:
        _check("number format", self.format, FORMATS)
        _check("granularity", self.granularity, GRANULARITIES)
        _check("observer", self.observer, OBSERVERS)
        if self.format not in INTEGERS:
            self._check_no_integer()
        if (self.group_size is not None) != (self.granularity == "per-group"):
            raise RecipeError(
                f"group_size={self.group_size} with granularity {self.granularity!r}: give group_size for "
                "'per-group', and only there."
            )
        if self.group_size is not None and self.group_size < 1:
            raise RecipeError(f"group_size must be at least 1, not {self.group_size}.")
        if not 50.0 < self.percentile <= 100.0:
            raise RecipeError(f"percentile must lie in (50, 100], not {self.percentile}.")
        if self.sample_every < 1 or (self.sample_every > 1 and self.observer not in COUNTING_OBSERVERS):
            raise RecipeError(
                f"sample_every={self.sample_every} with observer {self.observer!r}: give a whole number from 1 on, and "
                f"more than 1 only to {', '.join(COUNTING_OBSERVERS)}; the others look at every value."
            )

    def __repr__(self) -> str:
        return _unusual(self, always=("format", "granularity"))

    def _check_no_integer(self) -> None:
        if not self.symmetric:
            raise RecipeError(
                f"{self.format} has no zero point, so symmetric=False makes no sense. Use symmetric=True, or an "
                "integer format."
            )
        if self.observer == "entropy":
            raise RecipeError(
                f"observer 'entropy' is defined for integer formats, not for {self.format!r}. Use 'minmax', "
                "'percentile' or 'mse'."
            )


@dataclass(frozen=True, slots=True)
class Pruning:
    """Which weights are set to zero.

    Attributes:
        level: Share of weights removed by magnitude, in [0, 1); None for an N:M pattern.
        n: Weights kept in each group of ``m`` along the input channels; None for a level.
        m: Size of the group.

    Raises:
        RecipeError: If neither or both of level and N:M are given, or a number is out of range.
    """

    level: float | None = None
    n: int | None = None
    m: int | None = None

    def __post_init__(self) -> None:
        pattern = self.n is not None and self.m is not None
        if (self.level is None) != pattern or (self.n is None) != (self.m is None):
            raise RecipeError(f"pruning takes either a level or an n:m pattern; given {self}.")
        if self.level is not None and not 0.0 <= self.level < 1.0:
            raise RecipeError(
                f"pruning level must lie in [0, 1), not {self.level}: it is the share of weights removed."
            )
        if self.n is not None and self.m is not None and not 0 < self.n < self.m:
            raise RecipeError(f"an n:m pattern keeps 0 < n < m weights in each group of m, not {self.n}:{self.m}.")


@dataclass(frozen=True, slots=True, repr=False)
class Recipe:
    """What is done to a layer, as a value.

    Attributes:
        name: Short text for tables and plots.
        weights: How the weight is quantized; None leaves it in floating point.
        activations: How activations are quantized; None leaves them in floating point.
        pruning: Which weights are removed; None keeps all.
        placement: Where quantizers sit. ``deploy``: the layer's input and its batch-norm-folded weight, as
            TensorRT and OpenVINO run it. ``conv-norm-act``: input, raw weight, convolution output, norm output and
            activation output, as the thesis simulated it.

    Raises:
        RecipeError: If the recipe does nothing, a name is unknown, or weights are given what only activations can have.
    """

    name: str
    weights: QuantSpec | None = None
    activations: QuantSpec | None = None
    pruning: Pruning | None = None
    placement: Placement = "deploy"

    def __post_init__(self) -> None:
        _check("placement", self.placement, PLACEMENTS)
        if self.weights is not None:
            self._check_weights(self.weights)
        if self.weights is None and self.activations is None and self.pruning is None:
            raise RecipeError(f"recipe {self.name!r} does nothing. Give weights, activations or pruning.")

    def _check_weights(self, spec: QuantSpec) -> None:
        if spec.observer == "entropy":
            raise RecipeError(
                f"recipe {self.name!r} gives weights the observer 'entropy', which chooses the range of activations "
                "and is not defined for weights. Give weights 'minmax', 'percentile' or 'mse'."
            )
        if spec.sample_every != 1:
            raise RecipeError(
                f"recipe {self.name!r} gives weights sample_every={spec.sample_every}: weights are observed in full. "
                "Leave it out of the recipe's weights."
            )

    def __repr__(self) -> str:
        return _unusual(self, always=("name",))

    @property
    def needs_calibration(self) -> bool:
        """Whether activation ranges must be measured first."""
        return self.activations is not None

    @property
    def weight_bits(self) -> float:
        """Stored bits of one weight: 32 when left in floating point; pruned weights count as stored."""
        if self.weights is None:
            return 32.0
        digits = "".join(c for c in self.weights.format.removeprefix("fp8").removeprefix("log2") if c.isdigit())
        if self.weights.format.startswith("fp8"):
            return 8.0
        return float(digits) if self.weights.format != "log2" else 4.0

    @property
    def digest(self) -> str:
        """Hash of what the recipe does (its name left out), the same on every machine."""
        plain = self.to_json()
        del plain["name"]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    def renamed(self, name: str) -> Recipe:
        """The same recipe under another name."""
        return replace(self, name=name)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal recipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Recipe:
        """The recipe that ``to_json`` described.

        Raises:
            RecipeError: If a key is unknown or a value makes no sense.
        """
        try:
            parts: dict[str, Any] = dict(plain)
            for key, make in (("weights", QuantSpec), ("activations", QuantSpec), ("pruning", Pruning)):
                if parts.get(key) is not None:
                    parts[key] = make(**parts[key])
            return cls(**parts)
        except TypeError as error:
            raise RecipeError(f"not a recipe: {error}. Given keys: {', '.join(map(str, plain))}.") from error
