"""The passes of a sweep: the baseline recorded, the variants replayed where that is safe, run in full where not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sensitivity.perturb.disturb import Disturber
from sensitivity.records import Layer, Recipe
from sensitivity.sweep.predictions import same
from sensitivity.sweep.replay import Replayer

CHECKED_VARIANTS = 4  # on the first batch, spread over the model, compared with full passes

Run = Callable[[], list[Any]]


class Forward:
    """Runs the undisturbed model and its variants on one batch after another.

    Every pass starts from the same random state, so that a model that draws random numbers draws the same ones.

    Args:
        model: The model.
        disturber: Applies recipes to it.
        replay: Whether to replay; False runs every pass in full.

    Attributes:
        notes: What a reader of the study should know, e.g. why passes were run in full.
    """

    def __init__(self, model: nn.Module, disturber: Disturber, *, replay: bool) -> None:
        self.disturber = disturber
        self.replayer = Replayer(model) if replay else None
        self.notes: list[str] = []
        self._random_state = torch.get_rng_state()
        self._batches = 0
        self._every = 1  # on the first batch, every so many variants are checked

    def baseline(self, run: Run, variants: int) -> list[Any]:
        """Predictions of the undisturbed model; recorded for the variants that follow.

        Args:
            run: Predicts one batch.
            variants: How many variants follow.
        """
        torch.set_rng_state(self._random_state)
        if self.replayer is None:
            return run()
        self._batches += 1
        self._every = max(1, variants // CHECKED_VARIANTS)
        if self._batches > 1:
            self.replayer.keep_only_what_was_used()
        predictions: list[Any] = self.replayer.record(run)
        if not torch.equal(torch.get_rng_state(), self._random_state):
            self._give_up("the model draws random numbers")
        return predictions

    def variant(self, run: Run, recipes: Mapping[Layer, Recipe], number: int) -> list[Any]:
        """Predictions with these layers disturbed; bit-identical to a full pass.

        Args:
            run: Predicts the batch that was last given to ``baseline``.
            recipes: The disturbed layers.
            number: Position of the variant in the sweep.
        """
        if self.replayer is None:
            return self._full(run, recipes)
        torch.set_rng_state(self._random_state)
        with self.disturber.applied(recipes), self.replayer.replaying(self.disturber.touched(recipes)):
            predictions = run()
        if not self.replayer.intact():
            self._give_up("the model writes to tensors that an earlier pass returned")
            return self._full(run, recipes)
        if self._batches == 1 and number % self._every == 0:
            full = self._full(run, recipes)
            if not all(map(same, predictions, full)):
                self._give_up(f"a replayed pass of {next(iter(recipes)).name} differs from a full one")
            return full
        return predictions

    def _full(self, run: Run, recipes: Mapping[Layer, Recipe]) -> list[Any]:
        torch.set_rng_state(self._random_state)
        with self.disturber.applied(recipes):
            return run()

    def _give_up(self, why: str) -> None:
        self.replayer = None
        self.notes.append(f"not replayed, every pass run in full: {why}")
