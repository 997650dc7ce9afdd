"""The passes of a sweep: the baseline recorded, the variants replayed where that is safe, run in full where not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sensitivity.perturb.disturb import Disturber
from sensitivity.records import Layer, Recipe
from sensitivity.sweep.predictions import same
from sensitivity.sweep.replay import Replayer

CHECKED_VARIANTS = 4  # spread over the model, on the first batch

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
        self._checked = False
        self._ran: int | None = None  # variants on the last batch

    def baseline(self, run: Run, variants: Sequence[Mapping[Layer, Recipe]]) -> list[Any]:
        """Predictions of the undisturbed model; recorded for the variants that follow.

        On the first batch some of the variants are run in both ways, so that a model which cannot be replayed is found
        before any of its replayed predictions is used.

        Args:
            run: Predicts one batch.
            variants: What will follow on this batch: the disturbed layers of each variant.
        """
        torch.set_rng_state(self._random_state)
        if self.replayer is None:
            return run()
        if self._ran is not None and self._ran >= len(variants):  # a resumed batch may run a few, and tell too little
            self.replayer.keep_only_what_was_used()
        self._ran = 0
        predictions: list[Any] = self.replayer.record(run)
        if not torch.equal(torch.get_rng_state(), self._random_state):
            self._give_up("the model draws random numbers")
        elif not self._checked:
            self._check(run, variants[:: max(1, math.ceil(len(variants) / CHECKED_VARIANTS))])
        return predictions

    def variant(self, run: Run, recipes: Mapping[Layer, Recipe]) -> list[Any]:
        """Predictions with these layers disturbed; bit-identical to a full pass.

        Args:
            run: Predicts the batch that was last given to ``baseline``.
            recipes: The disturbed layers.
        """
        if self._ran is not None:
            self._ran += 1
        if self.replayer is None:
            return self._full(run, recipes)
        predictions = self._replayed(self.replayer, run, recipes)
        if self.replayer.intact():
            return predictions
        self._give_up("the model writes to tensors that an earlier pass returned")
        return self._full(run, recipes)

    def _check(self, run: Run, variants: Sequence[Mapping[Layer, Recipe]]) -> None:
        """Replay some variants and run them in full; where one differs, replay no more."""
        self._checked = bool(variants)
        for recipes in variants:
            assert self.replayer is not None
            try:
                replayed, full = self._replayed(self.replayer, run, recipes), self._full(run, recipes)
            except Exception:  # noqa: BLE001 - a variant that fails says so when it is measured
                continue
            if not all(map(same, replayed, full)):
                self._give_up(f"a replayed pass of {next(iter(recipes)).name} differs from a full one")
                return

    def _replayed(self, replayer: Replayer, run: Run, recipes: Mapping[Layer, Recipe]) -> list[Any]:
        torch.set_rng_state(self._random_state)
        with self.disturber.applied(recipes), replayer.replaying(self.disturber.touched(recipes)):
            return run()

    def _full(self, run: Run, recipes: Mapping[Layer, Recipe]) -> list[Any]:
        torch.set_rng_state(self._random_state)
        with self.disturber.applied(recipes):
            return run()

    def _give_up(self, why: str) -> None:
        self.replayer = None
        self.notes.append(f"not replayed, every pass run in full: {why}")
