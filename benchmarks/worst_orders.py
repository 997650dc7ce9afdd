r"""How often "the ten worst layers" are the right ones, and in how many passes, over many random orders of the images.

    OMP_NUM_THREADS=1 python -m benchmarks.worst_orders DATA CACHE --net fastestdet [--recipe int4] [--each 6]

DATA holds ``weights/`` and ``tiny_coco/``, as the shared data do. ``CACHE`` keeps what the network predicts on
random views of the 50 images, ``--each`` of each, with every layer in turn in int4 or int8 weights: every layer runs on
every view once. From then on no network runs.

AP is taken to be linear in the images for this: each view has the influence on a layer's drop that leaving it out says
(the values of the infinitesimal jackknife), and the drop of a sample is the mean of its views' influences. Then every
random order is stopped as ``stop=Confidence(top=...)`` stops: looks that grow by half, the error of groups left out,
Student's t, one error shared by all layers. ``--images`` draws larger data sets from the views with replacement, as
many as COCO's val2017 has, say; 0 is the views themselves.

Prints a row for each tolerance: passes over the data set, the unperturbed one included and each counted in full, as if
nothing were replayed; the fewest that a set of this size allows, all layers at the first look; the share of orders in
which the ten are exactly those of all images, and in which none left out is worse than one taken by more than the
tolerance. ``--scored`` scores AP on every sample, and without every group, instead of taking it to be linear: slow.
"""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import sensitivity as sv
from benchmarks.control_variates import Predictions, predictions_of
from benchmarks.real_nets import real_nets, views_task
from sensitivity.contracts import Task
from sensitivity.records.results.resampled import standard_error
from sensitivity.sweep.plan import Perturbation
from sensitivity.sweep.stopping.jackknife import GROUPS_OF_A_STOP, deal, scores_without
from sensitivity.sweep.stopping.judge import LOOK_AGAIN_AT
from sensitivity.sweep.stopping.race import VIRTUAL_LOSS, with_places
from sensitivity.sweep.stopping.ranking import Estimate, StudentReach

Floats = NDArray[np.float64]
RECIPES = {"int4": sv.INT4_WEIGHTS, "int8": sv.INT8_WEIGHTS}


def predicted(net: str, recipe: str, data: Path, cache: Path, each: int) -> tuple[Task, dict[str, Predictions]]:
    """Predictions on all views, of the unperturbed model and with every layer perturbed by itself."""
    real = real_nets()[net]
    task = views_task(real, data, each, cache)
    file = cache / f"all-{net}-{recipe}-{each}.pickle"
    if file.exists():
        return task, pickle.loads(file.read_bytes())
    wrapped = real.wrapped(data)
    variants = {layer.name: Perturbation({layer: RECIPES[recipe]}) for layer in wrapped.layers}
    by_variant = predictions_of(wrapped, task, variants, so_far=file.with_suffix(".part"))
    file.write_bytes(pickle.dumps(by_variant))
    return task, by_variant


def influences(task: Task, by_variant: Mapping[str, Mapping[int, Any]]) -> Floats:
    """(L, N) influence of each image on the drop of each layer, in points; the mean over the images is the drop."""
    images = [(image,) for image in range(len(task))]

    def scores(name: str) -> Floats:
        return 100 * np.array(scores_without(task, by_variant[name], [(), *images]))

    before = scores("baseline")
    rows = []
    for name in by_variant:
        if name != "baseline":
            drop, *without = before - scores(name)
            rows.append(drop + (len(images) - 1) * (np.mean(without) - np.array(without)))
    return np.stack(rows)


class Linear:
    """Drops that are means of influences.

    Args:
        losses: (L, N) influence of each image on the drop of each layer.
    """

    def __init__(self, losses: Floats) -> None:
        self.losses = losses
        self.layers, self.images = losses.shape
        self.truths = losses.mean(1)

    def sampled(self, layers: Sequence[int], images: Sequence[int]) -> list[tuple[float, float]]:
        """Drop on some images, and its standard error by leaving groups of them out, of each layer."""
        losses = self.losses[list(layers)][:, list(images)]
        member = np.arange(len(images))[:, None] % min(len(images), GROUPS_OF_A_STOP)
        member = member == np.arange(member.max() + 1)
        without = (losses.sum(1, keepdims=True) - losses @ member) / (len(images) - member.sum(0))
        return [(float(row.mean()), standard_error(moved)) for row, moved in zip(losses, without, strict=True)]


class Scored:
    """The same, scored.

    Args:
        task: Scores predictions.
        by_variant: Those of the unperturbed model and of each layer.
    """

    def __init__(self, task: Task, by_variant: Mapping[str, Mapping[int, Any]]) -> None:
        self.task = task
        self.by_variant = [by_variant["baseline"], *(by_variant[name] for name in by_variant if name != "baseline")]
        self.layers, self.images = len(self.by_variant) - 1, len(task)
        everything = range(self.images)
        self.truths = np.array([drop for drop, *_ in self._drops(range(self.layers), everything, [()])])

    def sampled(self, layers: Sequence[int], images: Sequence[int]) -> list[tuple[float, float]]:
        """See ``Linear``."""
        drops = self._drops(layers, images, [(), *deal(images, GROUPS_OF_A_STOP)])
        return [(float(drop), standard_error(without)) for drop, *without in drops]

    def _drops(self, layers: Sequence[int], images: Sequence[int], left_out: list[Any]) -> list[Floats]:
        def scores(variant: int) -> Floats:
            some = {image: self.by_variant[variant][image] for image in images}
            return 100 * np.array(scores_without(self.task, some, left_out))

        before = scores(0)
        return [before - scores(1 + layer) for layer in layers]


