"""Facts that pass between rooms: frozen values, JSON both ways, no torch.

``layer``: where a model can be perturbed. ``recipe``: what is done there. ``scheme``: which layer gets which recipe.
``study``: what was measured. ``signals``: what can be told without labels.
"""

from sensitivity.records.layer import Layer, SkippedModule
from sensitivity.records.recipes.recipe import Pruning, QuantSpec, Recipe
from sensitivity.records.recipes.scheme import Rule, Scheme
from sensitivity.records.results.info import StudyInfo
from sensitivity.records.results.note import Note, NoteKind
from sensitivity.records.results.signals import Signals
from sensitivity.records.results.study import Measurement, Score, Status, StudyRecord

__all__ = [
    "Layer",
    "Measurement",
    "Note",
    "NoteKind",
    "Pruning",
    "QuantSpec",
    "Recipe",
    "Rule",
    "Scheme",
    "Score",
    "Signals",
    "SkippedModule",
    "Status",
    "StudyInfo",
    "StudyRecord",
]
