"""A ``segment`` that takes the images of a batch together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sensitivity.contracts import Prompts
from sensitivity.errors import PredictionError
from sensitivity.tasks.images.pixels import Pixels
from sensitivity.tasks.prompted import PromptedMasks
from tests.tasks.made_scenes import Scenes, predict_all


class Together:
    """Fills the left half of each image, and counts how many images each call was given."""

    def __init__(self, *, lost: int = 0) -> None:
        self.calls: list[int] = []
        self.lost = lost

    def __call__(self, model: Any, image: Pixels, prompts: Prompts) -> tuple[Any, Any]:
        masks = np.zeros((len(prompts), 1, *image.shape[:2]), bool)
        masks[..., : image.shape[1] // 2] = True
        return masks, np.full((len(prompts), 1), 0.5)

    def together(self, model: Any, images: Sequence[Pixels], prompts: Sequence[Prompts]) -> list[tuple[Any, Any]]:
        self.calls.append(len(images))
        each = zip(images, prompts, strict=True)
        return [self(model, *arguments) for arguments in each][self.lost :]


def test_images_without_prompts_are_left_out_of_the_call_and_keep_their_place(scenes: Scenes) -> None:
    segment = Together()
    one_by_one = predict_all(PromptedMasks(scenes.images, scenes.annotations, segment=segment.__call__), None)
    task = PromptedMasks(scenes.images, scenes.annotations, segment=segment, batch_size=len(one_by_one))
    together = predict_all(task, None)
    prompted = [position for position, prediction in one_by_one.items() if prediction["masks"]]
    assert segment.calls == [len(prompted)]
    assert len(prompted) < len(one_by_one), "one scene has nothing to point at"
    assert together.keys() == one_by_one.keys()
    for position, prediction in one_by_one.items():
        assert together[position]["masks"] == prediction["masks"]
        np.testing.assert_array_equal(together[position]["ious"], prediction["ious"])


def test_masks_of_too_few_images_are_refused(scenes: Scenes) -> None:
    task = PromptedMasks(scenes.images, scenes.annotations, segment=Together(lost=1), batch_size=3)
    with pytest.raises(PredictionError, match=r"together returned masks of \d images; \d were given"):
        predict_all(task, None)


def test_what_is_segmented_together_is_in_the_digest_because_last_bits_depend_on_it(scenes: Scenes) -> None:
    segment = Together()
    digests = {
        PromptedMasks(scenes.images, scenes.annotations, segment=segment, batch_size=size).digest() for size in (1, 2)
    }
    assert len(digests) == 2
