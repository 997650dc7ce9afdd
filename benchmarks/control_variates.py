r"""Control variates for the drop of AP or mIoU: how much narrower its interval gets, and whether it holds the truth.

    OMP_NUM_THREADS=1 python -m benchmarks.control_variates DATA CACHE --net fastestdet [--each 20] [--sizes 100 200]

The drop is known on a sample of the images, and wanted for the whole data set. The metric of a sample is the plug-in
estimate of a smooth functional of the distribution of images, and such an estimate is efficient: no statistic of **the
same images** can make it better, however well it correlates with the drop, unless its value on the whole data set is
known. What is cheap to know there is what costs one pass for all layers together. So the controls are

- ``baseline``: the metric of the unperturbed model on the sample, whose value on all images is known after one pass;
- ``together``: the drop of the metric with all layers perturbed at once, known after one pass more.

With the images of a sample dealt into groups, drop and controls without each group give the regression of one on the
others; what it leaves of the drop's spread makes the interval (Student's t, one degree of freedom less a control).
Halves of the sample add how the drop may shift with more images, as in the library: ``none`` is its interval of a stop.
``none, spread alone`` leaves that out, which is what the library did until 2026-11. ``none, bias off`` takes the
jackknife's estimate of its bias off the drop instead (Quenouille 1956).

``CACHE`` keeps what the network predicts on random views of the 50 images, ``--each`` of each; ``--layers`` layers are
spread over the network, each in int4 weights, and in int8 weights. Then ``--repeats`` random samples of the views are
drawn for each size. ``--net lvis`` takes no network: its predictions are the made-up ones of DATA/lvis, so many copies
of each with noise; a "layer" perturbs scores and boxes by more or less, those of some images far more than others.
``--net segmentation`` makes everything up: 50 times ``--each`` confusion matrices of 21 classes, background in all and
one to four others in each, common or rare; a "layer" confuses more pixels, in some images far more.

Prints, for each recipe, size and set of controls: the share of the variance that is left (median layer); the root mean
square error in points, and that of its mean over the samples, the bias; the share of 95 % intervals that hold the drop
of all views; the mean half width in points; how many images of a large data set make the half width one point (median
layer, worst layer). ``bound`` is the error that efficient estimates have: the spread of the influences that the images
have on the drop, over the root of the size.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import sensitivity as sv
from benchmarks.real_nets import real_nets, views_task
from sensitivity.contracts import Task
from sensitivity.perturb.perturber import Perturber
from sensitivity.records.results.resampled import shift_size, standard_error
from sensitivity.score import predict
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.plan import Perturbation
from sensitivity.sweep.stopping.jackknife import (
    GROUPS_OF_A_STOP,
    Parts,
    deal,
    groups_and_halves,
    growth,
    scores_of_parts,
    scores_without,
    student_quantile,
)

Floats = NDArray[np.float64]
Predictions = Mapping[int, Any]
RECIPES = {"int4": sv.INT4_WEIGHTS, "int8": sv.INT8_WEIGHTS}
MADE_DAMAGES = {"strong": 0.5, "mild": 0.05}
"""Of what is made up: the largest damage of a layer, for LVIS the standard deviation of what is added to scores."""
CLASSES = 21
SAVED_EVERY = 10  # batches
SPREAD_ALONE = "none, spread alone"
BIAS_OFF = "none, bias off"
CONTROLS: dict[str, tuple[str, ...]] = {
    "none": (),
    SPREAD_ALONE: (),
    BIAS_OFF: (),
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
    by_variant = predictions_of(wrapped, task, single | together, so_far=file.with_suffix(".part"))
    file.write_bytes(pickle.dumps(by_variant))
    return task, by_variant


def predictions_of(
    wrapped: sv.Wrapped, task: Task, variants: Mapping[str, Perturbation], so_far: Path
) -> dict[str, Predictions]:
    """Predictions on all images: ``baseline``, and each variant under its name; ``so_far`` keeps them from a kill."""
    forward = Forward(wrapped.model, Perturber(wrapped.model), replay=True)
    by_variant: dict[str, dict[int, Any]] = {name: {} for name in ("baseline", *variants)}
    if so_far.exists():
        by_variant = pickle.loads(so_far.read_bytes())
    left = [image for image in range(len(task)) if image not in by_variant["baseline"]]
    with torch.no_grad():
        for number, batch in enumerate(task.batches(left)):
            run = functools.partial(predict, task, wrapped.model, batch)
            by_variant["baseline"] |= zip(batch.images, forward.baseline(run, list(variants.values())), strict=True)
            for name, variant in variants.items():
                by_variant[name] |= zip(batch.images, forward.variant(run, variant), strict=True)
            if number % SAVED_EVERY == 0:
                unfinished = so_far.with_suffix(".new")
                unfinished.write_bytes(pickle.dumps(by_variant))
                unfinished.replace(so_far)
                print(f"{len(by_variant['baseline'])} of {len(task)} views", flush=True)
    so_far.unlink(missing_ok=True)
    return dict(by_variant)


def made(data: Path, cache: Path, *, each: int, layers: int) -> tuple[Task, dict[str, Predictions]]:
    """LVIS's 100 annotated images, so many copies of each, and made-up predictions named as those of ``predicted``."""
    task = _copied(data / "lvis" / "lvis_val_100.json", cache / f"lvis-{each}", each)
    results = json.loads((data / "lvis" / "synthetic_results_100.json").read_text(encoding="utf-8"))
    truth = json.loads((data / "lvis" / "lvis_val_100.json").read_text(encoding="utf-8"))
    of_image: defaultdict[int, list[Any]] = defaultdict(list)
    for result in results:
        of_image[result["image_id"]].append(result)
    originals = [of_image[image["id"]] for image in truth["images"] for _ in range(each)]
    draw = np.random.default_rng(0)
    baseline = {image: _perturbed(_arrays_of(result), 0.05, draw) for image, result in enumerate(originals)}
    by_variant: dict[str, Predictions] = {"baseline": baseline}
    for recipe, largest in MADE_DAMAGES.items():
        together: dict[int, Any] = baseline
        for layer in range(layers):
            damages = largest * (layer + 1) / layers * draw.gamma(0.5, 2.0, len(baseline))
            variant = {image: _perturbed(baseline[image], damages[image], draw) for image in baseline}
            by_variant[f"{recipe} {layer}"] = variant
            together = {image: _perturbed(together[image], damages[image], draw) for image in baseline}
        by_variant[f"{recipe} together"] = together
    return task, by_variant


