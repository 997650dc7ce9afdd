"""What is done to a layer: formats, granularity, placement, pruning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

from sensitivity.errors import RecipeError
from sensitivity.markup.elements import described, element
from sensitivity.markup.view import view
from sensitivity.records.arguments import check_fields, checked
from sensitivity.records.recipes.formats import find_format, is_our_format
from sensitivity.records.recipes.observers import Granularity, find_observer, observers_that

Placement = Literal["deploy", "conv-norm-act"]
WeightRounding = Literal["nearest", "compensated"]
GRANULARITIES: tuple[str, ...] = get_args(Granularity)
PLACEMENTS: tuple[str, ...] = get_args(Placement)


def _check(field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(f"{field} {value!r} is not known. Choose one of: {', '.join(choices)}.")


def _as_call(value: Any, always: tuple[str, ...]) -> str:
    """A dataclass as the call that makes it: the settings named, and those that differ from their defaults."""
    shown = [
        f"{setting.name}={getattr(value, setting.name)!r}"
        for setting in fields(value)
        if setting.name in always or getattr(value, setting.name) != setting.default
    ]
    return f"{type(value).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, repr=False)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        format: Name of a number format: ours, or one that ``register_format`` added.
        granularity: One scale for the whole tensor, for each channel of ``axis``, or for each group of
            ``group_size`` elements along the flattened rest of a channel.
        symmetric: Zero point 0 and a range symmetric about zero; otherwise affine with a zero point.
        observer: Name of the observer that chooses the range: ours, or one that ``register_observer`` added.
        axis: Channel axis for ``per-channel`` and ``per-group``; None means the output channels of a weight
            (axis 0, or 1 for a transposed convolution) and axis 1 of an activation.
        group_size: Elements in a group, for ``per-group`` only.
        percentile: For the ``percentile`` observer: the share of values kept inside the range, in percent.
        sample_every: For activations and the observers that can sample (ours: ``percentile``, ``mse``, ``entropy``):
            count about every n-th value of an image; the extremes are still those of all values. 8 makes calibration
            about as fast as ``minmax``. Weights are always observed in full.

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
        check_fields(self, RecipeError)
        number_format, observer = find_format(self.format), find_observer(self.observer)
        _check("granularity", self.granularity, GRANULARITIES)
        if number_format.kind != "integer":
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
        if self.sample_every < 1 or (self.sample_every > 1 and not observer.samples):
            raise RecipeError(
                f"sample_every={self.sample_every} with observer {self.observer!r}: give a whole number from 1 on, and "
                f"more than 1 only to {observers_that(lambda kind: kind.samples)}; the others look at every value."
            )

    def __repr__(self) -> str:
        return _as_call(self, always=("format", "granularity"))

    @property
    def words(self) -> str:
        """How numbers are quantized, for people, e.g. ``int8 per-channel, symmetric, range by minmax``."""
        observer = f"{self.percentile:g} % of the values" if self.observer == "percentile" else self.observer
        parts = [
            f"{self.format} {self.granularity}",
            "symmetric" if self.symmetric else "affine",
            f"range by {observer}",
        ]
        parts += [f"groups of {self.group_size}"] if self.group_size is not None else []
        parts += [f"axis {self.axis}"] if self.axis is not None else []
        parts += [f"every {self.sample_every}th value observed"] if self.sample_every != 1 else []
        return ", ".join(parts)

    def _check_no_integer(self) -> None:
        if not self.symmetric:
            raise RecipeError(
                f"{self.format} has no zero point, so symmetric=False makes no sense. Use symmetric=True, or an "
                "integer format."
            )
        if find_observer(self.observer).integers_only:
            raise RecipeError(
                f"observer {self.observer!r} is defined for integer formats, not for {self.format!r}. Use "
                f"{observers_that(lambda kind: not kind.integers_only)}."
            )


def weights_refusal(spec: QuantSpec) -> str | None:
    """Why a weight cannot be quantized so, and what to do instead; None if it can."""
    if not find_observer(spec.observer).weights:
        return (
            f"the observer {spec.observer!r} chooses the range of activations and is not defined for weights. Give "
            f"weights {observers_that(lambda kind: kind.weights)}."
        )
    if spec.sample_every != 1:
        return (
            f"sample_every={spec.sample_every} is for activations: weights are observed in full. Leave it out of the "
            "recipe's weights."
        )
    return None


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
        check_fields(self, RecipeError)
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
        bias_correction: A cure: take the mean error that quantization makes in each output channel, over the
            calibration images, out of the layer's bias. Costs nothing when the model runs.
        rounding: How weights are rounded. ``nearest``: each by itself. ``compensated``, a cure: one after the other,
            those that follow moved so that the layer's output on the calibration images keeps the smallest squared
            error (GPTQ). Costs nothing when the model runs.

    Raises:
        RecipeError: If the recipe does nothing, a name is unknown, weights are given what only activations can have, or
            a cure is asked for where there is nothing to cure.
    """

    name: str
    weights: QuantSpec | None = None
    activations: QuantSpec | None = None
    pruning: Pruning | None = None
    placement: Placement = "deploy"
    bias_correction: bool = False
    rounding: WeightRounding = "nearest"

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        _check("placement", self.placement, PLACEMENTS)
        if self.weights is not None:
            self._check_weights(self.weights)
        if self.weights is None and self.activations is None and self.pruning is None:
            raise RecipeError(f"recipe {self.name!r} does nothing. Give weights, activations or pruning.")
        self._check_cures()

    def _check_cures(self) -> None:
        if (self.bias_correction or self.rounding != "nearest") and self.placement != "deploy":
            raise RecipeError(
                f"recipe {self.name!r} has placement {self.placement!r}, where no cure is defined: norms stay behind "
                "the layers there. Use placement='deploy', or leave bias_correction and rounding at their defaults."
            )
        if self.rounding == "compensated" and (
            self.weights is None or find_format(self.weights.format).kind != "integer"
        ):
            raise RecipeError(
                f"recipe {self.name!r} has rounding='compensated' and no weights in an integer format: there is "
                "nothing to round. Give weights=QuantSpec('int4', 'per-channel') or the like, or rounding='nearest'."
            )

    def _check_weights(self, spec: QuantSpec) -> None:
        if refusal := weights_refusal(spec):
            raise RecipeError(f"recipe {self.name!r} cannot be applied to weights: {refusal}")

    def __repr__(self) -> str:
        return _as_call(self, always=("name",))

    def _repr_html_(self) -> str:
        facts = [
            ("weights", "in float" if self.weights is None else self.weights.words),
            ("activations", "in float" if self.activations is None else self.activations.words),
            *([] if self.pruning is None else [("pruning", repr(self.pruning))]),
        ]
        facts += [("placement", self.placement), ("calibration", "needed" if self.needs_calibration else "not needed")]
        facts += [("bias correction", "yes")] if self.bias_correction else []
        facts += [("rounding", self.rounding)] if self.rounding != "nearest" else []
        return view(element("strong", f"Recipe {self.name}"), described(facts))

    @property
    def needs_calibration(self) -> bool:
        """Whether activation ranges, or what a cure needs to know of a layer's inputs, must be measured first."""
        return self.activations is not None or self.has_cures

    @property
    def has_cures(self) -> bool:
        """Whether something of it is made of the statistics of a layer's inputs: its bias, or its rounding."""
        return self.bias_correction or self.rounding != "nearest"

    @property
    def weight_bits(self) -> float:
        """Stored bits of one weight: 32 when left in floating point; pruned weights count as stored."""
        if self.weights is None:
            return 32.0
        return float(find_format(self.weights.format).bits)

    @property
    def digest(self) -> str:
        """Hash of what the recipe does (its name left out), the same on every machine.

        A number format that was registered is hashed with all of its codes, and an observer with its version: under
        the same name it may be another one.
        """
        plain = self.to_json()
        del plain["name"]
        specs = [spec for spec in (self.weights, self.activations) if spec is not None]
        if registered := sorted({spec.format for spec in specs if not is_our_format(spec.format)}):
            plain["formats"] = [asdict(find_format(name)) for name in registered]
        versions = {spec.observer: find_observer(spec.observer).version for spec in specs}
        if known := {name: version for name, version in versions.items() if version}:
            plain["observers"] = known
        if self.pruning is not None and self.pruning.level is not None:
            plain["pruned elements"] = "rounded half to even"  # an older version rounded down
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    @checked(RecipeError)
    def renamed(self, name: str) -> Recipe:
        """The same recipe under another name."""
        return replace(self, name=name)

    @checked(RecipeError)
    def cured(
        self, *, bias_correction: bool | None = None, rounding: WeightRounding | None = None, name: str | None = None
    ) -> Recipe:
        """The same recipe with cures, which cost nothing when the model runs.

        Args:
            bias_correction: As in ``Recipe``; None leaves it as it is.
            rounding: As in ``Recipe``; None leaves it as it is.
            name: Name of the new recipe; None appends the cures that it has and this one has not to its name.

        Raises:
            RecipeError: If there is nothing to cure.

        Example:
            >>> from sensitivity import INT4_WEIGHTS
            >>> INT4_WEIGHTS.cured(bias_correction=True, rounding="compensated").name
            'int4-weights+bias-correction+compensated'
        """
        corrects = self.bias_correction if bias_correction is None else bias_correction
        rounds = self.rounding if rounding is None else rounding
        added = [
            label
            for label, is_new in (
                ("bias-correction", corrects and not self.bias_correction),
                ("compensated", rounds == "compensated" and self.rounding != "compensated"),
            )
            if is_new
        ]
        title = "+".join([self.name, *added]) if name is None else name
        return replace(self, name=title, bias_correction=corrects, rounding=rounds)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal recipe.

        Cures that are not used are left out, as in files of a version that did not know them.
        """
        plain = asdict(self)
        for cure in _CURES:
            if plain[cure.name] == cure.default:
                del plain[cure.name]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Recipe:
        """The recipe that ``to_json`` described.

        Raises:
            RecipeError: If it is no dict, a key is unknown or missing, or a value makes no sense.
        """
        if not isinstance(plain, dict):
            raise RecipeError(f"not a recipe: {plain!r:.120}. Give a dict as Recipe.to_json returns.")
        parts: dict[str, Any] = dict(plain)
        kinds: dict[str, type[QuantSpec | Pruning]] = {
            "weights": QuantSpec,
            "activations": QuantSpec,
            "pruning": Pruning,
        }
        for key, kind in kinds.items():
            if parts.get(key) is not None:
                parts[key] = _made(kind, parts[key], key)
        return _made(cls, parts, "it")


_Part = TypeVar("_Part", bound=QuantSpec | Pruning | Recipe)


def _made(kind: type[_Part], facts: object, part: str) -> _Part:
    """A recipe, or a part of one, of what a file holds.

    Raises:
        RecipeError: If a key is unknown or missing, or a value makes no sense.
    """
    if not isinstance(facts, Mapping):
        raise RecipeError(f"not a recipe: {part} is {facts!r:.60}. Give what Recipe.to_json returns.")
    known = {setting.name: setting.default is MISSING for setting in fields(kind)}
    for word, keys in (
        ("does not know", [key for key in facts if key not in known]),
        ("lacks", [key for key, is_needed in known.items() if is_needed and key not in facts]),
    ):
        if keys:
            listed = ", ".join(repr(key) for key in keys)
            raise RecipeError(f"not a recipe: {part} {word} {listed:.120}. The keys are {', '.join(known)}.")
    try:
        return kind(**facts)
    except TypeError as error:
        raise RecipeError(f"not a recipe: {error}.") from error


_CURES = tuple(setting for setting in fields(Recipe) if setting.name in ("bias_correction", "rounding"))
