"""Exact replay against naive hooks: how much a sweep of every layer gains, and how close that is to the most it can.

    python benchmarks/replay.py fastestdet --batch 8
    python benchmarks/replay.py l0 --every 3 --repeats 3
    python benchmarks/replay.py retinanet --every 3 --repeats 3 --without operators

For one layer after the other a full perturbed pass and a replayed one are run, in CPU time of one thread, and their
outputs are compared bit for bit. A sweep costs, naively, one plain pass and a full one for each layer; replayed, one
recorded pass and a replay for each layer, with all that surrounds them (exchange of the weight, check that the record
is intact, release of what is needed no more). The survey of the very first batch is not in it: it is paid once a sweep.

The bound is what a sweep would cost that recomputed everything from the perturbed layer on and nothing before it: one
plain pass, and for each layer the time from its first call to the end of the pass, read inside the very full pass that
the replay is compared with, so that a slow moment of the machine weighs on both. Branches that a layer does not feed
let replay beat it.

With ``--every k`` a repeat takes every k-th layer, counted k-fold, and the next repeat starts one layer later: after k
repeats every layer was taken once. Speedups are then of the sums over all repeats; otherwise medians over repeats.
Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sensitivity as sv
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.replay.replayer import Replayer
from sensitivity.zoo import efficientvit_sam
from tests.models.retinanet import RetinaNet

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "01_coco_detector"
PLAIN_PASSES = 3


def example(file: str, cls: str, **settings: Any) -> nn.Module:
    spec = importlib.util.spec_from_file_location(file, EXAMPLES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file] = module
    spec.loader.exec_module(module)
    model: nn.Module = getattr(module, cls)(**settings)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "l0": (lambda: efficientvit_sam.build("l0").image_encoder, 512),
    "l1": (lambda: efficientvit_sam.build("l1").image_encoder, 512),
    "l1-backbone": (lambda: efficientvit_sam.build("l1").image_encoder.backbone, 512),
    "fastestdet": (lambda: example("fastestdet", "FastestDet"), 352),
    "yolo-fastest-xl": (lambda: example("yolo_fastest", "YoloFastest", xl=True), 320),
    "retinanet": (RetinaNet, 512),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take every k-th layer in a repeat")
    parser.add_argument("--without", choices=("operators", "modules"), help="a way of answering to leave out")
    parser.add_argument("--memory-limit", type=int, help="megabytes that the record may keep")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, size = MODELS[options.model]
    model = make().eval()
    x = torch.randn(options.batch, 3, size, size)
    limit = None if options.memory_limit is None else options.memory_limit * 10**6
    without = options.without
    replayer = Replayer(model, memory_limit=limit, modules=without != "modules", operators=without != "operators")
    with torch.no_grad(), untouched(model):
        measured = measure(model, x, replayer, options.repeats, options.every)
    print(
        json.dumps(
            {"model": options.model, "size": size, "batch": options.batch, "without": options.without} | measured
        )
    )


def measure(model: nn.Module, x: torch.Tensor, replayer: Replayer, repeats: int, every: int) -> dict[str, Any]:
    layers = list(sv.wrap(model, x).layers)
    perturber = Perturber(model)
    variants = [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in layers]  # quantizes the weights
    replayer.record(lambda: model(x), variants)  # surveys
    sweeps = [
        _sweep(model, x, layers[repeat % every :: every], perturber, replayer, layers) for repeat in range(repeats)
    ]
    if every > 1:
        sweeps = [{name: sum(sweep[name] for sweep in sweeps) for name in sweeps[0]}]
    speedups = [sweep["naive"] / sweep["replayed"] for sweep in sweeps]
    shares = [sweep["bound"] / sweep["replayed"] for sweep in sweeps]
    return {
        "layers": len(layers),
        "speedup": round(statistics.median(speedups), 2),
        "suffix_bound": round(statistics.median(sweep["naive"] / sweep["bound"] for sweep in sweeps), 2),
        "share_of_bound": round(statistics.median(shares), 3),
        "share_range": [round(min(shares), 3), round(max(shares), 3)],
        "outputs_that_differ": sum(int(sweep["differ"]) for sweep in sweeps),
        "outputs_compared": sum(int(sweep["compared"]) for sweep in sweeps),
        "recording_costs_passes": round(statistics.median(s["record"] / s["plain"] for s in sweeps), 3),
        "kept_megabytes": round(sweeps[0]["kept"] / 1e6 / (repeats if every > 1 else 1), 1),
        "plain_pass_s": round(statistics.median(sweep["plain"] for sweep in sweeps) / (repeats if every > 1 else 1), 3),
        "sweep_in_passes": round(statistics.median(s["replayed"] / s["plain"] for s in sweeps), 1),
        "looked_up_in": replayer.looked_up,
        "repeats": repeats,
        "every": every,
    }


def _sweep(
    model: nn.Module,
    x: torch.Tensor,
    layers: list[sv.Layer],
    perturber: Perturber,
    replayer: Replayer,
    all_layers: list[sv.Layer],
) -> dict[str, float]:
    """Seconds of one sweep done in three ways, extrapolated from some layers to all."""
    variants = [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in all_layers]
    plain = statistics.median(seconds(lambda: model(x)) for _ in range(PLAIN_PASSES))
    record = statistics.median(
        seconds(lambda: replayer.record(lambda: model(x), variants)) for _ in range(PLAIN_PASSES)
    )
    kept_bytes = replayer.kept_bytes
    sums = {"naive": 0.0, "suffix": 0.0, "replayed": 0.0, "differ": 0.0}
    for layer in layers:
        full, whole, suffix = _naive(model, x, layer, perturber)
        started = time.process_time()
        output = _replayed(model, x, layer, perturber, replayer)
        sums["replayed"] += time.process_time() - started
        sums["naive"] += whole
        sums["suffix"] += suffix
        sums["differ"] += not all(map(torch.equal, tensors_in(output), tensors_in(full)))
    times = len(all_layers) / len(layers)
    return {
        "naive": plain + times * sums["naive"],
        "bound": plain + times * sums["suffix"],
        "replayed": record + times * sums["replayed"],
        "record": record,
        "plain": plain,
        "kept": kept_bytes,
        "differ": sums["differ"],
        "compared": len(layers),
    }


def _naive(model: nn.Module, x: torch.Tensor, layer: sv.Layer, perturber: Perturber) -> tuple[Any, float, float]:
    """A full perturbed pass: its output, its seconds, and those from the layer's first call on."""
    starts: list[float] = []

    def note(*_: Any) -> None:
        starts.append(time.process_time())

    started = time.process_time()
    with hooked(before=[(model.get_submodule(layer.module), note)]), perturber.applied({layer: sv.INT4_WEIGHTS}):
        output = model(x)
        ended = time.process_time()
    return output, time.process_time() - started, ended - starts[0]


def _replayed(model: nn.Module, x: torch.Tensor, layer: sv.Layer, perturber: Perturber, replayer: Replayer) -> Any:
    recipes = {layer: sv.INT4_WEIGHTS}
    touched = perturber.touched(recipes)
    with perturber.applied(recipes), replayer.replaying(touched):
        output = model(x)
    assert replayer.intact()
    replayer.done(touched)
    return output


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


if __name__ == "__main__":
    main()
