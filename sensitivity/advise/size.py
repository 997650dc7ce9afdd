"""Bytes that the recipes of a study save."""

from __future__ import annotations

from sensitivity.records import StudyRecord
from sensitivity.records.size import layer_bytes


def saved_bytes(study: StudyRecord, recipe: str) -> dict[str, int]:
    """Bytes that a recipe of the study saves on each layer, by name; negative where it stores more than the model."""
    how = study.recipes[recipe]
    return {layer.name: layer_bytes(layer, None) - layer_bytes(layer, how) for layer in study.layers}
