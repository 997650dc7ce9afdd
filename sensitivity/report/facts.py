"""What a study is of and how it was made, as names and texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sensitivity.report.reading import Reading
from sensitivity.report.tables.text import counts


def study_facts(reading: Reading, recipes: Iterable[str]) -> dict[str, str]:
    """Name and text of each fact that is known.

    Args:
        reading: What there is to show.
        recipes: Names of the recipes to show.
    """
    study, info = reading.study, reading.study.info
    facts = {
        "baseline": reading.baseline,
        "images": f"{study.baseline.images:,}",
        "direction": study.direction,
        "layers": f"{len(study.layers)}",
        **{f"recipe {name}": counts(reading, name) for name in recipes},
        "intervals": reading.intervals,
        **{f"rank correlation with the drops, {name}": reading.agreement_of(name) for name in recipes},
        "calibration images": _images(info.calibration_images),
        "weights (digest)": info.weights or "",
        "data (digest)": info.data or "",
        "versions": ", ".join(
            f"{name} {version}" for name, version in (("sensitivity", info.version), ("torch", info.torch)) if version
        ),
        "time": "" if info.seconds is None else f"{info.seconds:,.3g} s",
        "read from": info.source or "",
    }
    return {name: text for name, text in facts.items() if text}


def _images(images: int | Mapping[str, int] | None) -> str:
    if isinstance(images, Mapping):
        return ", ".join(f"{name} {count:,}" for name, count in images.items())
    return "" if images is None else f"{images:,}"
