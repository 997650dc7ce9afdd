"""A sparsity sweep of a real detector equals weights masked by hand in numpy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv

LEVELS = (0.3, 0.6, 0.9)


@pytest.fixture(scope="module")
def detector(repository: Path, shared_data: Path) -> Iterator[nn.Module]:
    sys.path.insert(0, str(repository / "examples" / "01_coco_detector"))
    try:
        import yolo_fastest

        yield yolo_fastest.load(shared_data / "weights" / "yolo_fastest_1_1.safetensors", xl=False)
    finally:
        sys.path.pop(0)


def masked_by_hand(weight: Tensor, level: float) -> Tensor:
    values = weight.detach().numpy().copy()
    order = np.argsort(np.abs(values).ravel(), kind="stable")
    values.ravel()[order[: round(level * values.size)]] = 0.0
    return torch.from_numpy(values)


@pytest.mark.slow
def test_a_sweep_of_levels_equals_ten_lines_of_numpy_on_a_real_model(detector: nn.Module, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(detector, images[:1])
    task = sv.FeatureFidelity(images).with_reference(detector)
    wanted = ["*", "!@depthwise", "!@output"]
    study = wrapped.analyze(task, [sv.Prune(level) for level in LEVELS], layers=wanted, progress=False)
    chosen = [layer for layer in wrapped.layers if not layer.flags & {"depthwise", "output"}]
    assert len(study.measurements) == len(LEVELS) * len(chosen)
    measured = {(m.layer, m.recipe): m.score for m in study.measurements}
    with torch.no_grad():
        for layer in chosen[::9]:
            for level in LEVELS:
                parameter = detector.get_submodule(layer.module).weight
                original = parameter.detach().clone()
                parameter.copy_(masked_by_hand(original, level))
                [batch] = task.batches()
                predictions = dict(zip(batch.images, task.predict(detector, batch), strict=True))
                parameter.copy_(original)
                assert measured[layer.name, f"prune-{level}"] == task.score(predictions)["sqnr_db"]
    drops = study.table().groupby("recipe")["drop"].median()
    assert drops["prune-0.3"] < drops["prune-0.6"] < drops["prune-0.9"]
    study.plot_levels(tmp_path / "levels.png")
    assert (tmp_path / "levels.png").is_file()


def test_depthwise_layers_stay_dense_where_they_are_left_out(detector: nn.Module) -> None:
    wrapped = sv.wrap(detector, torch.zeros(1, 3, 64, 64))
    scheme = sv.Scheme.only(["*", "!@depthwise"], sv.Prune(0.5))
    with wrapped.quantized(scheme) as model:
        for layer in wrapped.layers:
            zeros = float((model.get_submodule(layer.module).weight == 0).float().mean())
            expected = 0.0 if "depthwise" in layer.flags else 0.5
            assert zeros == pytest.approx(expected, abs=1e-3), layer.name


def test_two_of_four_fails_with_a_reason_where_it_does_not_fit_and_the_rest_is_measured() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)).eval()
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(model, images[:1])
    study = wrapped.analyze(sv.FeatureFidelity(images), sv.Prune("2:4"), progress=False)
    stem, depthwise, last = study.measurements
    assert stem.status == depthwise.status == "failed"
    assert "reads 3" in stem.reason
    assert "reads 1" in depthwise.reason
    assert last.score is not None
    assert last.score < 50
