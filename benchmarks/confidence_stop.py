"""What a confidence stop saves, and whether its intervals hold, where the truth is known.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.confidence_stop [CSV]``; takes some minutes. Prints JSON. The
CSV has one layer a row and its drop in percent in ``drop_all`` (default: the thesis's, beside the checkout). Every
repetition draws another data set and another order of the images.

``thesis``: 36,000 instances in 5000 images; a layer's losses per instance have its drop for mean and
0.01 + sqrt(drop) / 2 for standard deviation: zero for half of the instances, small noise on the others, and heavy
losses for the ruined ones; correlation 0.3 within an image. ``rare``: nothing but zeros and the same heavy loss in a
few images, the case that no early look can see.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.sweep.stopping.race import Confidence, Race

IMAGES, INSTANCES, EMPTY_IMAGES = 5000, 36_000, 48
BATCH = 8
CORRELATION = 0.3
UNTOUCHED = 0.5  # share of the instances with no noise
RUINED = (
    0.5,
    4.5,
)  # beta distribution of a ruined instance's loss: second moment over mean is 1/4, as in the deviation
GOALS = ((0.005, 0.2), (0.0025, 0.1))
LEVELS = (0.95, 0.9)
ROUNDING = 1e-12
RARE = (
    (0.05, 0.1),
    (0.02, 0.25),
    (0.01, 0.5),
    (0.05, 0.4),
    (0.02, 1.0),
)  # share of the images, loss of their instances


def thesis_drops(path: Path) -> np.ndarray:
    """(L,) drops as fractions, one a layer."""
    with path.open(encoding="utf-8", newline="") as file:
        return np.array([float(row["drop_all"]) / 100 for row in csv.DictReader(file)])


def draw_counts(draw: np.random.Generator) -> np.ndarray:
    """(N,) instances in each image: a long-tailed 36,000 in all; as in COCO val2017, 48 images have none."""
    counts = np.zeros(IMAGES, dtype=np.int64)
    filled = IMAGES - EMPTY_IMAGES
    popularity = draw.exponential(size=filled)
    counts[:filled] = 1 + draw.multinomial(INSTANCES - filled, popularity / popularity.sum())
    return draw.permutation(counts)


def draw_values(draw: np.random.Generator, drop: float, number: int) -> np.ndarray:
    """(number,) losses of single instances with the drop's mean and its standard deviation."""
    size, (alpha, other) = abs(drop), RUINED
    deviation = 0.01 + np.sqrt(size) / 2
    mean, square = alpha / (alpha + other), alpha / (alpha + other) * (alpha + 1) / (alpha + other + 1)
    if size > mean:  # more than everything would have to be ruined this way: all are, to a degree
        strength = size * (1 - size) / deviation**2 - 1
        everywhere: np.ndarray = np.copysign(1, drop) * draw.beta(size * strength, (1 - size) * strength, number)
        return everywhere
    ruined = np.where(draw.random(number) < size / mean, draw.beta(alpha, other, number), 0.0)
    rest = deviation**2 - (size / mean * square - size**2)
    noise = draw.laplace(0, np.sqrt(rest / (1 - UNTOUCHED) / 2), number) * (draw.random(number) >= UNTOUCHED)
    values: np.ndarray = np.copysign(1, drop) * np.clip(ruined + noise, -1, 1)
    return values


def draw_losses(draw: np.random.Generator, drop: float, counts: np.ndarray) -> np.ndarray:
    """(N,) losses summed over the instances of each image.

    An instance takes its image's value with probability sqrt(CORRELATION), else one of its own: the values of two
    instances of an image then correlate as asked, and no value's distribution changes.
    """
    image = np.repeat(np.arange(len(counts)), counts)
    shared = draw.random(len(image)) < np.sqrt(CORRELATION)
    own, common = draw_values(draw, drop, len(image)), draw_values(draw, drop, len(counts))
    return np.bincount(image, np.where(shared, common[image], own), minlength=len(counts))


def simulate(losses: np.ndarray, counts: np.ndarray, confidence: Confidence) -> dict[str, Any]:
    """One race of (L, N) losses, in batches until every layer is decided, against the truth.

    Returns:
        Share of images and instances used, and for each layer whether its last interval holds the truth, and whether
        every interval did that it had on the way.
    """
    layers = [str(layer) for layer in range(len(losses))]
    race = Race(layers, counts, confidence)
    truths = losses.sum(axis=1) / counts.sum()
    held, always = np.zeros(len(layers), dtype=bool), np.ones(len(layers), dtype=bool)
    for start in range(0, len(race.order), BATCH):
        images = race.order[start : start + BATCH].tolist()
        for layer in map(int, race.running):
            estimate = race.add(layers[layer], images, losses[layer, images])
            held[layer] = estimate.low - ROUNDING <= truths[layer] <= estimate.high + ROUNDING
            always[layer] &= held[layer]
        race.place()
    used = np.array([race.estimate(layer).images for layer in layers])
    seen = np.cumsum(counts[race.order])[used - 1]
    return {
        "images": used.mean() / len(counts),
        "instances": seen.mean() / counts.sum(),
        "covered": held,
        "always": always,
        "passes": used.sum() / len(counts) + used.max() / len(counts),
        "misplaced": misplaced(race, truths),
    }


