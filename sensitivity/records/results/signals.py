"""What can be told of each layer without labels: measured signals, and estimates that are no measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from sensitivity.errors import StudyError
from sensitivity.records.recipes.recipe import Recipe
from sensitivity.records.results.study import StudyRecord

if TYPE_CHECKING:
    import pandas as pd

AnyStudy = TypeVar("AnyStudy", bound=StudyRecord)

WEIGHT_SQNR, LAYER_SQNR, OUTPUT_SQNR = "weight_sqnr_db", "layer_sqnr_db", "output_sqnr_db"
LAYER_COSINE, OUTPUT_COSINE = "layer_cosine", "output_cosine"
DEAD_SHARE, CLIPPED_SHARE, CHANNEL_RATIO = "dead_share", "clipped_share", "channel_ratio"
FIRST_ORDER, SECOND_ORDER = "estimate_first_order", "estimate_second_order"
OUTPUT_MSE = "estimate_output_mse"
DEPLOYED_SCORE, DEPLOYED_DROP = "deployed_score", "deployed_drop"

SIMILARITIES = (WEIGHT_SQNR, LAYER_SQNR, OUTPUT_SQNR, LAYER_COSINE, OUTPUT_COSINE)
"""Higher means less perturbed."""
ESTIMATES = (FIRST_ORDER, SECOND_ORDER, OUTPUT_MSE)
"""Guesses of how much a layer matters; higher means a larger drop is to be expected. No measurements of the drop."""
IN_UNIT_OF_METRIC = (DEPLOYED_SCORE, DEPLOYED_DROP)
"""Scores and drops of the task's metric: fractions where its unit is ``%``."""


@dataclass(frozen=True, eq=False)
class Signals(Mapping[str, Mapping[str, float]]):
    """Label-free numbers of each layer, perturbed by itself; a mapping from the layer's name to name and number.

    Attributes:
        model: Name of the model.
        recipe: What was done to each layer.
        of_layer: Layer to signal to number, in execution order; a signal that a layer has not is left out.
        images: Images they are of.
        failed: Layer to the reason why it has none.
        notes: What a reader should know of how they were found.
    """

    model: str
    recipe: Recipe
    of_layer: Mapping[str, Mapping[str, float]]
    images: int
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, layer: str) -> Mapping[str, float]:
        return self.of_layer[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.of_layer)

    def __len__(self) -> int:
        return len(self.of_layer)

    @property
    def names(self) -> list[str]:
        """Every signal that some layer has, in order of first appearance."""
        return list(dict.fromkeys(name for signals in self.of_layer.values() for name in signals))

    def to_frame(self) -> pd.DataFrame:
        """One row a layer, one column a signal; NaN for what is absent."""
        import pandas as pd

        rows = [{"name": layer, **signals} for layer, signals in self.of_layer.items()]
        rows += [{"name": layer} for layer in self.failed if layer not in self.of_layer]
        return pd.DataFrame(rows, columns=["name", *self.names])

    def __repr__(self) -> str:
        table = self.to_frame().to_string(index=False, float_format="{:.4g}".format, na_rep="–")
        lines = [f"{self.recipe.name}: {len(self)} layers of {self.model}, {self.images} images"]
        if set(self.names) & set(ESTIMATES):
            lines.append("estimate_* are ESTIMATES of how much a layer matters, not measured drops")
        lines += [table, *(f"{layer}: {reason}" for layer, reason in self.failed.items()), *self.notes]
        return "\n".join(lines)


def with_signals(study: AnyStudy, signals: Signals) -> AnyStudy:
    """The same study with the signals of a recipe added to its measurements; a signal that is there is replaced.

    Layers with signals that the study did not analyse, and layers without signals, are named in the notes.

    Args:
        study: What was measured, one layer at a time.
        signals: Of the same model and of one of the study's recipes; its name does not count, what it does does.

    Raises:
        StudyError: If the study has no such recipe, or a layer of the signals, or perturbs all layers but one.
    """
    if study.direction != "one-at-a-time":
        raise StudyError("signals are of one layer perturbed by itself: they say nothing of all-but-one measurements.")
    name = next((key for key, recipe in study.recipes.items() if recipe.digest == signals.recipe.digest), None)
    if name is None:
        raise StudyError(
            f"the signals are of recipe {signals.recipe.name!r}, which does something else than this study's: "
            f"{', '.join(study.recipes)}. Find signals with a recipe of the study."
        )
    strangers = sorted(signals.keys() - {layer.name for layer in study.layers})
    if strangers:
        raise StudyError(f"signals of layers that this study does not have: {', '.join(strangers[:3])}. Other model?")
    measurements = tuple(
        replace(m, signals={**m.signals, **signals[m.layer]}) if m.recipe == name and m.layer in signals else m
        for m in study.measurements
    )
    notes = [f"{name}: {note}" for note in signals.notes]
    unused = sorted(signals.keys() - {m.layer for m in study.of_recipe(name)})
    if unused:
        notes.append(f"{name}: signals of layers that were not analysed are left out: {', '.join(unused)}")
    notes += [f"{name}: no signals of {layer}: {reason}" for layer, reason in signals.failed.items()]
    if set(signals.names) & set(ESTIMATES):
        notes.append(f"{name}: estimate_* are estimates from {signals.images} image(s), not measured drops")
    new = [note for note in notes if note not in study.notes]
    return replace(study, measurements=measurements, notes=(*study.notes, *new))