def made_segmentation(cache: Path, *, each: int, layers: int) -> tuple[Task, dict[str, Predictions]]:
    """Made-up confusion matrices of 21 classes under the names of ``predicted``, and the task that scores them."""
    folder, count = cache / f"segmentation-{each}", 50 * each
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):  # nothing looks at them
            Image.new("RGB" if part == "images" else "L", (1, 1)).save(folder / part / f"{number:06d}.png")
    task = sv.SemanticSegmentation(
        folder / "images",
        folder / "labels",
        classes=list(map(str, range(CLASSES))),
        preprocess=torch.from_numpy,
    )
    draw = np.random.default_rng(0)
    pixels = np.zeros((count, CLASSES))
    pixels[:, 0] = 2e5
    likely = 1 / np.arange(1, CLASSES)
    for image in pixels:
        shown = draw.choice(np.arange(1, CLASSES), draw.integers(1, 5), replace=False, p=likely / likely.sum())
        image[shown] = draw.lognormal(9.5, 1.0, len(shown))
    right = draw.beta(8.0, 3.0, (count, CLASSES))
    instead = draw.dirichlet(np.full(CLASSES, 0.3), (count, CLASSES))
    by_variant: dict[str, Predictions] = {"baseline": _confusions(pixels, right, instead)}
    for recipe, largest in MADE_DAMAGES.items():
        all_right = right
        for layer in range(layers):
            damage = 1 - np.exp(-largest * (layer + 1) / layers * draw.gamma(0.5, 2.0, (count, 1)))
            by_variant[f"{recipe} {layer}"] = _confusions(pixels, right * (1 - damage), instead)
            all_right = all_right * (1 - damage)
        by_variant[f"{recipe} together"] = _confusions(pixels, all_right, instead)
    return task, by_variant


