"""The card of a deployment: what a person reads first in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sensitivity.deploy.bundle.manifest import MANIFEST, Manifest, PartFiles
from sensitivity.records import Scheme
from sensitivity.records.results.verification import VerificationRecord

CARD = "README.md"
_SHOWN = 20  # layers left in float


@dataclass(frozen=True)
class Card:
    """What a card tells beside the manifest.

    Attributes:
        scheme: What was deployed.
        verification: What was found when it was verified; None if nobody told.
        verified: Its summary in words.
    """

    scheme: Scheme
    verification: VerificationRecord | None
    verified: str


def card_text(manifest: Manifest, card: Card) -> str:
    """Markdown."""
    hashes = [(f"`{name}`", f"`{digest[:16]}`") for name, digest in manifest.files.items()]
    return "\n".join(
        [
            f"# {manifest.model} on {manifest.engine}",
            "",
            f"{manifest.quantized} of {manifest.layers} layers are quantized. What is not quantized is computed in "
            f"{card.scheme.rest}{_kept(card.scheme)}.",
            "",
            *_how_to_run(manifest),
            "## Recipes",
            "",
            *([f"- {recipe.name}" for recipe in card.scheme.recipes] or ["None: everything is in float."]),
            "",
            *_left_out(manifest),
            "## Verification",
            "",
            *_verification(card),
            "",
            "## Licence of the weights",
            "",
            manifest.licence or "Nobody told: ask whoever trained them before you pass this on.",
            "",
            "## Made with",
            "",
            *_table(["package", "version"], list(manifest.versions.items())),
            "",
            f"Weights: `{manifest.weights}`. `{MANIFEST}` holds the SHA-256 of every file:",
            "",
            *_table(["file", "SHA-256"], hashes),
            "",
        ]
    )


def _kept(scheme: Scheme) -> str:
    return f", with {', '.join(scheme.keep_fp32)} in fp32" if scheme.keep_fp32 else ""


def _how_to_run(manifest: Manifest) -> list[str]:
    lines = ["```python", "import sensitivity as sv", "", 'deployed = sv.load_deployment("this folder")']
    for part in manifest.parts:
        arguments = ", ".join(port.name for port in part.inputs)
        lines.append(f"outputs = deployed({arguments}{f', part={part.path!r}' if part.path else ''})  # NumPy arrays")
    lines += ["```", ""]
    for part in manifest.parts:
        lines += [*_ports(part), ""]
    return lines


def _ports(part: PartFiles) -> list[str]:
    rows = [
        (side, f"`{port.name}`", " x ".join("any" if size is None else str(size) for size in port.shape), port.dtype)
        for side, ports in (("in", part.inputs), ("out", part.outputs))
        for port in ports
    ]
    return [f"`{part.onnx}`:", "", *_table(["", "name", "shape", "type"], rows)]


def _left_out(manifest: Manifest) -> list[str]:
    if not manifest.left_out:
        return []
    shown = [f"- `{name}`: {reason}" for name, reason in list(manifest.left_out.items())[:_SHOWN]]
    more = [f"- and {len(manifest.left_out) - _SHOWN} more"] if len(manifest.left_out) > _SHOWN else []
    return ["## Left in float though the scheme quantizes them", "", *shown, *more, ""]


def _verification(card: Card) -> list[str]:
    record = card.verification
    if record is None:
        return ["This deployment was saved without a verification."]
    speed = ""
    if record.latency_int8_s is not None and record.latency_fp32_s is not None:
        planned_ms, fp32_ms = (1e3 * seconds for seconds in (record.latency_int8_s, record.latency_fp32_s))
        speed = (
            f"One run took {planned_ms:.3g} ms where it was verified, and {fp32_ms:.3g} ms in fp32 on the same engine."
        )
    return ["```text", card.verified, "```", *(["", speed] if speed else [])]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