def stopped(population: Linear | Scored, stop: sv.Confidence, batch: int) -> tuple[Floats, Floats]:
    """Of one random order: (L,) images that each layer ran on, and its drop when it left."""
    layers, whole = population.layers, population.images
    order = np.random.default_rng(stop.seed).permutation(whole).tolist()
    looks = looks_at(stop.minimum_images, whole, batch)
    estimates = [Estimate(math.nan, -math.inf, math.inf, 0, "undecided")] * layers
    for look in looks:
        running = [number for number, estimate in enumerate(estimates) if estimate.status == "undecided"]
        for number, (drop, error) in zip(running, population.sampled(running, order[:look]), strict=True):
            imagined = VIRTUAL_LOSS * stop.tolerance / look
            reach = StudentReach(
                math.hypot(error, imagined) * math.sqrt(1 - look / whole), min(look, GROUPS_OF_A_STOP) - 1, len(looks)
            )
            exact = look == whole
            low, high = (drop, drop) if exact else (-math.inf, math.inf)
            estimates[number] = Estimate(drop, low, high, look, "undecided", reach=None if exact else reach)
        estimates = with_places(stop, estimates)
        if all(estimate.status != "undecided" for estimate in estimates):
            break
    return np.array([estimate.images for estimate in estimates]), np.array([estimate.drop for estimate in estimates])


def looks_at(first: int, whole: int, batch: int) -> list[int]:
    """Numbers of images that are looked at: the first batch that has enough of them, all of them last."""
    looks, look = [], float(first)
    while look < whole:
        looks.append(min(whole, math.ceil(look / batch) * batch))
        look *= LOOK_AGAIN_AT
    return sorted({*looks, whole})


def misplaced(drops: Floats, truths: Floats, top: int) -> float:
    """The most by which a layer left out is worse than one that was taken; 0 where they are right."""
    taken = np.argsort(-drops, kind="stable")
    return max(0.0, float(truths[taken[top:]].max() - truths[taken[:top]].min()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--net", default="fastestdet")
    parser.add_argument("--recipe", default="int4", choices=RECIPES)
    parser.add_argument("--each", type=int, default=6, help="views of each of the 50 images")
    parser.add_argument("--images", nargs="+", type=int, default=[0], help="drawn from the views; 0 is all of these")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--tolerances", nargs="+", type=float, default=[0.5, 1.0, 2.0])
    parser.add_argument("--minimum-images", type=int, default=64)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--scored", action="store_true", help="score AP on every sample of the views")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    task, by_variant = predicted(options.net, options.recipe, options.data, options.cache, options.each)
    of_views = influences(task, by_variant)
    ranked = np.sort(of_views.mean(1))[::-1]
    print(
        f"{options.net}, {options.recipe}: {len(of_views)} layers, {len(task)} views; drops in points of ranks ", end=""
    )
    print(", ".join(f"{rank}: {ranked[rank - 1]:.2f}" for rank in (1, 2, 3, 5, 10, 11, 15, 20, 40, len(ranked))))
    print("deviation of an image, median layer and the worst ten:", end=" ")
    deviations = of_views.std(1)[np.argsort(-of_views.mean(1))]
    print(f"{np.median(deviations):.1f}, {deviations[:10].mean():.1f} points")
    print("| images | tolerance | passes | most | fewest possible | exactly the ten | right but for the tolerance |")
    print("|---|---|---|---|---|---|---|")
    scored: Scored | None = None
    for images in options.images:
        for tolerance in options.tolerances:
            passes, wrong = [], []
            for seed in range(options.orders):
                population: Linear | Scored = Linear(of_views)
                if options.scored:
                    population = scored = scored or Scored(task, by_variant)
                elif images:
                    drawn = np.random.default_rng(seed).integers(0, len(task), images)
                    population = Linear(of_views[:, drawn])
                stop = sv.Confidence(
                    tolerance=tolerance, top=options.top, minimum_images=options.minimum_images, seed=seed
                )
                used, drops = stopped(population, stop, batch=10)
                passes.append((used.sum() + used.max()) / population.images)
                wrong.append(misplaced(drops, population.truths, options.top))
            whole = population.images
            fewest = (len(of_views) + 1) * looks_at(options.minimum_images, whole, 10)[0] / whole
            print(
                f"| {whole} | {tolerance:g} | {np.mean(passes):.1f} | {max(passes):.1f} | {fewest:.1f} "
                f"| {np.mean(np.array(wrong) == 0):.0%} | {np.mean(np.array(wrong) <= tolerance):.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
