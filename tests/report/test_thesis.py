"""The thesis's tables: against their own columns, and against the layers of the real models."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import StudyError
from sensitivity.report.thesis import read_thesis
from sensitivity.study import Study
from sensitivity.study import read_thesis as read_study

MODELS = ("l0", "l1", "l2", "xl0", "xl1")
HEADER = "backbone_version,kind,miou_all,miou_large,miou_medium,miou_small,baseline_all,quantized_params,exists"
BLOCK = """
L9:stage0:0:0,stem conv,78.2,83.0,80.5,73.4,78.5,864,True
L9:stage0:1:1,ResBlock conv2,78.5,82.7,80.7,74.1,78.5,9216,True
L9:stage3:0:2,"MBC point 1x1 (BN,no act)",60.0,82.7,80.7,74.1,78.5,2048,True
L9:stage4:1:0,"att QKV + multi-scale aggreg (3 convs: qkv 1x1, dw, grouped pw)",77.0,1,2,3,78.5,100,True
L9:stage4:1:1,"att linear-attention matmuls (activations only, no weights)",78.6,1,2,3,78.5,0,True
L9:stage4:1:2,att proj 1x1 (+BN),78.4,1,2,3,78.5,64,True
L9:stage4:1:4,"att-MBC depthwise 3x3 (bias,GELU)",70.0,1,2,3,78.5,320,True
L9:stage4:2:0,"att QKV + multi-scale aggreg (3 convs: qkv 1x1, dw, grouped pw)",77.0,1,2,3,78.5,100,False
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "l9.csv"
    path.write_text(HEADER + BLOCK, encoding="utf-8")
    return path