def misplaced(race: Race, truths: np.ndarray) -> float:
    """The most by which a layer left out of the worst ones is worse than one that was taken; 0 where they are right."""
    top = race.confidence.top
    if top is None:
        return 0.0
    drops = np.array([race.estimate(str(layer)).drop for layer in range(len(truths))])
    taken = np.argsort(-drops, kind="stable")
    return max(0.0, float(truths[taken[top:]].max() - truths[taken[:top]].min()))


def worst(drops: np.ndarray, repetitions: int) -> list[dict[str, float]]:
    """Which ten layers are the worst: passes of the network over the data, and whether the ten are the right ones."""
    results = []
    for tolerance in (0.005, 0.0025):
        runs = []
        for repetition in range(repetitions):
            draw = np.random.default_rng(repetition)
            counts = draw_counts(draw)
            losses = np.stack([draw_losses(draw, drop, counts) for drop in drops])
            runs.append(simulate(losses, counts, Confidence(tolerance=tolerance, top=10, seed=repetition)))
        wrong = np.array([run["misplaced"] for run in runs])
        results.append(
            {
                "tolerance": tolerance,
                "passes": round(float(np.mean([run["passes"] for run in runs])), 2),
                "most_passes": round(float(max(run["passes"] for run in runs)), 2),
                "exactly_the_ten": round(float((wrong == 0.0).mean()), 3),
                "the_ten_but_for_the_tolerance": round(float((wrong <= tolerance).mean()), 3),
            }
        )
    return results


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Shares over all runs."""
    covered = np.array([run["covered"] for run in runs])
    always = np.array([run["always"] for run in runs])
    return {
        "share_of_images": round(float(np.mean([run["images"] for run in runs])), 4),
        "share_of_instances": round(float(np.mean([run["instances"] for run in runs])), 4),
        "coverage_all_layers": round(float(covered.all(axis=1).mean()), 4),
        "coverage_per_layer": round(float(covered.mean()), 5),
        "coverage_worst_layer": round(float(covered.mean(axis=0).min()), 4),
        "coverage_all_layers_every_look": round(float(always.all(axis=1).mean()), 4),
    }


def thesis(drops: np.ndarray, repetitions: int) -> list[dict[str, float]]:
    """Every goal at every level, on the same draws."""
    settings = [(level, *goal) for level in LEVELS for goal in GOALS]
    runs: list[list[dict[str, Any]]] = [[] for _ in settings]
    for repetition in range(repetitions):
        draw = np.random.default_rng(repetition)
        counts = draw_counts(draw)
        losses = np.stack([draw_losses(draw, drop, counts) for drop in drops])
        for (level, tolerance, share), outcomes in zip(settings, runs, strict=True):
            confidence = Confidence(level=level, tolerance=tolerance, relative=share, seed=repetition)
            outcomes.append(simulate(losses, counts, confidence))
    return [
        {"level": level, "tolerance": tolerance, "relative": share} | summary(outcomes)
        for (level, tolerance, share), outcomes in zip(settings, runs, strict=True)
    ]


def rare(repetitions: int, minimum_images: int) -> list[dict[str, float]]:
    """Coverage of single layers whose whole drop sits in a few images."""
    confidence = [Confidence(tolerance=0.005, minimum_images=minimum_images, seed=seed) for seed in range(repetitions)]
    covered = np.zeros((repetitions, len(RARE)), dtype=bool)
    for repetition in range(repetitions):
        draw = np.random.default_rng(repetition)
        counts = draw_counts(draw)
        losses = np.stack([np.where(draw.random(IMAGES) < share, loss, 0.0) * counts for share, loss in RARE])
        covered[repetition] = simulate(losses, counts, confidence[repetition])["covered"]
    return [
        {"share_of_images": share, "loss": loss, "drop": round(share * loss, 4), "coverage": round(float(held), 3)}
        for (share, loss), held in zip(RARE, covered.mean(axis=0), strict=True)
    ]


def main() -> None:
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "thesis" / "l0.csv"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="?", type=Path, default=beside, help="table with a column drop_all, in percent")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--worst-ten", action="store_true", help="only that question")
    arguments = parser.parse_args()
    drops = thesis_drops(arguments.csv)
    if arguments.worst_ten:
        print(json.dumps({"layers": len(drops), "worst_ten": worst(drops, arguments.repetitions)}, indent=2))
        return
    result = {
        "layers": len(drops),
        "repetitions": arguments.repetitions,
        "thesis": thesis(drops, arguments.repetitions),
        "worst_ten": worst(drops, arguments.repetitions),
        "rare_64_images": rare(arguments.repetitions, 64),
        "rare_300_images": rare(arguments.repetitions, 300),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
