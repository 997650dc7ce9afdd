"""Activation ranges as measured by one pass over calibration images: kept, saved, loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sensitivity.errors import CalibrationError
from sensitivity.records import QuantSpec, Recipe
from sensitivity.records.recipe import Placement

SCHEMA_VERSION = 1


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


@dataclass(frozen=True)
class Calibration:
    """Ranges of all observed tensors of one model.

    Attributes:
        ranges: The range of every point.
        spec: How the tensors were observed.
        placement: Which tensors were observed.
        images: Images seen.
        model: Digest of the weights they were measured on.
    """

    ranges: Mapping[Point, Range]
    spec: QuantSpec
    placement: Placement
    images: int
    model: str

    def fits(self, recipe: Recipe) -> bool:
        """Whether these ranges serve a recipe: same tensors, same observer, and what that looks at."""
        spec = recipe.activations
        if spec is None or self.placement != recipe.placement:
            return False
        free = {"format", "symmetric"}  # what the observer does not look at
        if spec.observer == "percentile":
            free = {"format"}
        elif spec.observer in {"mse", "entropy"}:
            free = set()
        return replace(spec, **{name: getattr(self.spec, name) for name in free}) == self.spec

    def range_of(self, point: Point) -> Range:
        """The range of a point.

        Raises:
            CalibrationError: If it was not observed: nothing ran there, or another placement was calibrated.
        """
        found = self.ranges.get(point)
        if found is None:
            observed = sorted({p.place for p in self.ranges if p.layer == point.layer})
            have = f"places {', '.join(observed)}" if observed else "nothing"
            raise CalibrationError(
                f"no range for {point}: this calibration saw {have} of {point.layer}. "
                "Calibrate with the same recipe, on images that reach this layer."
            )
        return found

    def save(self, path: str | Path) -> None:
        """Write it as JSON; every number comes back to the last bit."""
        plain = {
            "schema": SCHEMA_VERSION,
            "images": self.images,
            "model": self.model,
            "spec": asdict(self.spec),
            "placement": self.placement,
            "ranges": [asdict(point) | asdict(found) for point, found in sorted(self.ranges.items())],
        }
        Path(path).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            CalibrationError: If the file is missing or holds no calibration.
        """
        try:
            plain: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            if plain["schema"] != SCHEMA_VERSION:
                raise CalibrationError(f"{path} has schema {plain['schema']}; this version reads {SCHEMA_VERSION}.")
            ranges = {
                Point(row["layer"], row["place"], row["call"]): Range(
                    tuple(row["low"]), tuple(row["high"]), row["elements"]
                )
                for row in plain["ranges"]
            }
            return cls(ranges, QuantSpec(**plain["spec"]), plain["placement"], plain["images"], plain["model"])
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise CalibrationError(f"{path} holds no calibration: {error!r}. Calibration.save writes one.") from error