def rows(shared_data: Path, model: str) -> list[dict[str, str]]:
    with (shared_data / "thesis" / f"{model}.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["exists"] == "True"]


def convs(shared_data: Path, model: str) -> dict[str, list[dict[str, Any]]]:
    """Convolutions of the real model by the name of the released tables."""
    plain = json.loads((shared_data / "efficientvit_sam" / f"{model}.json").read_text(encoding="utf-8"))
    by_layer: dict[str, list[dict[str, Any]]] = {}
    for conv in plain["conv_layers"]:
        by_layer.setdefault(conv["released_name"], []).append(conv)
    return by_layer


def test_rows_become_layers_with_our_names_kinds_and_roles(table: Path) -> None:
    layers = read_thesis(table).layers
    assert [(layer.name, layer.kind, layer.role) for layer in layers] == [
        ("stage0:0:0", "independent", "stem"),
        ("stage0:1:1", "res", "exit"),
        ("stage3:0:2", "mb", "exit"),
        ("stage4:1:0", "att", "qkv+scale"),
        ("stage4:1:7", "att", "matmul"),
        ("stage4:1:3", "att", "proj"),
        ("stage4:1:5", "att", "depthwise"),
    ]
    assert [layer.order for layer in layers] == list(range(7))
    assert [layer.index for layer in layers] == [0, 1, 2, 0, 7, 3, 5], "names keep to stage:block:layer"


def test_flags_follow_from_the_structure(table: Path) -> None:
    flags = {layer.name: layer.flags for layer in read_thesis(table).layers}
    assert flags["stage0:0:0"] == {"stem"}
    assert flags["stage0:1:1"] == flags["stage3:0:2"] == {"exit", "no-activation"}
    assert flags["stage4:1:3"] == {"no-activation"}
    assert flags["stage4:1:5"] == {"depthwise", "no-norm"}
    assert flags["stage4:1:7"] == frozenset()


def test_scores_are_fractions_and_drops_positive_when_worse(table: Path) -> None:
    study = read_thesis(table)
    exit_layer, matmul = study.measurements[2], study.measurements[4]
    assert study.baseline.value == pytest.approx(0.785)
    assert (exit_layer.score, exit_layer.drop) == (pytest.approx(0.6), pytest.approx(0.185))
    assert exit_layer.metrics == pytest.approx(
        {"mIoU": 0.6, "mIoU_small": 0.741, "mIoU_medium": 0.807, "mIoU_large": 0.827}
    )
    assert matmul.drop == pytest.approx(-0.001)


def test_what_the_table_does_not_know_is_absent(table: Path) -> None:
    study = read_study(table)
    layer = study.layers[2]
    assert (layer.macs, layer.activation_elements, layer.in_channels, layer.out_channels) == (None, None, 0, 0)
    assert "channels (0 here)" in study.notes[0]
    frame = study.table()
    assert frame[["macs", "drop_low", "drop_high"]].isna().all().all()
    assert frame["module"].isna().all()
    assert (frame["weight_bytes"][2], frame["saved_bytes"][2]) == (4096, 2048)


def test_notes_say_what_was_left_out_and_what_rows_mean(table: Path) -> None:
    notes = "\n".join(read_thesis(table).notes)
    assert "left out: L9:stage4:2:0." in notes
    assert "stage4:1:0: one measurement of three convolutions" in notes
    assert "stage4:1:7: the attention's matrix products" in notes


def test_the_door_gives_a_study_that_survives_saving(table: Path, tmp_path: Path) -> None:
    study = read_study(table)
    assert isinstance(study, Study)
    study.save(tmp_path / "study.json")
    assert Study.load(tmp_path / "study.json") == study


def test_the_recipe_is_the_one_that_sweeps_simulate(table: Path) -> None:
    recipes = pytest.importorskip("sensitivity.quantize.recipes")
    assert read_thesis(table).recipes == {"thesis": recipes.THESIS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "lacks backbone_version, kind"),
        (HEADER + "\n", "no row of a layer that exists"),
        (HEADER + "\nL9:stage0:0:0,new thing,1,1,1,1,1,1,True\n", "unknown kind 'new thing'"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        read_thesis(path)


def test_a_missing_table_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no table at"):
        read_thesis(tmp_path / "l7.csv")


@pytest.mark.parametrize(("model", "count"), [("l0", 65), ("l1", 91), ("l2", 117), ("xl0", 73), ("xl1", 119)])
def test_every_real_row_is_there_with_its_numbers(shared_data: Path, model: str, count: int) -> None:
    study = read_thesis(shared_data / "thesis" / f"{model}.csv")
    real = rows(shared_data, model)
    assert len(study.measurements) == len(real) == count
    assert len({layer.name for layer in study.layers}) == count
    for row, layer, measurement in zip(real, study.layers, study.measurements, strict=True):
        assert measurement.layer == layer.name
        assert measurement.drop is not None
        assert 100 * measurement.drop == pytest.approx(float(row["drop_all"]), abs=1e-6)
        assert measurement.score == pytest.approx(float(row["miou_all"]) / 100)
        assert layer.parameters == float(row["quantized_params"])
    assert study.baseline.value == pytest.approx(float(real[0]["baseline_all"]) / 100)


@pytest.mark.parametrize("model", MODELS)
def test_names_and_structure_are_those_of_the_real_model(shared_data: Path, model: str) -> None:
    study, real = read_thesis(shared_data / "thesis" / f"{model}.csv"), convs(shared_data, model)
    orders = []
    for row, layer in zip(rows(shared_data, model), study.layers, strict=True):
        covered = real.get(row["backbone_version"], [])
        if layer.role == "matmul":
            assert covered == []
            continue
        first = covered[0]
        orders.append(first["order"])
        assert (layer.name, layer.kind) == (first["name"], first["kind"])
        assert layer.parameters == sum(conv["weights"] + conv["biases"] for conv in covered)
        # the norm after the last convolution belongs to the encoder, not to that convolution's module
        norm = None if "output" in layer.flags else layer.norm
        assert {(conv["norm"], conv["act"]) for conv in covered} == {(norm, layer.activation)}
        if layer.role == "qkv+scale":
            assert [conv["name"][-1] for conv in covered] == ["0", "1", "2"]
        else:
            assert (layer.kernel_size, layer.groups) == ((first["kernel"],) * 2, first["groups"])
            assert ("depthwise" in layer.flags) is (first["groups"] == first["in_channels"] > 1)
    assert orders == sorted(orders)


@pytest.mark.parametrize(("model", "mib"), [("l0", 58.56), ("l1", 83.07), ("xl0", 215.22)])
def test_sizes_are_the_published_ones_where_no_row_is_missing(shared_data: Path, model: str, mib: float) -> None:
    study = read_study(shared_data / "thesis" / f"{model}.csv")
    everything = study.protect(top=len(study.layers))
    assert everything.size_bytes is not None
    assert everything.size_bytes / 2**20 == pytest.approx(mib, abs=0.005)
    assert study.protect(top=0).size_bytes == everything.size_bytes / 2


def test_missing_and_ghost_rows_are_noted(shared_data: Path) -> None:
    notes = {model: "\n".join(read_thesis(shared_data / "thesis" / f"{model}.csv").notes) for model in MODELS}
    assert "XL1:stage1:3:0" in notes["xl1"]
    assert "lacks stage4 blocks 5 and 6" in notes["xl1"]
    assert "lacks stage1 block 2 and stage2 block 2" in notes["l2"]
    assert not any("lacks" in notes[model] or "left out: " in notes[model] for model in ("l0", "l1", "xl0"))


def test_the_worst_layers_are_those_the_tables_say(shared_data: Path) -> None:
    l0 = read_study(shared_data / "thesis" / "l0.csv")
    worst = list(l0.protect(top=3).reasons.items())
    assert [name for name, _ in worst] == ["stage3:4:2", "stage3:1:1", "stage3:1:2"]
    assert worst[0][1].startswith("drop 21.64 points (rank 1 of 65), dip, exit")
    l2 = read_study(shared_data / "thesis" / "l2.csv")
    assert list(l2.protect(top=1).reasons) == ["stage4:5:5"], "released as 4:5:4, the depthwise layer"
    assert not any(math.isnan(m.drop) for m in l2.measurements if m.drop is not None)


@pytest.mark.slow
def test_layers_are_described_as_the_real_model_is_when_wrapped(shared_data: Path) -> None:
    import torch

    import sensitivity as sv
    from sensitivity.zoo import efficientvit_sam

    encoder = efficientvit_sam.build("l0").eval().image_encoder
    real = {layer.name: layer for layer in sv.wrap(encoder, torch.zeros(1, 3, 64, 64)).layers}
    for layer in read_thesis(shared_data / "thesis" / "l0.csv").layers:
        if layer.role == "matmul":
            assert layer.name not in real
            continue
        same = real[layer.name]
        facts = ("kind", "flags", "norm", "activation", "groups", "conv_type")
        assert [getattr(layer, fact) for fact in facts] == [getattr(same, fact) for fact in facts], layer.name
        assert layer.role == same.role or (layer.role, same.role) == ("qkv+scale", "qkv")


BROKEN = {
    "text for a number": (
        ("83.0", "many"),
        "row 'L9:stage0:0:0': miou_large is 'many'; expected a number",
    ),
    "NaN": (("78.2", "nan"), "miou_all is 'nan'"),
    "infinity": (("864", "inf"), "quantized_params is 'inf'"),
    "a fraction of more than all": (("78.2", "782"), "miou_all is '782'"),
    "a negative count": (("864", "-864"), "quantized_params is '-864'"),
    "a short row": ((",864,True", ""), "no row of a layer|quantized_params is ''"),
    "a name of two parts": (("L9:stage0:0:0", "L9:stage0"), "row 'L9:stage0': expected model:stage:block:layer"),
    "no index": (("L9:stage0:0:0", "L9:stage0:0:x"), "row 'L9:stage0:0:x': expected model:stage:block:layer"),
    "an index that attention lacks": (("stage4:1:4", "stage4:1:9"), "expected model:stage:block:layer"),
    "a layer twice": (("L9:stage0:1:1,ResBlock conv2", "L9:stage0:0:0,ResBlock conv2"), "stage0:0:0 twice"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_table_with_something_else_in_it_is_refused_where_it_stands(
    table: Path, change: tuple[str, str], message: str
) -> None:
    text = table.read_text(encoding="utf-8")
    assert change[0] in text
    table.write_text(text.replace(*change, 1), encoding="utf-8")
    if change[1]:
        with pytest.raises(StudyError, match=message):
            read_thesis(table)
    else:  # such a row is none of a layer that exists
        assert len(read_thesis(table).layers) == 6


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a\x00b\n", b'"' + b"a" * 200_000])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(StudyError, match=r"a\.csv is no"):
        read_thesis(tmp_path / "a.csv")


def test_a_pipe_and_a_folder_are_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StudyError, match=r"cannot be read as a table: (it is a pipe|Is a directory)"):
            read_thesis(path)


def test_a_table_that_does_not_end_is_not_read_into_memory(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.report.thesis.MAX_TABLE_BYTES", table.stat().st_size - 1)
    with pytest.raises(StudyError, match=r"more than the \d+ bytes of the largest layer table"):
        read_thesis(table)
