"""Activation ranges as measured by one pass over calibration images: kept, saved, loaded.

A calibration is one safetensors file: two float64 tensors for each observed tensor, ``<point>/low`` and
``<point>/high``, those that cures need, ``<layer> statistics/<name>``, and everything else as JSON in its metadata. One
file rather than a pair cannot be separated, is replaced in one step, and is read by any safetensors reader. Ranges that
were observed in one way only, without statistics, are written in schema 2, which older versions read; others in schema
3, where the tensors of the second way are called ``1/<point>/low``, and so on. Older versions pass over the peaks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.markup.elements import described, element
from sensitivity.markup.view import view
from sensitivity.quantize.cures.statistics import InputStatistics, Statistics
from sensitivity.records import Layer, QuantSpec, Recipe
from sensitivity.records.arguments import check, check_fields, checked
from sensitivity.records.recipes.observers import Setting, find_observer
from sensitivity.records.recipes.recipe import Placement
from sensitivity.records.storage.files import check_regular, write_bytes

SCHEMA_VERSION = 3
_ONE_PART_SCHEMA = 2
_METADATA_KEY = "sensitivity.calibration"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One tensor that is observed.

    Attributes:
        layer: Name of the layer.
        place: ``input``, or ``output`` (of the convolution), ``norm`` or ``activation`` behind it.
        call: Which call of the layer, from zero; a head shared over pyramid levels has one for each level.
    """

    layer: str
    place: str
    call: int

    def __str__(self) -> str:
        return f"{self.layer} {self.place} #{self.call}"


