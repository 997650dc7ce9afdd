"""The part of a study's page that shows how often values occur in a layer's inputs and weights, before and after."""

from __future__ import annotations

from typing import Any

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.markup.ink import PAGE
from sensitivity.records.results.diagnosis import DiagnosisRecord, Finding
from sensitivity.records.results.distribution import Distribution
from sensitivity.report import style
from sensitivity.report.page.document import Section
from sensitivity.report.page.legend import line_entry, swatch_entry
from sensitivity.report.page.numbers import finite
from sensitivity.report.reading import Reading
from sensitivity.report.spread import sentences

BEFORE_INK = style.KIND_INKS["csp"]
AFTER_INK = PAGE["text"]
RANGE_INK = style.KIND_INKS["mb"]
CURE_INK = style.CURED_INK


def findings_with_values(diagnosis: DiagnosisRecord | None) -> list[Finding]:
    """The findings with a distribution."""
    findings = () if diagnosis is None else diagnosis.findings
    return [finding for finding in findings if finding.inputs is not None or finding.weights is not None]


def values_section(reading: Reading, diagnosis: DiagnosisRecord) -> Section:
    """Two charts, of the layer that is pointed out or chosen here."""
    places = {layer.name: place for place, layer in enumerate(reading.study.layers)}
    options = [
        element("option", finding.layer, value=str(places[finding.layer]))
        for finding in findings_with_values(diagnosis)
        if finding.layer in places
    ]
    chooser = element("select", *options, id="values-layer", aria_describedby="values-inputs-said values-weights-said")
    recipe = diagnosis.recipe.name
    legend = element(
        "ul",
        swatch_entry("in float", BEFORE_INK),
        line_entry(f"quantized with {recipe}", AFTER_INK, "solid", drawn="after"),
        line_entry(f"ends of the range of {recipe}", RANGE_INK, "dashed", drawn="covered"),
        line_entry("ends of the range of the cure", CURE_INK, "dotted", drawn="cured"),
        class_="legend",
        aria_label="Legend",
    )
    charts = [_place("inputs", "the layer's inputs"), _place("weights", "the layer's weights")]
    content = joined(
        element("div", element("label", "layer ", chooser), class_="controls"),
        element("p", _HELP.format(images=diagnosis.images), class_="quiet"),
        element("div", *charts, class_="pair"),
        legend,
    )
    return Section("values", "Values of a layer", content)


_HELP = (
    "How often each value occurs, on a logarithmic scale, in float and quantized ({images} images). Point at a layer "
    "above or in the table, or choose it here."
)


def _place(noun: str, words: str) -> Markup:
    return element(
        "div",
        element(
            "div", id=f"values-{noun}", class_="chart short values", data_values=noun, role="img",
            aria_label=f"Histogram of {words}, in float and quantized", aria_describedby=f"values-{noun}-said",
        ),
        element("p", id=f"values-{noun}-said", class_="said"),
    )  # fmt: skip


def values_data(reading: Reading, diagnosis: DiagnosisRecord | None) -> dict[str, Any] | None:
    """Plain values of the distributions, by the place of the layer; None where there are none."""
    findings = {finding.layer: finding for finding in findings_with_values(diagnosis)}
    layers = {
        str(place): {"inputs": _plain(finding.inputs, "inputs"), "weights": _plain(finding.weights, "weights")}
        for place, layer in enumerate(reading.study.layers)
        if (finding := findings.get(layer.name)) is not None
    }
    if not layers:
        return None
    names = [layer.name for layer in reading.study.layers]
    worst = min((findings[names[int(place)]] for place in layers), key=lambda finding: finding.output_db)
    inks = {"before": BEFORE_INK, "after": AFTER_INK, "covered": RANGE_INK, "cured": CURE_INK}
    return {
        "first": names.index(worst.layer),
        "inks": {name: ink.plain() for name, ink in inks.items()},
        "layers": layers,
    }


def _plain(values: Distribution | None, noun: str) -> dict[str, Any] | None:
    if values is None:
        return None
    return {
        "first": values.first,
        "width": values.width,
        "before": list(values.before),
        "after": list(values.after),
        "covered": _ends(values.covered),
        "cured": None if values.cured == values.covered else _ends(values.cured),
        "said": " ".join(sentences(values, noun)),
    }


def _ends(pair: tuple[float, float] | None) -> list[float | None] | None:
    return None if pair is None else [finite(end) for end in pair]
