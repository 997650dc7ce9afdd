"""The page of a study: the finding, every layer as a dip, stages, the table, and how it was made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sensitivity.errors import StudyError
from sensitivity.markup.elements import Markup, described, element, joined, listed
from sensitivity.records.results.changed_images import ChangedImagesRecord
from sensitivity.records.results.diagnosis import DiagnosisRecord
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.results.tuned import TunedRecord
from sensitivity.records.results.verification import VerificationRecord
from sensitivity.report.facts import study_facts
from sensitivity.report.page.comparison import Comparison, comparison_finding, comparison_section
from sensitivity.report.page.document import Section, document
from sensitivity.report.page.images_page import images_section
from sensitivity.report.page.legend import dips_legend
from sensitivity.report.page.sections.finding import study_finding
from sensitivity.report.page.sections.layer_table import layer_table
from sensitivity.report.page.sections.size import Curves, size_section
from sensitivity.report.page.sections.stages import stage_table
from sensitivity.report.page.sections.study_data import study_data
from sensitivity.report.page.sections.values import values_section
from sensitivity.report.page.tuned_page import tuned_finding, tuned_section
from sensitivity.report.page.verification_page import verification_finding, verification_sections
from sensitivity.report.reading import Reading


@dataclass(frozen=True, slots=True)
class Beside:
    """What else is known of the model of a study.

    Attributes:
        diagnosis: Causes and cures of layers, for the recipe that it is about.
        tuned: A search for a scheme.
        verification: What an engine makes of a scheme.
        comparison: Another study to compare with.
        curves: Recipe to bytes and predicted drop, with more and more of the worst layers protected.
        changed_images: The images that a scheme changes most.
    """

    diagnosis: DiagnosisRecord | None = None
    tuned: TunedRecord | None = None
    verification: VerificationRecord | None = None
    comparison: Comparison | None = None
    curves: Curves = field(default_factory=dict)
    changed_images: ChangedImagesRecord | None = None


def study_page(reading: Reading, recipe: RecipeLike | None = None, beside: Beside | None = None) -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        reading: What there is to show.
        recipe: One recipe; None shows all.
        beside: What else is known of the model.

    Raises:
        StudyError: If the recipe is unknown, or nothing was measured.
    """
    study, names = reading.study, reading.recipes(recipe)
    beside = beside or Beside()
    if not any(m.recipe in names for m in study.measurements):
        raise StudyError(f"nothing to show: the study of {study.model} has no measurements. Run analyze first.")
    curves = {name: curve for name, curve in beside.curves.items() if name in names}
    data = study_data(reading, names, beside.diagnosis)
    sections = [
        Section("layers", "Every layer", _dips(reading, names)),
        *([values_section(reading, beside.diagnosis)] if beside.diagnosis and data["values"] else []),
        Section("stages", "Stages", stage_table(reading, names)),
        Section("table", "Table", layer_table(reading, names, beside.diagnosis)),
        *([size_section(reading, curves, beside.tuned)] if curves else []),
    ]
    lead = [study_finding(reading, name, beside.diagnosis) for name in names]
    if beside.tuned is not None:
        sections.append(tuned_section(beside.tuned))
        lead.append(tuned_finding(beside.tuned))
    if beside.verification is not None:
        sections += verification_sections(beside.verification)
        lead.append(verification_finding(beside.verification))
    if beside.changed_images is not None:
        sections.append(images_section(beside.changed_images))
    if beside.comparison is not None:
        sections.append(comparison_section(beside.comparison))
        lead.append(comparison_finding(beside.comparison))
    sections.append(Section("made", "How it was made", _made(reading, names)))
    return document(f"{study.model} on {study.task}", lead, sections, data)


def _dips(reading: Reading, recipes: tuple[str, ...]) -> Markup:
    """The controls, the place of the chart, what it says of a layer, and the legend."""
    which = "one layer" if reading.one_at_a_time else "all layers but one"
    choices = [element("option", name, value=str(number)) for number, name in enumerate(recipes)]
    chooser = element("label", "recipe ", element("select", *choices, id="recipe"))
    return joined(
        element(
            "div",
            *([chooser] if len(recipes) > 1 else []),
            element("button", "Show all layers", type="button", id="clear", disabled=True),
            class_="controls",
        ),
        element(
            "div",
            id="dips",
            class_="chart",
            tabindex=0,
            role="application",
            aria_label=f"{reading.study.metric} with {which} perturbed, layers in execution order",
            aria_describedby="dips-help",
        ),
        element("p", _HELP, id="dips-help", class_="quiet"),
        element("p", "Point at a layer to read about it.", id="layer", class_="said", aria_live="polite"),
        dips_legend(reading, recipes),
    )


_HELP = (
    "Drag over layers to select them in the table; the buttons at the top right of the chart zoom. With the keyboard: "
    "arrow keys move from layer to layer, up and down from the worst to the next, Enter selects, Escape shows all "
    "again, plus and minus zoom."
)


def _made(reading: Reading, recipes: tuple[str, ...]) -> Markup:
    study = reading.study
    as_json = [
        element(
            "details",
            element("summary", f"Recipe {name}"),
            element("pre", json.dumps(study.recipes[name].to_json(), indent=1)),
        )
        for name in recipes
    ]
    notes = [element("h3", "Notes"), listed(study.notes)] if study.notes else []
    return joined(described(study_facts(reading, recipes).items()), *as_json, *notes)
