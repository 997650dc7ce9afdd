"""Scenes segmented in one call have the masks that each has alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import sensitivity as sv
from sensitivity.demo.run import WEIGHTS
from sensitivity.demo.scenes import HELD_OUT_SEED, write_scenes
from sensitivity.demo.segment import SegmentBatch, segment
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, load


@pytest.fixture(scope="module")
def sam() -> EfficientViTSam:
    return load("tiny", checkpoint=WEIGHTS)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 6, HELD_OUT_SEED)


@torch.no_grad()
def test_a_batch_scores_as_its_scenes_do_one_by_one(sam: EfficientViTSam, scenes: tuple[Path, Path]) -> None:
    alone = sv.PromptedMasks(*scenes, segment=partial(segment, sam))
    together = sv.PromptedMasks(*scenes, segment=SegmentBatch(sam), batch_size=4)
    expected = [alone.predict(sam.image_encoder, batch)[0] for batch in alone.batches()]
    predicted = [
        prediction for batch in together.batches() for prediction in together.predict(sam.image_encoder, batch)
    ]
    assert len({len(prediction["ious"]) for prediction in expected}) > 1, "scenes hold different numbers of things"
    for separate, other in zip(expected, predicted, strict=True):
        assert np.allclose(separate["ious"], other["ious"], atol=2e-3)
        assert np.allclose(separate["predicted_ious"], other["predicted_ious"], atol=1e-5)


@torch.no_grad()
def test_scenes_are_prepared_once_for_all_variants_on_a_batch(
    sam: EfficientViTSam, scenes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = sv.PromptedMasks(*scenes, segment=SegmentBatch(sam), batch_size=3)
    first, second = task.batches()
    prepared: list[int] = []
    preprocess = sam.preprocess
    monkeypatch.setattr(sam, "preprocess", lambda image: prepared.append(id(image)) or preprocess(image))
    once, again = (task.predict(sam.image_encoder, first) for _ in range(2))
    assert len(prepared) == 3
    assert [prepared["masks"] for prepared in once] == [prepared["masks"] for prepared in again]
    task.predict(sam.image_encoder, second)
    task.predict(sam.image_encoder, first)
    assert len(prepared) == 9, "another batch has other images"