def _confusions(pixels: Floats, right: Floats, instead: Floats) -> Predictions:
    """Confusion matrices of images.

    Args:
        pixels: (N, C) of each class.
        right: (N, C) the share of them that is predicted right.
        instead: (N, C, C) what the others are taken for, a distribution over classes.
    """
    matrices = instead * (pixels * (1 - right))[:, :, None]
    classes = np.arange(pixels.shape[1])
    matrices[:, classes, classes] += pixels * right
    return dict(enumerate({"confusion": matrix} for matrix in matrices.round().astype(np.int64)))


def _copied(annotations: Path, into: Path, each: int) -> sv.Lvis:
    """The task of so many copies of each image, which are empty: nothing looks at them."""
    truth = json.loads(annotations.read_text(encoding="utf-8"))
    into.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for image in truth["images"]:
        for _ in range(each):
            name = f"{len(images):06d}.png"
            images.append(image | {"id": len(images) + 1, "file_name": name})
            Image.new("RGB", (1, 1)).save(into / name)
            known = [annotation for annotation in truth["annotations"] if annotation["image_id"] == image["id"]]
            objects += [
                annotation | {"id": len(objects) + number, "image_id": len(images)}
                for number, annotation in enumerate(known, start=1)
            ]
    file = into / "instances.json"
    file.write_text(json.dumps(truth | {"images": images, "annotations": objects}), encoding="utf-8")
    return sv.Lvis(into, file, preprocess=torch.from_numpy, adapter=lambda outputs, _: outputs)


def _arrays_of(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    boxes = np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "scores": np.array([result["score"] for result in results], np.float64),
        "labels": np.array([result["category_id"] for result in results], np.int64),
        "boxes": boxes,
    }


def _perturbed(prediction: Mapping[str, Any], damage: float, draw: np.random.Generator) -> dict[str, Any]:
    """Scores moved, boxes shifted by a share of their sides, and some detections gone."""
    stays = draw.random(len(prediction["scores"])) > 0.3 * damage
    scores, boxes = prediction["scores"][stays], prediction["boxes"][stays]
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return {
        "scores": np.clip(scores + damage * draw.standard_normal(len(scores)), 0.0, 1.0),
        "labels": prediction["labels"][stays],
        "boxes": boxes + 0.2 * damage * sides * draw.standard_normal((len(boxes), 1)),
    }


@dataclass(frozen=True)
class Sample:
    """The metric of every variant on a sample of the images.

    Attributes:
        scores: For each variant, (1 + G + H,) on the sample, then without each group, then without each half.
        parts: The groups and halves.
        growth: How many times the shift of one halving may come on the way to all images.
        seen: Share of the images that are in the sample.
    """

    scores: Mapping[str, Floats]
    parts: Parts
    growth: float
    seen: float

    @classmethod
    def of(cls, task: Task, by_variant: Mapping[str, Predictions], images: Sequence[int]) -> Sample:
        """Score every variant."""
        some = {name: {image: known[image] for image in images} for name, known in by_variant.items()}
        parts = groups_and_halves(task, some["baseline"], GROUPS_OF_A_STOP)
        scores = {name: np.array(scores_of_parts(task, predictions, parts)) for name, predictions in some.items()}
        return cls(scores, parts, growth(task, some["baseline"]), len(images) / len(task))

    def estimate(self, drop: Floats, controls: Floats, truth: Floats, way: str) -> tuple[float, float]:
        """The drop on all images, and how far its interval of 95 % reaches.

        Args:
            drop: As the scores.
            controls: (C, 1 + G + H) likewise.
            truth: (C,) the controls on all images.
            way: One of ``CONTROLS``.
        """
        groups = len(self.parts.groups)
        without, known = drop[1 : 1 + groups], controls[:, 1 : 1 + groups]
        spread, moves = without - without.mean(), known - known.mean(1, keepdims=True)
        weights = np.linalg.lstsq(moves.T, spread, rcond=None)[0]
        left = spread - weights @ moves
        freedom = groups - 1 - len(weights)
        error = math.sqrt((groups - 1) ** 2 / groups / freedom * float(np.square(left).sum()) * (1 - self.seen))
        if way not in (SPREAD_ALONE, BIAS_OFF):
            _, _, shifts = self.parts.read((drop - weights @ controls).tolist())
            error = math.hypot(error, self.growth * shift_size(shifts))
        drop_found = float(drop[0] - weights @ (controls[:, 0] - truth))
        if way == BIAS_OFF:
            drop_found -= (groups - 1) * (float(without.mean()) - drop[0]) * (1 - self.seen)
        return drop_found, error * student_quantile(0.95, freedom)


