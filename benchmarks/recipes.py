"""What ranges are worth: AP or mIoU of six trained networks and the demo's, wholly quantized by each recipe.

    python -m benchmarks.recipes --data ../shared/data --out /tmp/recipes --views 200

Calibrated on the 50 training images of tiny_coco, scored on views of its 50 validation images: the first 50 views are
the images as they are, the others random crops of 70 to 100 % of each side, half of them mirrored. The demo's network
is calibrated on 32 scenes and scored on as many fresh scenes as there are views. Activation histograms count every
eighth value. The intervals are of the paired difference to fp32, 95 %, by leaving out groups of images, each with all
of its views; views of one image are not independent, so 1,000 of them tell less than 1,000 images would. SQNR is that
of the network's own outputs on eight training images.

What is done is kept in the folder: a run that was stopped goes on, and more views are added to those that are there.
One thread. Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import json
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sensitivity as sv
from benchmarks.real_nets import real_nets
from benchmarks.views import write_views
from sensitivity.demo.run import CALIBRATION_SCENES, WEIGHTS, segment
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene, write_scenes
from sensitivity.records.results.resampled import standard_error
from sensitivity.score import predict
from sensitivity.sweep.stopping.jackknife import GROUPS, scores_without, student_quantile
from sensitivity.zoo import efficientvit_sam

CHUNK = 50
SQNR_IMAGES = 8
TIMED_IMAGES = 10


def activations(observer: str, *, affine: bool = False, **settings: Any) -> sv.QuantSpec:
    sampled: dict[str, Any] = {} if observer.endswith("minmax") else {"sample_every": 8}
    number_format = "uint8" if affine else "int8"
    return sv.QuantSpec(number_format, symmetric=not affine, observer=observer, **sampled, **settings)


def weights(observer: str = "minmax", number_format: str = "int8", **settings: Any) -> sv.QuantSpec:
    return sv.QuantSpec(number_format, "per-channel", observer=observer, **settings)


def make_recipes() -> list[sv.Recipe]:
    """Every recipe of the table, in its order."""
    symmetric = {
        "minmax": activations("minmax"),
        "mean-minmax": activations("mean-minmax"),
        **{f"{p:g} %": activations("percentile", percentile=p) for p in (99.9, 99.99, 99.999)},
        "mse": activations("mse"),
        "entropy": activations("entropy"),
    }
    affine = {
        "minmax": activations("minmax", affine=True),
        "mean-minmax": activations("mean-minmax", affine=True),
        **{f"{p:g} %": activations("percentile", affine=True, percentile=p) for p in (99.99, 99.999)},
        "mse": activations("mse", affine=True),
    }
    by_weights = {"mse": weights("mse"), "99.99 %": weights("percentile", percentile=99.99)}
    recipes = [sv.Recipe(f"int8, {name}", weights(), spec) for name, spec in symmetric.items()]
    recipes += [sv.Recipe(f"int8, 99.99 %; weights {n}", w, symmetric["99.99 %"]) for n, w in by_weights.items()]
    recipes += [sv.Recipe("int8, 99.999 %; weights mse", by_weights["mse"], symmetric["99.999 %"])]
    recipes += [sv.Recipe(f"uint8 affine, {name}", weights(), spec) for name, spec in affine.items()]
    recipes += [sv.Recipe(f"uint8 affine, {n}; weights mse", weights("mse"), affine[n]) for n in ("99.999 %", "mse")]
    recipes += [
        sv.Recipe("uint8 affine, mse; 7-bit weights", weights(number_format="int7"), affine["mse"]),
        sv.Recipe("uint8 affine, mse; 7-bit weights mse", weights("mse", "int7"), affine["mse"]),
        sv.FP8.renamed("fp8, minmax"),
        sv.Recipe(
            "fp8, mse; weights mse",
            weights("mse", "fp8_e4m3"),
            sv.QuantSpec("fp8_e4m3", observer="mse", sample_every=8),
        ),
        sv.Recipe("int4 weights, minmax", weights(number_format="int4")),
        sv.Recipe("int4 weights, mse", weights("mse", "int4")),
        sv.Recipe("int4 weights, 99.9 %", weights("percentile", "int4", percentile=99.9)),
    ]
    return recipes


@dataclass(frozen=True)
class Net:
    """A network, wrapped, with what it is calibrated and scored on.

    Attributes:
        wrapped: The network.
        task: All views.
        calibration: Preprocessed training images.
        sources: For each position of the task, the image that it is a view of.
    """

    wrapped: sv.Wrapped
    task: sv.Task
    calibration: Sequence[Tensor]
    sources: Sequence[int]


# --- networks --------------------------------------------------------------------------------------------------------


def trained(data: Path, out: Path, views: int, *, name: str) -> Net:
    net = real_nets()[name]
    annotations = write_views(data, out / "views", views)
    task = net.task(annotations.parent / "images", annotations)
    sources = [number % CHUNK for number in range(views)]
    return Net(net.wrapped(data), task, inputs_of(net.split(data, "train")), sources)


def demo(data: Path, out: Path, views: int) -> Net:  # noqa: ARG001 - as the others
    sam = efficientvit_sam.load("tiny", checkpoint=WEIGHTS)
    images, annotations = write_scenes(out / f"scenes-{views}", views, HELD_OUT_SEED)
    task = sv.PromptedMasks(images, annotations, segment=functools.partial(segment, sam))
    calibration = [sam.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(CALIBRATION_SCENES)]
    wrapped = sv.wrap(sam.image_encoder, calibration[0], name="demo")
    return Net(wrapped, task, calibration, list(range(views)))


def inputs_of(task: sv.Task) -> list[Tensor]:
    return [image[None] for batch in task.batches() for image in batch.inputs[0]]


NETS: dict[str, Callable[[Path, Path, int], Net]] = {
    "demo": demo,
    "fastestdet": functools.partial(trained, name="fastestdet"),
    "yolo_fastest_1_1": functools.partial(trained, name="yolo_fastest_1_1"),
    "yolo_fastest_1_1_xl": functools.partial(trained, name="yolo_fastest_1_1_xl"),
    "espnetv2_s0_5": functools.partial(trained, name="espnetv2_s0_5_voc384"),
    "espnetv2_s1_0": functools.partial(trained, name="espnetv2_s1_0_voc384"),
    "espnetv2_s2_0": functools.partial(trained, name="espnetv2_s2_0_voc384"),
}


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(name: str, net: Net, recipes: Sequence[sv.Recipe], out: Path, chunk: int) -> None:
    """Predict one chunk of the views with every recipe and in float, where that is not done yet."""
    calibration = calibrated(name, net, recipes, out)
    schemes = {"fp32": sv.Scheme()} | {recipe.name: sv.Scheme.all(recipe) for recipe in recipes}
    positions = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(net.task)))
    for recipe, scheme in schemes.items():
        place = out / "predictions" / name / f"{file_name(recipe)}-{chunk}.pickle"
        if place.exists():
            continue
        started = time.perf_counter()
        with net.wrapped.quantized(scheme, calibration=calibration) as model, torch.no_grad():
            predictions = {
                position: prediction
                for batch in net.task.batches(positions)
                for position, prediction in zip(batch.images, predict(net.task, model, batch), strict=True)
            }
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps(predictions))
        print(f"{name}, {recipe}, views of chunk {chunk}: {time.perf_counter() - started:.0f} s", file=sys.stderr)


def calibrated(name: str, net: Net, recipes: Sequence[sv.Recipe], out: Path) -> sv.Calibration:
    """The ranges of all recipes: those of an earlier run, or measured in one pass."""
    place = out / f"{name}.safetensors"
    needed = [recipe for recipe in recipes if recipe.needs_calibration]
    if place.exists():
        known = sv.Calibration.load(place)
        if all(known.fits(recipe) for recipe in needed):
            return known
    made = net.wrapped.calibrate(net.calibration, needed, progress=False)
    made.save(place)
    return made


def measure_rest(name: str, net: Net, recipes: Sequence[sv.Recipe], out: Path) -> None:
    """SQNR of the outputs, and the time of a calibration for one recipe as a multiple of plain inference."""
    calibration = calibrated(name, net, recipes, out)
    task = sv.FeatureFidelity(torch.cat(list(net.calibration[:SQNR_IMAGES])), batch_size=1)
    images = net.calibration[:TIMED_IMAGES]
    for recipe in recipes:
        place = out / "rest" / name / f"{file_name(recipe.name)}.json"
        if place.exists():
            continue
        sqnr = net.wrapped.evaluate(task, sv.Scheme.all(recipe), calibration=calibration).value
        ratio = None
        if recipe.needs_calibration:
            with torch.no_grad():
                plain = seconds(lambda: [net.wrapped.model(image) for image in images])
            ratio = seconds(functools.partial(net.wrapped.calibrate, images, recipe, progress=False)) / plain
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"sqnr": sqnr, "time": ratio}))


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def file_name(recipe: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in recipe)


# --- the table -------------------------------------------------------------------------------------------------------


def tell(nets: Mapping[str, Net], recipes: Sequence[sv.Recipe], out: Path) -> None:
    for name, net in nets.items():
        baseline = read_predictions(out, name, "fp32", len(net.task))
        if not baseline:
            continue
        metric = f"{net.task.metric}"
        fp32 = net.task.score(baseline)[net.task.metric]
        print(f"\n### {name}: fp32 {metric} {100 * fp32:.2f} on {len(baseline)} views\n")
        print(f"| recipe | {metric} | difference to fp32, points | SQNR dB | calibration time |")
        print("|---|---:|---:|---:|---:|")
        for recipe in recipes:
            predictions = read_predictions(out, name, recipe.name, len(net.task))
            if predictions:
                print(row(net, recipe, {p: baseline[p] for p in predictions if p in baseline}, predictions, out, name))


def row(
    net: Net, recipe: sv.Recipe, baseline: Mapping[int, Any], predictions: Mapping[int, Any], out: Path, name: str
) -> str:
    difference, error = compare(net, baseline, predictions)
    score = net.task.score(predictions)[net.task.metric]
    place = out / "rest" / name / f"{file_name(recipe.name)}.json"
    rest = json.loads(place.read_text()) if place.exists() else {"sqnr": None, "time": None}
    sqnr = "" if rest["sqnr"] is None else f"{rest['sqnr']:.1f}"
    ratio = "" if rest["time"] is None else f"{rest['time']:.2f}x"
    return f"| {recipe.name} | {100 * score:.2f} | {difference:+.2f} ± {error:.2f} | {sqnr} | {ratio} |"


def compare(net: Net, baseline: Mapping[int, Any], predictions: Mapping[int, Any]) -> tuple[float, float]:
    """Paired difference to fp32 in points, and half of its 95 % interval."""
    sources = sorted({net.sources[position] for position in predictions})
    groups = [
        [position for position in predictions if sources.index(net.sources[position]) % GROUPS == number]
        for number in range(min(GROUPS, len(sources)))
    ]
    metric = net.task.metric
    difference = net.task.score(predictions)[metric] - net.task.score(baseline)[metric]
    without = [
        without - without_reference
        for without, without_reference in zip(
            scores_without(net.task, predictions, groups), scores_without(net.task, baseline, groups), strict=True
        )
    ]
    half = student_quantile(0.95, len(groups) - 1) * standard_error(without)
    return 100 * difference, 100 * half


def read_predictions(out: Path, name: str, recipe: str, views: int) -> dict[int, Any]:
    """Predictions of the first so many views; a run with more may have left others."""
    predictions: dict[int, Any] = {}
    for place in sorted((out / "predictions" / name).glob(f"{file_name(recipe)}-*.pickle")):
        predictions |= pickle.loads(place.read_bytes())
    return {position: predictions[position] for position in sorted(predictions) if position < views}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and tiny_coco/")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--views", type=int, default=200, help="a multiple of 50 (default: %(default)s)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="only these, by the names in the table")
    parser.add_argument("--no-rest", action="store_true", help="leave out SQNR and the time of calibration")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipes = [recipe for recipe in make_recipes() if options.recipes is None or recipe.name in options.recipes]
    nets = {name: NETS[name](options.data, options.out, options.views) for name in options.nets}
    if not options.table:
        for chunk in range(options.views // CHUNK):
            for name, net in nets.items():
                measure(name, net, recipes, options.out, chunk)
        for name, net in () if options.no_rest else nets.items():
            measure_rest(name, net, recipes, options.out)
    tell(nets, recipes, options.out)


if __name__ == "__main__":
    main()
