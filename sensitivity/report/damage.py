"""A diagnosis as a table and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.markup.elements import element, html_table, listed
from sensitivity.markup.view import view
from sensitivity.records.results.diagnosis import DamageCause, DiagnosisRecord, Finding
from sensitivity.report.spread import spread_of

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20


def frame(record: DiagnosisRecord) -> pd.DataFrame:
    """One row for each layer: its damage, what mending each cause gives back, and the cure; all in dB."""
    import pandas as pd

    rows = [
        {
            "layer": finding.layer,
            "output_db": finding.output_db,
            "share": record.share_of(finding),
            "hurt": finding.hurt,
            "cause": "" if finding.cause is None else str(finding.cause),
            **{str(cause): finding.causes.get(cause, float("nan")) for cause in DamageCause},
            "cure": "" if finding.cure is None else finding.cure.name,
            "cured_db": float("nan") if finding.cured_db is None else finding.cured_db,
            "needs_float": finding.needs_float,
            "bf16_db": finding.half_db.get("bf16", float("nan")),
            "fp16_db": finding.half_db.get("fp16", float("nan")),
        }
        for finding in record.findings
    ]
    columns = [
        "layer",
        "output_db",
        "share",
        "hurt",
        "cause",
        *map(str, DamageCause),
        "cure",
        "cured_db",
        "needs_float",
        "bf16_db",
        "fp16_db",
    ]
    return pd.DataFrame(rows, columns=columns)


def summary(record: DiagnosisRecord) -> str:
    """What was found, worst layers first, in lines of text."""
    lines = [title(record)]
    wide = max((len(finding.layer) for finding in record.hurt[:SHOWN]), default=0)
    lines += [f"  {finding.layer:{wide}}  {sentence(record, finding)}" for finding in record.hurt[:SHOWN]]
    if len(record.hurt) > SHOWN:
        lines.append(f"  ... and {len(record.hurt) - SHOWN} more: table() has all layers")
    lines += [f"  {layer}: not measured: {reason}" for layer, reason in record.failed.items()]
    return "\n".join([*lines, *record.notes])


def fragment(record: DiagnosisRecord) -> str:
    """The same as a part of a page."""
    rows = [(finding.layer, sentence(record, finding), spread_of(finding)) for finding in record.hurt[:SHOWN]]
    return view(
        element("strong", title(record)),
        html_table(("layer", "SQNR of the outputs, cause and cure", "inputs and weights"), rows),
        listed([*(f"{layer}: not measured: {reason}" for layer, reason in record.failed.items()), *record.notes]),
    )


def hurt_words(record: DiagnosisRecord) -> str:
    """How many layers are hurt: ``1 of 4 layers is hurt``."""
    return f"{len(record.hurt)} of {len(record)} layers {'is' if len(record.hurt) == 1 else 'are'} hurt"


def title(record: DiagnosisRecord) -> str:
    """How many layers are hurt, and how many only float saves."""
    text = (
        f"{record.model} with {record.recipe.name}: {hurt_words(record)}: quantized alone "
        f"{'it leaves' if len(record.hurt) == 1 else 'they leave'} the outputs an SQNR below {record.enough_db:.1f} dB "
        f"({record.images} images)"
    )
    if record.needs_float:
        text += f"; judged by it only float saves {', '.join(record.needs_float)}"
    return text


def sentence(record: DiagnosisRecord, finding: Finding) -> str:
    """A layer that is hurt: its damage, main cause and cure."""
    text = f"{finding.output_db:.1f} dB ({record.share_of(finding):.0%} of the damage)"
    if finding.cause is not None:
        text += f"; {finding.cause} ({finding.causes[finding.cause]:+.1f} dB)"
    if finding.cure is not None and finding.cured_db is not None:
        text += f"; {finding.cure.name}: {finding.cured_db:.1f} dB"
    if not finding.needs_float:
        return text
    text += "; by SQNR only float saves it"
    half = finding.enough_in_half(record.enough_db)
    return text if half is None else f"{text}, {half} is enough: {finding.half_db[half]:.1f} dB"
