"""The example of norms and sparsity: its tables, on fewer steps and kinds than a reader runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import sensitivity as sv


@pytest.fixture
def example(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = repository / "examples" / "06_norms" / "run.py"
    spec = importlib.util.spec_from_file_location("norms_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STEPS", 40)
    monkeypatch.setattr(module, "KINDS", ("frozen-batch", "layer"))
    monkeypatch.setattr(module, "LEVELS", (0.3, 0.9))
    return module


def rows_of(table: str) -> dict[str, list[float]]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    return {name: list(map(float, numbers)) for name, *numbers in lines}


def test_each_norm_has_its_score_and_its_drops(example: ModuleType) -> None:
    rows = rows_of(example.norm_table("bars"))
    assert list(rows) == ["frozen-batch", "layer"]
    for score, int8, half, pattern in rows.values():
        assert score > 60
        assert int8 < half
        assert pattern > 0


def test_more_sparsity_costs_more_and_layers_left_out_cost_nothing(example: ModuleType, tmp_path: Path) -> None:
    rows = rows_of(example.sparsity_table(tmp_path))
    assert list(rows) == ["30%", "90%", "2:4"]
    assert rows["30%"][0] > rows["90%"][0] + 10
    assert rows["90%"][2] >= rows["90%"][0]
    assert "prune-0.9" in (tmp_path / "layers.md").read_text(encoding="utf-8")
    assert (tmp_path / "levels.png").is_file()


def test_a_scheme_of_2_4_leaves_out_what_has_no_four_inputs_and_keeps_two_of_four(example: ModuleType) -> None:
    model, _, images = example.trained("batch")
    wrapped = sv.wrap(model, images[:1])
    scheme = example.everywhere(wrapped, sv.Prune("2:4"))
    with wrapped.quantized(scheme):
        for layer in wrapped.layers:
            weight: Any = wrapped.model.get_parameter(f"{layer.module}.weight").detach()
            groups = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]
            if layer.in_channels // layer.groups % 4:
                assert (weight != 0).all()
            else:
                nonzero = (groups.transpose(1, 2).reshape(-1, 4) != 0).sum(1)
                assert (nonzero <= 2).all()
                assert torch.count_nonzero(weight) > 0


@pytest.mark.parametrize("network", ["retinanet", "fcos", "efficientdet", "centernet"])
def test_a_detector_is_compared_with_each_norm(
    example: ModuleType, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))
    if network == "efficientdet":
        pytest.importorskip("effdet", reason="effdet is not installed")
    monkeypatch.setattr(example, "KINDS", ("switchable",))
    [(int8, half, pattern)] = rows_of(example.norm_table(network)).values()
    assert 60 > int8 > max(half, pattern)
