r"""Control variates for the drop of AP: how much narrower its interval gets, and whether it still holds the truth.

    OMP_NUM_THREADS=1 python -m benchmarks.control_variates DATA CACHE --net fastestdet [--each 20] [--sizes 100 200]

The drop of AP is known on a sample of the images, and wanted for the whole data set. AP on a sample is the plug-in
estimate of a smooth functional of the distribution of images, and such an estimate is efficient: no statistic of **the
same images** can make it better, however well it correlates with the drop, unless its value on the whole data set is
known. What is cheap to know there is what costs one pass for all layers together. So the controls are

- ``baseline``: AP of the unperturbed model on the sample, whose value on all images is known after one pass;
- ``together``: the drop of AP with all layers perturbed at once, known after one pass more.

With the images of a sample dealt into groups, drop and controls without each group give the regression of one on the
others; what it leaves of the drop's spread makes the interval (Student's t, one degree of freedom less a control).

``CACHE`` keeps what the network predicts on random views of the 50 images, ``--each`` of each; ``--layers`` layers are
spread over the network, each in int4 weights, and in int8 weights. Then ``--repeats`` random samples of the views are
drawn for each size. Prints, for each recipe, size and set of controls: the share of the variance that is left (median
layer), root mean square error in points, the share of 95 % intervals that hold the drop of all views, and the mean half
width in points.
"""

from __future__ import annotations

import argparse
import functools
import math
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import sensitivity as sv
from benchmarks.real_nets import real_nets, views_task
from sensitivity.contracts import Task
from sensitivity.perturb.perturber import Perturber
from sensitivity.score import predict
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.plan import Perturbation
from sensitivity.sweep.stopping.jackknife import GROUPS_OF_A_STOP, deal, scores_without, student_quantile

Floats = NDArray[np.float64]
Predictions = Mapping[int, Any]
RECIPES = {"int4": sv.INT4_WEIGHTS, "int8": sv.INT8_WEIGHTS}
CONTROLS: dict[str, tuple[str, ...]] = {
    "none": (),
    "baseline": ("baseline",),
    "together": ("together",),
    "both": ("baseline", "together"),
}