def compare(task: Task, by_variant: Mapping[str, Predictions], sizes: Sequence[int], repeats: int) -> None:
    """Draw samples, estimate every drop on each, and print how good the estimates are."""
    whole = {name: task.score(predictions)[task.metric] for name, predictions in by_variant.items()}
    everything = deal(list(range(len(task))), GROUPS_OF_A_STOP)
    without = {name: np.array(scores_without(task, some, everything)) for name, some in by_variant.items()}
    recipes = list(dict.fromkeys(name.split()[0] for name in by_variant if name != "baseline"))
    draw = np.random.default_rng(0)
    print(
        "| recipe | views | controls | variance left | error, points | of it bias | bound, points "
        "| intervals that hold | half width, points | images for ±1 point, median and worst layer |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size in sizes:
        samples = []
        for _ in range(repeats):
            images = draw.choice(len(task), size, replace=False).tolist()
            samples.append(Sample.of(task, by_variant, images))
        for recipe in recipes:
            names = [name for name in by_variant if name.startswith(recipe) and not name.endswith("together")]
            errors = {controls: _errors(samples, whole, names, recipe, controls) for controls in CONTROLS}
            at_best = [standard_error(without["baseline"] - without[name]) for name in names]
            bound = math.sqrt(np.square(at_best).mean() * (len(task) / size - 1))
            for controls, (missed, half) in errors.items():
                needed = np.square(100 * half).mean(0) * size / (1 - size / len(task))
                left = np.median(np.square(missed).mean(0) / np.square(errors["none"][0]).mean(0))
                error, bias = (math.sqrt(np.square(wrong).mean()) for wrong in (missed, missed.mean(0)))
                print(
                    f"| {recipe} | {size} | {controls} | {left:.2f} | {100 * error:.2f} | {100 * bias:.2f} "
                    f"| {100 * bound:.2f} | {np.mean(np.abs(missed) <= half):.1%} | {100 * half.mean():.2f} "
                    f"| {np.median(needed):.0f}, {needed.max():.0f} |",
                    flush=True,
                )


def _errors(
    samples: Sequence[Sample],
    whole: Mapping[str, float],
    names: Sequence[str],
    recipe: str,
    way: str,
) -> tuple[Floats, Floats]:
    """(R, L) errors of the estimates, and half widths of their intervals."""
    together, controls = f"{recipe} together", CONTROLS[way]
    truths = {"baseline": whole["baseline"], "together": whole["baseline"] - whole[together]}
    estimates = []
    for sample in samples:
        baseline = sample.scores["baseline"]
        values = {"baseline": baseline, "together": baseline - sample.scores[together]}
        known = np.array([values[control] for control in controls]).reshape(len(controls), len(baseline))
        truth = np.array([truths[control] for control in controls])
        estimates.append([sample.estimate(baseline - sample.scores[name], known, truth, way) for name in names])
    drops = np.array([whole["baseline"] - whole[name] for name in names])
    results = np.array(estimates)
    return results[..., 0] - drops, results[..., 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--net", default="fastestdet", choices=[*real_nets(), "lvis", "segmentation"])
    parser.add_argument("--each", type=int, default=20, help="views of each of the 50 images, copies of LVIS's 100")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 200])
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    settings = {"each": options.each, "layers": options.layers}
    if options.net == "lvis":
        task, by_variant = made(options.data, options.cache, **settings)
    elif options.net == "segmentation":
        task, by_variant = made_segmentation(options.cache, **settings)
    else:
        task, by_variant = predicted(options.net, options.data, options.cache, **settings)
    compare(task, by_variant, options.sizes, options.repeats)


if __name__ == "__main__":
    main()
