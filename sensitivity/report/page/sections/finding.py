"""What a study found, in a paragraph."""

from __future__ import annotations

from collections import Counter

from sensitivity.records import Layer
from sensitivity.records.results.diagnosis import DiagnosisRecord
from sensitivity.records.results.verdict import Verdict
from sensitivity.report.reading import Reading

NAMED = 3


def study_finding(reading: Reading, recipe: str, diagnosis: DiagnosisRecord | None = None) -> str:
    """How many layers matter under one recipe, which are the worst, and where they are.

    Args:
        reading: What there is to show.
        recipe: Name of the recipe.
        diagnosis: Causes and cures of layers; None where there is no diagnosis.
    """
    sentences = [_counted(reading, recipe), _worst(reading, recipe), _gathered(reading, recipe)]
    if diagnosis is not None and diagnosis.recipe.name == recipe:
        sentences.append(_causes(diagnosis))
    return " ".join(sentence for sentence in sentences if sentence)


def _counted(reading: Reading, recipe: str) -> str:
    study, verdicts = reading.study, list(reading.verdicts[recipe].values())
    images = f"{study.baseline.images:,} images"
    measured = len(reading.worst_first[recipe])
    if not reading.one_at_a_time:
        return (
            f"With all layers but one perturbed by {recipe}, {measured} of {len(study.layers)} layers were scored on "
            f"{images}; a layer that gives most back when it is left alone is the one to protect."
        )
    dips, harmless, undecided = (verdicts.count(verdict) for verdict in Verdict)
    text = (
        f"{_share(dips, len(verdicts))} more than {reading.shown_tolerance} of {study.metric} when {recipe} perturbs "
        f"one alone; {harmless} {_are(harmless)} harmless"
    )
    text += f" and {undecided} {_are(undecided)} undecided on {images}." if undecided else f" (on {images})."
    without = len(study.layers) - measured
    return text + (f" {without} {'layer has' if without == 1 else 'layers have'} no result." if without else "")


def _worst(reading: Reading, recipe: str) -> str:
    """The layers that lose most; nothing where no layer loses anything."""
    worst = [m for m in reading.worst_first[recipe] if m.drop is not None and m.drop > 0.0][:NAMED]
    if not worst or not reading.one_at_a_time:
        return ""
    first, *others = worst
    drop = f"{reading.drop(first)}{reading.drop_unit} {reading.interval(first)}".rstrip()
    text = f"The largest drop is that of {first.layer}: {drop}"
    listed = " and ".join(f"{m.layer} ({reading.drop(m)})" for m in others)
    return f"{text}, before {listed}." if others else f"{text}."


def _gathered(reading: Reading, recipe: str) -> str:
    """The stage, role or kind that most dips share, where most layers do not."""
    dips = {name for name, verdict in reading.verdicts[recipe].items() if verdict is Verdict.DIP}
    layers = [layer for layer in reading.study.layers if layer.name in dips]
    if len(layers) < NAMED:
        return ""
    for words, key in (("in the stage {}", _stage), ("with the role {}", _role), ("of the kind {}", _kind)):
        value, count = Counter(map(key, layers)).most_common(1)[0]
        usual = sum(key(layer) == value for layer in reading.study.layers) / len(reading.study.layers)
        if 2 * count > len(layers) and count / len(layers) > 1.5 * usual:
            return f"{count} of the {len(layers)} dips are {words.format(value)}."
    return ""


def _causes(diagnosis: DiagnosisRecord) -> str:
    """What most of the damage comes from and whether cures help."""
    hurt = diagnosis.hurt
    if not hurt:
        return f"On the outputs no layer does damage that counts (SQNR below {diagnosis.enough_db:.1f} dB)."
    causes = Counter(str(finding.cause) for finding in hurt if finding.cause is not None)
    cured = sum(finding.cure is not None and not finding.needs_float for finding in hurt)
    text = f"The diagnosis finds {len(hurt)} {'layer' if len(hurt) == 1 else 'layers'} hurt"
    if causes:
        cause, count = causes.most_common(1)[0]
        text += f", {count} of them mostly by {cause}"
    return f"{text}; {cured} can be cured without float."


def _share(dips: int, layers: int) -> str:
    if not dips:
        return f"None of {layers} layers is known to lose"
    return f"{dips} of {layers} layers {_are(dips)} known to lose"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _stage(layer: Layer) -> str:
    return layer.stage


def _role(layer: Layer) -> str:
    return layer.role


def _kind(layer: Layer) -> str:
    return layer.kind