@dataclass(frozen=True, slots=True)
class Range:
    """The range of one observed tensor.

    Attributes:
        low: Lower end: one number, or one for each channel.
        high: Upper end, likewise.
        elements: Elements of the tensor for one image.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    elements: int


@dataclass(frozen=True, repr=False)
class Calibration:
    """Ranges of all observed tensors of one model, for one recipe or for several.

    Where the tensors were observed in several ways (the layers of a scheme may have different observers, formats or
    placements), ``ranges``, ``spec`` and ``placement`` are those of the first, and ``others`` holds the ranges of the
    further ones. ``for_recipe`` finds the ranges that a recipe needs.

    Attributes:
        ranges: The range of every point.
        spec: How the tensors were observed.
        placement: Which tensors were observed.
        images: Images seen.
        model: Digest of the weights they were measured on; with others they are refused.
        others: Ranges that the same pass observed in other ways; each has no others itself.
        statistics: What cures know of the inputs of layers; None where no recipe had any.
        peaks: The largest absolute value that each layer read on any image, and that it wrote (behind the norm module
            where it has one), in any of its calls, which count as call 0; whatever the placement, and however the
            observer clips. Part of no digest, since no simulation depends on it. Empty in files of older versions.

    Raises:
        CalibrationError: If the others were measured on other weights or images, or have others themselves.
    """

    ranges: Mapping[Point, Range]
    spec: QuantSpec
    placement: Placement
    images: int
    model: str
    others: tuple[Calibration, ...] = ()
    statistics: Statistics | None = None
    peaks: Mapping[Point, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check("others", self.others, tuple[Calibration, ...], CalibrationError)
        for other in self.others:
            if other.others or (other.images, other.model) != (self.images, self.model):
                raise CalibrationError(
                    "the parts of a calibration come from one pass: same weights, same number of images, and no parts "
                    "of their own. Give several calibrations as a list instead: calibration=[first, second]."
                )

    @classmethod
    @checked(CalibrationError)
    def joined(cls, parts: Sequence[Calibration]) -> Calibration:
        """One calibration that serves every recipe that one of its parts serves.

        Args:
            parts: Calibrations of one pass over the same images; what several have in common is kept once.

        Raises:
            CalibrationError: If there are none, or they were measured on different weights or images.
        """
        distinct: dict[Any, Calibration] = {}
        for part in (part for whole in parts for part in whole.parts):
            kinds = None if part.statistics is None else part.statistics.kinds
            distinct.setdefault((part.spec, part.placement, kinds), part)
        if not distinct:
            raise CalibrationError("parts=[] holds no calibration to join. Give at least one.")
        first, *others = (replace(part, peaks={}) for part in distinct.values())
        return replace(first, others=tuple(others), peaks=largest_peaks(parts))

    @property
    def parts(self) -> tuple[Calibration, ...]:
        """The ranges of each way of observing by itself, in the order of the recipes that were calibrated."""
        return (replace(self, others=()), *self.others) if self.others else (self,)

    @checked(CalibrationError)
    def fits(self, recipe: Recipe) -> bool:
        """Whether this serves a recipe: same tensors, same observer, what that looks at, and what its cures need."""
        return any(part._serves(recipe) for part in (self, *self.others))

    def _serves(self, recipe: Recipe) -> bool:
        known = not recipe.has_cures or (self.statistics is not None and self.statistics.serves(recipe))
        return known and serves(self.spec, self.placement, recipe)

    @checked(CalibrationError)
    def for_recipe(self, recipe: Recipe) -> Calibration:
        """The ranges that a recipe needs, by themselves: the same as from a pass for this recipe alone.

        Raises:
            CalibrationError: If they were not measured.
        """
        fitting = next((part for part in self.parts if part.fits(recipe)), None)
        if fitting is None:
            known = ", ".join(f"{part.spec} at placement {part.placement!r}" for part in self.parts)
            raise CalibrationError(
                f"no ranges for recipe {recipe.name!r}: this calibration holds those of {known}. Call "
                "wrapped.calibrate(images, recipe)."
            )
        return replace(fitting, spec=recipe.activations or fitting.spec, peaks=self.peaks)

    @checked(CalibrationError)
    def inputs_of(self, layer: str) -> InputStatistics | None:
        """Statistics of a layer's inputs for cures; None where there are none."""
        return None if self.statistics is None else self.statistics.layers.get(layer)

    @checked(CalibrationError)
    def range_of(self, point: Point) -> Range:
        """The range of a point, as ``spec`` observed it.

        Raises:
            CalibrationError: If it was not observed: no image reached it, or another placement was calibrated.
        """
        known = self.ranges.get(point)
        if known is None:
            raise CalibrationError(f"no range for {point}: {self._why_missing(point)}")
        return known

    def _why_missing(self, point: Point) -> str:
        observed = [str(other) for other in sorted(self.ranges) if other.layer == point.layer]
        if not observed:
            return (
                f"none of the {self.images} calibration images gave {point.layer} any values. Calibrate on images that "
                f"reach it, or leave it in float: scheme.protect({point.layer!r})."
            )
        return (
            f"the calibration images gave values to {', '.join(observed)} only. Calibrate with the same recipe, on "
            f"images that reach this place too, or leave the layer in float: scheme.protect({point.layer!r})."
        )

    def __repr__(self) -> str:
        ways = self._ways
        shown = [*ways[:3], *([f"{len(ways) - 3} more"] if len(ways) > 3 else [])]
        return f"Calibration({self.images} images, {self._layer_count} layers: {'; '.join(shown)})"

    def _repr_html_(self) -> str:
        title = f"Calibration of {self._layer_count} layers on {self.images:,} images"
        facts = [("observed as", way) for way in self._ways]
        return view(element("strong", title), described([*facts, ("weights (digest)", self.model)]))

    @property
    def _layer_count(self) -> int:
        return len({point.layer for part in self.parts for point in part.ranges})

    @property
    def _ways(self) -> list[str]:
        """How the tensors were observed, one text for each part."""
        return [
            f"{part.spec.format} {part.spec.granularity} {part.spec.observer} at placement {part.placement}"
            for part in self.parts
        ]

    @cached_property
    def digest(self) -> str:
        """Hash of all of it: weights, spec, placement, number of images, and every range to the last bit."""
        digest = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        for part in self.parts:
            for _, measured in part._ordered():
                for bound in (measured.low, measured.high):
                    digest.update(_as_array(bound).tobytes())
            for name, array in part._statistics_arrays():
                digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()[:32]

    @checked(CalibrationError)
    def save(self, path: str | Path) -> None:
        """Write one safetensors file, in one step; every number comes back to the last bit.

        Args:
            path: Where to; ``.safetensors`` is the usual ending.
        """
        tensors: dict[str, NDArray[Any]] = {}
        for number, part in enumerate(self.parts):
            for point, measured in part._ordered():
                tensors[_key(number, point, "low")] = _as_array(measured.low)
                tensors[_key(number, point, "high")] = _as_array(measured.high)
            tensors |= {_numbered(number, name): array for name, array in part._statistics_arrays()}
        metadata = json.dumps(self._facts() | {"digest": self.digest} | _peak_facts(self.peaks))
        write_bytes(path, save(tensors, {_METADATA_KEY: metadata}))

    @classmethod
    @checked(CalibrationError)
    def load(cls, path: str | Path) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            CalibrationError: If the file is missing, damaged, or holds no calibration.
        """
        plain, tensors = _read(Path(path))
        try:
            if plain["schema"] not in (_ONE_PART_SCHEMA, SCHEMA_VERSION):
                raise CalibrationError(
                    f"it has schema {plain['schema']!r:.40}; this version reads {_ONE_PART_SCHEMA} and "
                    f"{SCHEMA_VERSION}."
                )
            described = [plain, *plain.get("others", [])]
            shared = {name: plain[name] for name in ("images", "model")}
            parts = [_loaded_part(shared | part, number, tensors) for number, part in enumerate(described)]
            loaded = replace(parts[0], others=tuple(parts[1:]), peaks=_loaded_peaks(plain))
            digest, expected = loaded.digest, plain["digest"]
        except CalibrationError as error:
            raise CalibrationError(f"{path} holds no whole calibration: {error} Calibrate again.") from error
        except (KeyError, TypeError, ValueError, AttributeError, RecipeError) as error:
            raise CalibrationError(f"{path} holds no whole calibration: {error!r}. Calibrate again.") from error
        if digest != expected:
            raise CalibrationError(
                f"{path} is damaged: its content has the digest {digest}, not {expected} as when it was "
                "written. Calibrate again, or copy the file anew."
            )
        return loaded

    def _ordered(self) -> Iterable[tuple[Point, Range]]:
        return sorted(self.ranges.items())

    def _statistics_arrays(self) -> Iterable[tuple[str, NDArray[Any]]]:
        return () if self.statistics is None else self.statistics.named_arrays()

    def _facts(self) -> dict[str, Any]:
        """All but the bounds and other arrays, as plain values."""
        facts = {
            "schema": SCHEMA_VERSION if self.others or self.statistics is not None else _ONE_PART_SCHEMA,
            "images": self.images,
            "model": self.model,
        } | self._observed()
        return facts | {"others": [other._observed() for other in self.others]} if self.others else facts

    def _observed(self) -> dict[str, Any]:
        """What one part observed, as plain values."""
        measured_besides = {} if self.statistics is None else {"statistics": self.statistics.facts()}
        return measured_besides | {
            "spec": asdict(self.spec),
            "placement": self.placement,
            "points": [[p.layer, p.place, p.call, measured.elements] for p, measured in self._ordered()],
        }


def _loaded_part(plain: dict[str, Any], number: int, tensors: Mapping[str, NDArray[np.float64]]) -> Calibration:
    """One part of a file: its facts, and the bounds among the tensors."""
    ranges = {}
    for layer, place, call, elements in plain["points"]:
        point = Point(layer, place, call)
        low, high = (tuple(tensors[_key(number, point, end)].tolist()) for end in ("low", "high"))
        ranges[point] = Range(low, high, elements)
        check_fields(point, CalibrationError)
        check_fields(ranges[point], CalibrationError)
    part = Calibration(ranges, QuantSpec(**plain["spec"]), plain["placement"], plain["images"], plain["model"])
    check_fields(part, CalibrationError, skip=("ranges", "others", "statistics", "peaks"))
    if "statistics" not in plain:
        return part
    own = {name.removeprefix(_numbered(number, "")): tensor for name, tensor in tensors.items()}
    return replace(part, statistics=Statistics.of_facts(plain["statistics"], own))


def largest_peaks(calibrations: Iterable[Calibration]) -> dict[Point, float]:
    """The peaks of all of some calibrations; where several saw a point, the largest."""
    peaks: dict[Point, float] = {}
    for calibration in calibrations:
        for point, value in calibration.peaks.items():
            peaks[point] = max(peaks.get(point, 0.0), value)
    return peaks


def _peak_facts(peaks: Mapping[Point, float]) -> dict[str, Any]:
    """Peaks as plain values with a digest of their own; nothing where there are none."""
    listed = [[point.layer, point.place, point.call, value] for point, value in sorted(peaks.items())]
    return {"peaks": listed, "peaks digest": _digest_of(listed)} if listed else {}


def _loaded_peaks(plain: dict[str, Any]) -> dict[Point, float]:
    """The peaks among the facts of a file.

    Raises:
        CalibrationError: If they are not what was written.
    """
    listed = plain.get("peaks", [])
    if listed and _digest_of(listed) != plain["peaks digest"]:
        raise CalibrationError("the largest values of its layers are not those that were written.")
    peaks = {Point(layer, place, call): float(value) for layer, place, call, value in listed}
    for point in peaks:
        check_fields(point, CalibrationError)
    return peaks


def _digest_of(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


def _key(number: int, point: Point, end: str) -> str:
    """Name of a tensor in a file; those of the first part are called by their point alone."""
    return _numbered(number, f"{point}/{end}")


def _numbered(number: int, name: str) -> str:
    return f"{number}/{name}" if number else name


def serves(spec: QuantSpec, placement: Placement, recipe: Recipe) -> bool:
    """Whether ranges that were observed for a spec in a placement are those that a recipe needs."""
    needed = recipe.activations
    if placement != recipe.placement:
        return False
    if needed is None:
        return recipe.has_cures  # it needs no ranges, so that any will do
    ignored = set(get_args(Setting)) - find_observer(needed.observer).depends_on
    compared = (field.name for field in fields(QuantSpec) if field.name not in ignored)
    return all(getattr(needed, name) == getattr(spec, name) for name in compared)


def _as_array(bound: tuple[float, ...]) -> NDArray[np.float64]:
    return np.asarray(bound, dtype="<f8")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """The facts and the tensors of a file.

    Raises:
        CalibrationError: If it is missing, no safetensors file, or one of something else.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _METADATA_KEY not in metadata:
                raise CalibrationError(
                    f"{path} holds tensors, but no calibration. Give a file that Calibration.save wrote."
                )
            facts = json.loads(metadata[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError as error:
        raise CalibrationError(f"no calibration at {path}. Calibration.save writes one.") from error
    except (SafetensorError, OSError, ValueError, RecursionError, MemoryError) as error:
        raise CalibrationError(
            f"{path} holds no calibration, or is damaged: {error}. Give a file that Calibration.save wrote."
        ) from error
    if not isinstance(facts, dict):
        raise CalibrationError(f"{path} holds no calibration: its facts are {facts!r:.60}. Calibrate again.")
    return facts, tensors


def why_unreached(calibration: Calibration, layer: Layer) -> str:
    """Why the input of one of a layer's calls has no range; empty where all have one."""
    calls = (Point(layer.name, "input", call) for call in range(layer.calls))
    missing = next((point for point in calls if point not in calibration.ranges), None)
    return "" if missing is None else f"no range for {missing}: {calibration._why_missing(missing)}"
