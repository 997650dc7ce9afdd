from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sensitivity.demo.run import WEIGHTS
from sensitivity.demo.scenes import CROWDED, TRAINING_SEED, draw_scene
from sensitivity.demo.train import Examples, Scene, TrainingSettings, batches, loss, main, prepare, score, settle_norms
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, build, load


@pytest.fixture(scope="module")
def sam() -> EfficientViTSam:
    torch.manual_seed(0)
    return build("tiny")


@pytest.fixture(scope="module")
def scenes(sam: EfficientViTSam) -> list[Scene]:
    return [prepare(sam, index) for index in range(6)]


def square(value: float) -> torch.Tensor:
    """Logits of one image, one box and one mask: a square of a value on a ground of its opposite."""
    logits = torch.full((1, 1, 1, 64, 64), -value)
    logits[..., 10:30, 20:40] = value
    return logits


EXAMPLES = Examples(torch.zeros(1, 3, 128, 128), torch.tensor([[[40.0, 20.0, 80.0, 60.0]]]), (square(1.0) > 0).float())


def test_the_weights_that_ship_are_small_and_fit_the_model() -> None:
    assert WEIGHTS.stat().st_size <= 2_000_000
    sam = load("tiny", checkpoint=WEIGHTS)
    with safe_open(WEIGHTS, "pt") as file:
        assert set(file.keys()) == set(sam.state_dict())
    assert not sam.training


@pytest.mark.slow
def test_the_weights_that_ship_cut_out_held_out_things() -> None:
    scores = score(load("tiny", checkpoint=WEIGHTS), 50)
    assert scores["mIoU"] >= 0.85
    assert min(scores.values()) >= 0.7


def test_a_prepared_scene_is_what_the_task_gives_the_model(sam: EfficientViTSam, scenes: list[Scene]) -> None:
    image, objects = draw_scene(TRAINING_SEED, 0, CROWDED)
    assert torch.allclose(scenes[0].pixels.float(), sam.preprocess(image)[0], atol=2e-3)
    whole = np.stack([mask for _, mask in objects])
    across = max(image.shape[:2])
    assert scenes[0].masks.sum((1, 2)).numpy() / 255 == pytest.approx(whole.sum((1, 2)) * (64 / across) ** 2, rel=0.03)
    assert (scenes[0].boxes[:, 2:] <= 128).all()


def test_boxes_hold_their_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes.tolist(), strict=True):
            rows, columns = torch.nonzero(mask > 127, as_tuple=True)
            assert left / 2 - 1 <= columns.min() <= columns.max() + 1 <= right / 2 + 1
            assert top / 2 - 1 <= rows.min() <= rows.max() + 1 <= bottom / 2 + 1


def test_batches_are_the_same_for_the_same_seed_and_have_jittered_boxes(scenes: list[Scene]) -> None:
    settings = TrainingSettings(steps=1, learning_rate=1e-3, seed=0, images=3, prompts=2)
    first, again = (next(batches(scenes, settings)) for _ in range(2))
    other = next(batches(scenes, TrainingSettings(steps=1, learning_rate=1e-3, seed=1, images=3, prompts=2)))
    assert torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.boxes, other.boxes)
    assert first.images.shape == (3, 3, 128, 128)
    assert first.masks.shape == (3, 2, 1, 64, 64)
    drawn = torch.cat([scene.boxes for scene in scenes])
    nearest = (first.boxes.reshape(-1, 1, 4) - drawn).abs().amax(-1).amin(-1)
    assert (nearest > 0).all()
    assert (nearest < 15).all()


def test_a_perfect_mask_with_its_iou_predicted_costs_nothing_and_a_worse_one_more() -> None:
    full, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    perfect = loss(square(30.0), full, EXAMPLES)
    assert perfect.item() == pytest.approx(0, abs=1e-4)
    assert loss(square(30.0), zero, EXAMPLES).item() == pytest.approx(1, abs=1e-4), "the square of the error"
    assert loss(square(0.5), full, EXAMPLES) > perfect
    assert loss(square(-30.0), full, EXAMPLES) > loss(square(0.5), full, EXAMPLES)


def test_only_the_best_of_several_masks_learns() -> None:
    logits = torch.cat([square(0.5), square(1.0), square(-1.0)], dim=2).requires_grad_()
    loss(logits, torch.ones(1, 1, 3), EXAMPLES).backward()
    assert logits.grad is not None
    learns = logits.grad.abs().sum((-1, -2)).flatten() > 0
    assert learns.tolist() == [False, True, False]


def test_settled_norms_hold_the_average_over_the_batches(monkeypatch: pytest.MonkeyPatch, scenes: list[Scene]) -> None:
    monkeypatch.setattr("sensitivity.demo.train.NORM_BATCHES", 3)
    torch.manual_seed(1)
    sam = build("tiny").train()
    seen = list(itertools.islice(batches(scenes, TrainingSettings(steps=1, learning_rate=1e-3, seed=0, images=2)), 3))
    settle_norms(sam, iter(seen))
    first = sam.image_encoder.backbone.stages[0].op_list[0]
    means = [first.conv(examples.images).mean((0, 2, 3)) for examples in seen]
    assert torch.allclose(first.norm.running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert first.norm.momentum == 0.1
    assert not sam.training


@pytest.mark.slow
def test_training_writes_weights_that_load_and_can_be_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    monkeypatch.setattr("sensitivity.demo.train.NORM_BATCHES", 2)
    short = ["--steps", "2", "--scenes", "4"]
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(first), *short])
    main()
    assert f"wrote {first}" in capsys.readouterr().out
    still = ["--learning-rate", "0"]
    monkeypatch.setattr(sys, "argv", ["train", "--start", str(first), "--out", str(second), *short, *still])
    main()
    weights, two = (load("tiny", checkpoint=file).mask_decoder.state_dict() for file in (first, second))
    assert all(torch.equal(weights[key], two[key]) for key in weights)