def predicted(net: str, data: Path, cache: Path, *, each: int, layers: int) -> tuple[Task, dict[str, Predictions]]:
    """Predictions on all views: of the unperturbed model, of single layers, and of all layers together."""
    real = real_nets()[net]
    task = views_task(real, data, each, cache)
    file = cache / f"{net}-{each}-{layers}.pickle"
    if file.exists():
        return task, pickle.loads(file.read_bytes())
    wrapped = real.wrapped(data)
    table = list(wrapped.layers)
    chosen = table[:: max(1, len(table) // layers)]
    single = {
        f"{name} {layer.name}": Perturbation({layer: recipe}) for name, recipe in RECIPES.items() for layer in chosen
    }
    together = {f"{name} together": Perturbation(dict.fromkeys(table, recipe)) for name, recipe in RECIPES.items()}
    by_variant = predictions_of(wrapped, task, single | together)
    file.write_bytes(pickle.dumps(by_variant))
    return task, by_variant


def predictions_of(wrapped: sv.Wrapped, task: Task, variants: Mapping[str, Perturbation]) -> dict[str, Predictions]:
    """Predictions on all images: ``baseline``, and each variant under its name."""
    forward = Forward(wrapped.model, Perturber(wrapped.model), replay=True)
    by_variant: defaultdict[str, dict[int, Any]] = defaultdict(dict)
    with torch.no_grad():
        for batch in task.batches():
            run = functools.partial(predict, task, wrapped.model, batch)
            by_variant["baseline"] |= zip(batch.images, forward.baseline(run, list(variants.values())), strict=True)
            for name, variant in variants.items():
                by_variant[name] |= zip(batch.images, forward.variant(run, variant), strict=True)
            print(f"{len(by_variant['baseline'])} of {len(task)} views", flush=True)
    return dict(by_variant)


class Sample:
    """AP on a sample of the images, and without each group of them."""

    def __init__(self, task: Task, images: Sequence[int]) -> None:
        self._task = task
        self._images = images
        self._groups = [(), *deal(images, GROUPS_OF_A_STOP)]

    def scores(self, predictions: Predictions) -> Floats:
        """(1 + G,) on the sample, then without each group."""
        some = {image: predictions[image] for image in self._images}
        return np.array(scores_without(self._task, some, self._groups))


def estimate(drop: Floats, controls: Floats, truth: Floats, *, seen: float) -> tuple[float, float]:
    """The drop on all images, and how far its interval of 95 % reaches.

    Args:
        drop: (1 + G,) on the sample, then without each group.
        controls: (C, 1 + G) likewise.
        truth: (C,) the controls on all images.
        seen: Share of the images that are in the sample.
    """
    groups = len(drop) - 1
    spread, moves = drop[1:] - drop[1:].mean(), controls[:, 1:] - controls[:, 1:].mean(1, keepdims=True)
    weights = np.linalg.lstsq(moves.T, spread, rcond=None)[0]
    left = spread - weights @ moves
    freedom = groups - 1 - len(weights)
    error = math.sqrt((groups - 1) ** 2 / groups / freedom * float(np.square(left).sum()) * (1 - seen))
    return float(drop[0] - weights @ (controls[:, 0] - truth)), error * student_quantile(0.95, freedom)


def compare(task: Task, by_variant: Mapping[str, Predictions], sizes: Sequence[int], repeats: int) -> None:
    """Draw samples, estimate every drop on each, and print how good the estimates are."""
    whole = {name: task.score(predictions)[task.metric] for name, predictions in by_variant.items()}
    draw = np.random.default_rng(0)
    print("| recipe | views | controls | variance left | error, points | intervals that hold | half width |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        samples = []
        for _ in range(repeats):
            images = draw.choice(len(task), size, replace=False).tolist()
            sample = Sample(task, images)
            samples.append({name: sample.scores(predictions) for name, predictions in by_variant.items()})
        for recipe in RECIPES:
            names = [name for name in by_variant if name.startswith(recipe) and not name.endswith("together")]
            errors = {
                controls: _errors(samples, whole, names, recipe, CONTROLS[controls], seen=size / len(task))
                for controls in CONTROLS
            }
            for controls, (missed, half) in errors.items():
                left = np.median(np.square(missed).mean(0) / np.square(errors["none"][0]).mean(0))
                print(
                    f"| {recipe} | {size} | {controls} | {left:.2f} | {100 * math.sqrt(np.square(missed).mean()):.2f} "
                    f"| {np.mean(np.abs(missed) <= half):.1%} | {100 * half.mean():.2f} |",
                    flush=True,
                )


def _errors(
    samples: Sequence[Mapping[str, Floats]],
    whole: Mapping[str, float],
    names: Sequence[str],
    recipe: str,
    controls: Sequence[str],
    *,
    seen: float,
) -> tuple[Floats, Floats]:
    """(R, L) errors of the estimates, and half widths of their intervals."""
    together = f"{recipe} together"
    truths = {"baseline": whole["baseline"], "together": whole["baseline"] - whole[together]}
    estimates = []
    for sample in samples:
        values = {"baseline": sample["baseline"], "together": sample["baseline"] - sample[together]}
        known = np.array([values[control] for control in controls]).reshape(len(controls), len(sample["baseline"]))
        truth = np.array([truths[control] for control in controls])
        estimates.append([estimate(sample["baseline"] - sample[name], known, truth, seen=seen) for name in names])
    drops = np.array([whole["baseline"] - whole[name] for name in names])
    results = np.array(estimates)
    return results[..., 0] - drops, results[..., 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--net", default="fastestdet")
    parser.add_argument("--each", type=int, default=20, help="views of each of the 50 images")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 200])
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    task, by_variant = predicted(options.net, options.data, options.cache, each=options.each, layers=options.layers)
    compare(task, by_variant, options.sizes, options.repeats)


if __name__ == "__main__":
    main()
