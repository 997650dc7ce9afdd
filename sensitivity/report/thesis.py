"""The layer tables of the thesis on EfficientViT-SAM as studies.

Source: the comma-separated tables released with the thesis (joelbengs/Simulated-Quantization-of-EfficientViT-SAM on
GitHub, Apache-2.0), with ``kind``, ``baseline_all`` and ``exists`` added: one row for each quantized layer, W8A8
simulated, mIoU in percent over the ground-truth boxes of COCO val2017.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from sensitivity.errors import StudyError
from sensitivity.records import Layer, Measurement, QuantSpec, Recipe, Score, StudyInfo, StudyRecord
from sensitivity.records.storage.files import read_bytes

RECIPE = Recipe(
    name="thesis",
    weights=QuantSpec(granularity="per-channel", observer="ema"),
    activations=QuantSpec(observer="ema"),
    placement="conv-norm-act",
)
METRIC = "mIoU"
COCO_VAL_IMAGES = 5000
FP16_BYTES = 2
MAX_TABLE_BYTES = 2**24
DEPTHWISE_PARAMETERS = 3 * 3 + 1  # of one channel: a 3x3 kernel and a bias

_COLUMNS = (
    "backbone_version",
    "kind",
    "miou_all",
    "miou_large",
    "miou_medium",
    "miou_small",
    "baseline_all",
    "quantized_params",
    "exists",
)
_NORM, _ACTIVATION = "BatchNorm2d", "GELU(tanh)"

# the table's words for a row, without what stands in brackets: kind, role, kernel side, norm, activation
_ROWS: dict[str, tuple[str, str, int | None, str | None, str | None]] = {
    "stem conv": ("independent", "stem", 3, _NORM, _ACTIVATION),
    "ResBlock conv1": ("res", "conv", 3, _NORM, _ACTIVATION),
    "ResBlock conv2": ("res", "exit", 3, _NORM, None),
    "FMBC spatial 3x3": ("fmb", "expand", 3, _NORM, _ACTIVATION),
    "FMBC point 1x1": ("fmb", "exit", 1, _NORM, None),
    "MBC inverted 1x1": ("mb", "expand", 1, None, _ACTIVATION),
    "MBC depthwise 3x3": ("mb", "depthwise", 3, None, _ACTIVATION),
    "MBC point 1x1": ("mb", "exit", 1, _NORM, None),
    "att QKV + multi-scale aggreg": ("att", "qkv+scale", None, None, None),
    "att linear-attention matmuls": ("att", "matmul", None, None, None),
    "att proj 1x1": ("att", "proj", 1, _NORM, None),
    "att-MBC inverted 1x1": ("att", "expand", 1, None, _ACTIVATION),
    "att-MBC depthwise 3x3": ("att", "depthwise", 3, None, _ACTIVATION),
    "att-MBC point 1x1": ("att", "exit", 1, _NORM, None),
    "neck FMBC spatial 3x3": ("fmb", "expand", 3, _NORM, _ACTIVATION),
    "neck FMBC point 1x1": ("fmb", "exit", 1, _NORM, None),
    "neck_in 1x1": ("independent", "neck", 1, _NORM, None),
    "neck_out 1x1": ("independent", "neck", 1, "LayerNorm2d", None),
}

# in an attention block the released tables count 0 = qkv and aggregation, 1 = matmuls, 2 = proj, 3-5 = MBConv; ours
# count the convolutions alone, 0-6, and the matmuls get the first number after them
_ATTENTION_INDEX = {0: 0, 1: 7, 2: 3, 3: 4, 4: 5, 5: 6}

# layers of the real models that the released tables lack
_NEVER_MEASURED = {"L2": "stage1 block 2 and stage2 block 2", "XL1": "stage4 blocks 5 and 6"}


def read_thesis(path: str | Path) -> StudyRecord:
    """One of the thesis's tables (L0, L1, L2, XL0, XL1) as a study; ``notes`` says what its rows are and lack.

    Args:
        path: The comma-separated file.

    Raises:
        StudyError: If the file is missing, empty, or not such a table.
    """
    rows = _read(Path(path))
    ghosts = [row["backbone_version"] for row in rows if row["exists"] != "True"]
    rows = [row for row in rows if row["exists"] == "True"]
    if not rows:
        raise StudyError(f"{path} has no row of a layer that exists. Give one of the thesis's layer tables.")
    model = rows[0]["backbone_version"].split(":")[0]
    baseline = _percent(rows[0], "baseline_all")
    layers = tuple(_layer(row, order) for order, row in enumerate(rows))
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StudyError(f"{path} has the layer {twice} twice. Give one of the thesis's layer tables, as released.")
    return StudyRecord(
        model=f"EfficientViT-SAM-{model}",
        task="COCO val2017, ground-truth boxes",
        metric=METRIC,
        unit="%",
        higher_is_better=True,
        baseline=Score(baseline, {METRIC: baseline}, METRIC, "%", COCO_VAL_IMAGES),
        layers=layers,
        measurements=tuple(_measurement(row, layer.name, baseline) for row, layer in zip(rows, layers, strict=True)),
        recipes={RECIPE.name: RECIPE},
        notes=_notes(model, layers, ghosts),
        info=StudyInfo(source=Path(path).name),
    )


def _read(path: Path) -> list[dict[str, str]]:
    try:
        text = read_bytes(path, "layer table", most=MAX_TABLE_BYTES).decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        rows = [] if missing else list(reader)
    except FileNotFoundError as error:
        raise StudyError(f"no table at {path}. Give one of the thesis's comma-separated layer tables.") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise StudyError(f"{path} cannot be read as a table: {why}. Give one of the thesis's layer tables.") from error
    except (ValueError, csv.Error) as error:  # a UnicodeDecodeError is a ValueError
        raise StudyError(f"{path} is no table: {error}. Give one of the thesis's comma-separated tables.") from error
    if missing:
        raise StudyError(
            f"{path} is not a layer table of the thesis: it lacks {', '.join(missing)}. "
            f"Expected columns: {', '.join(_COLUMNS)}."
        )
    return rows


def _layer(row: Mapping[str, str], order: int) -> Layer:
    words = row["kind"].split(" (")[0]
    if words not in _ROWS:
        raise StudyError(f"row {row['backbone_version']}: unknown kind {words!r}. Known: {', '.join(_ROWS)}.")
    kind, role, side, norm, activation = _ROWS[words]
    stage, block, index = _name(row)
    place = _ATTENTION_INDEX[index] if kind == "att" else index
    parameters = int(_number(row, "quantized_params", most=2.0**53))
    return Layer(
        name=f"{stage}:{block}:{place}",
        module="",
        kind=kind,
        role=role,
        flags=_flags(words, role, norm, activation),
        norm=norm,
        activation=activation,
        calls=1,
        order=order,
        conv_type="matmul" if role == "matmul" else "Conv2d",
        kernel_size=() if side is None else (side, side),
        stride=(),
        groups=parameters // DEPTHWISE_PARAMETERS if role == "depthwise" else 1,
        in_channels=0,
        out_channels=0,
        parameters=parameters,
        weight_bytes=FP16_BYTES * parameters,
        macs=None,
        activation_elements=None,
    )


def _name(row: Mapping[str, str]) -> tuple[str, str, int]:
    """Stage, block and index of a row's layer.

    Raises:
        StudyError: If its name is no such name.
    """
    parts = row["backbone_version"].split(":")[1:]
    index = int(parts[2]) if len(parts) == 3 and parts[2].isdecimal() else -1
    if index < 0 or (row["kind"].startswith("att") and index not in _ATTENTION_INDEX):
        raise StudyError(
            f"row {row['backbone_version']!r:.60}: expected model:stage:block:layer with a number of a layer, as in "
            "L0:stage1:0:1."
        )
    return parts[0], parts[1], index


def _number(row: Mapping[str, str], column: str, *, most: float) -> float:
    """A number of a row, from 0 to ``most``.

    Raises:
        StudyError: If the column holds something else.
    """
    try:
        number = float(row[column])
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= most:
        raise StudyError(
            f"row {row['backbone_version']!r:.60}: {column} is {row[column]!r:.60}; expected a number from 0 to "
            f"{most:g}."
        )
    return number


def _percent(row: Mapping[str, str], column: str) -> float:
    return _number(row, column, most=100.0) / 100


def _flags(words: str, role: str, norm: str | None, activation: str | None) -> frozenset[str]:
    """The flags that the structure of the model gives the layer; the matrix products have none, being no layer."""
    if role == "matmul":
        return frozenset()
    facts = {
        "stem": role == "stem",
        "depthwise": role == "depthwise",
        "exit": role == "exit",
        "output": words == "neck_out 1x1",
        "no-norm": norm is None,
        "no-activation": activation is None,
    }
    return frozenset(flag for flag, holds in facts.items() if holds)


def _measurement(row: Mapping[str, str], layer: str, baseline: float) -> Measurement:
    score = _percent(row, "miou_all")
    sizes = {f"{METRIC}_{size}": _percent(row, f"miou_{size}") for size in ("small", "medium", "large")}
    return Measurement(
        layer=layer,
        recipe=RECIPE.name,
        score=score,
        drop=baseline - score,
        images=COCO_VAL_IMAGES,
        metrics={METRIC: score, **sizes},
    )


def _notes(model: str, layers: Sequence[Layer], ghosts: Sequence[str]) -> tuple[str, ...]:
    fused = [layer.name for layer in layers if layer.role == "qkv+scale"]
    matmuls = [layer.name for layer in layers if layer.role == "matmul"]
    notes = [
        "Weight bytes are two for each parameter, biases included, as the thesis counted (FP16). Module paths, "
        "channels (0 here), strides, multiply-adds and activation sizes are not in the table; neither are intervals, "
        "nor the baseline of small, medium and large objects.",
    ]
    if fused:
        notes.append(
            f"{', '.join(fused)}: one measurement of three convolutions quantized together, layers 0 (qkv), "
            "1 (scale-depthwise) and 2 (scale-pointwise) of the block. Layers 1 and 2 have no row of their own."
        )
    if matmuls:
        notes.append(
            f"{', '.join(matmuls)}: the attention's matrix products, which have no weight and are no layer of the "
            "model; a scheme that names them must leave them out before it is used on a model."
        )
    if ghosts:
        notes.append(f"Rows of layers that the model does not have were left out: {', '.join(ghosts)}.")
    if model in _NEVER_MEASURED:
        notes.append(f"The table lacks {_NEVER_MEASURED[model]} of the model.")
    return tuple(notes)
