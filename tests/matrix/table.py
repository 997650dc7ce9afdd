"""The page that the matrix writes: how many models of each family go how far, and one row for each model."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from tests.matrix.trial import Row

PACKAGES = (
    *("torch", "torchvision", "ultralytics", "transformers", "timm", "effdet", "segmentation-models-pytorch"),
    *("openvino", "onnx", "onnxscript"),
)
HEAD = """# Public models, one by one

`python -m tests.matrix` writes this page: every model in a process of its own, with random weights and small inputs.
Do not edit it by hand. Times are of a machine with two cores that others used as well, up to ten at once.

- **layers**: layers found / convolutions and linear layers that ran in the example pass, counted by forward hooks. More
  layers than that are attention projections and other weights without a module of their own.
- **swept**: layers measured, of at most 4 spread over the network. **replay**: the sweep without replay gave the same
  bits.
- **int8**: the whole network, simulated in int8, gives finite outputs.
- **deployed**: layers whose quantized form stands in the graph that OpenVINO runs. **verified**: layers whose codes on
  the engine agree with the simulation; of the others OpenVINO does not tell what it ran, or ran them in float, or
  disagrees.
- **not tried**: the row is of a run with `--no-deploy`. Rows of both kinds can stand in one file of results.
- **reason**: the first step that failed or left something out, in the library's own words.
"""


def page(rows: Sequence[Row]) -> str:
    """The Markdown page."""
    return "\n".join([HEAD, _versions(), "", *_summary(rows), "", *_details(rows), ""])


def _versions() -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(versions)}."


def _summary(rows: Sequence[Row]) -> list[str]:
    lines = ["| family | models | wrapped | names unique | swept | replay equal | int8 | deployed | layers verified |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for family in dict.fromkeys(row.family for row in rows):
        own = [row for row in rows if row.family == family]
        counts = [
            sum(row.layers is not None for row in own),
            sum(row.unique is True for row in own),
            sum(bool(row.swept) and "swept" not in row.reasons for row in own),
            sum(row.replay_equal is True for row in own),
            sum(row.finite is True for row in own),
            f"{sum(row.deployed is not None for row in own)} of {sum(map(_engine_tried, own))} tried",
        ]
        verified, deployed = (sum(getattr(row, key) or 0 for row in own) for key in ("verified", "deployed"))
        lines.append(f"| {family} | {len(own)} | {' | '.join(map(str, counts))} | {verified} of {deployed} |")
    return lines


def _engine_tried(row: Row) -> bool:
    """Whether the engine was reached, or should have been: the model was wrapped, and ``--no-deploy`` was not given."""
    return row.deployed is not None or bool({"deployed", "ended", "made", "wrapped"} & row.reasons.keys())


def _details(rows: Sequence[Row]) -> list[str]:
    lines = []
    for family in dict.fromkeys(row.family for row in rows):
        lines += [f"## {family}", ""]
        lines += ["| model | layers | swept | replay | int8 | deployed | verified | s | GB | reason |"]
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(row) for row in rows if row.family == family]
        lines += [""]
    return lines


def _line(row: Row) -> str:
    def cell(value: bool | int | None) -> str:
        if isinstance(value, bool):
            return "yes" if value else "**no**"
        return "" if value is None else str(value)

    layers = "" if row.layers is None else f"{row.layers} / {row.called}"
    reason = "; ".join(f"{step}: {text}" for step, text in row.reasons.items()).replace("|", "\\|")
    deployed = cell(row.deployed) if _engine_tried(row) else "not tried"
    cells = [layers, cell(row.swept), cell(row.replay_equal), cell(row.finite), deployed, cell(row.verified)]
    return f"| {row.name} | {' | '.join(cells)} | {row.seconds:.0f} | {row.gigabytes:.1f} | {reason[:240]} |"
