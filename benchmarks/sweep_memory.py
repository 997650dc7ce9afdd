"""Peak memory of a sweep against plain inference of the same batch.

    python benchmarks/sweep_memory.py fastestdet --batch 8
    python benchmarks/sweep_memory.py l0 --limits 100 30

Each measurement runs in a process of its own, which loads the model, finds its layers on one image, runs plain passes
or one sweep of all layers (4-bit weights, two batches: one surveyed and recorded, one recorded), and reports
``ru_maxrss``. The sweep's peak is also taken with limits on what the record may keep, in megabytes. ``weights_copy`` is
what the quantized weights of all layers take: a sweep makes them once and keeps them. One layer in ``--every`` is
replayed: what is kept is decided by all layers, and the peak is reached before the first of them. Prints JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import sensitivity as sv
from benchmarks.replay import MODELS
from sensitivity.layers.find import find_layers
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.replay.replayer import Replayer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--limits", type=int, nargs="*", default=[100, 30])
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what:
        print(json.dumps(measure(options.model, options.batch, options.every, options.what)))
        return
    plain = measured(options, "plain")
    sweeps = {limit: measured(options, limit) for limit in ("unlimited", *map(str, options.limits))}
    for sweep in sweeps.values():
        sweep["peak_over_plain"] = round(sweep["peak_megabytes"] / plain["peak_megabytes"], 2)
        sweep["passes_for_each_layer"] = round(sweep.pop("replay_s") / plain["pass_s"], 3)
    named = {"model": options.model, "batch": options.batch, "plain_peak_megabytes": plain["peak_megabytes"]}
    print(json.dumps(named | {"sweeps_by_limit": sweeps}))


def measured(options: argparse.Namespace, limit: str) -> dict[str, Any]:
    """The figures of one process."""
    command = [sys.executable, __file__, options.model, "--batch", str(options.batch), "--every", str(options.every)]
    done = subprocess.run([*command, "--what", limit], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(name: str, batch: int, every: int, limit: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, size = MODELS[name]
    model = make().eval()
    x = torch.randn(batch, 3, size, size)
    layers = list(find_layers(model, x[:1]))
    with torch.no_grad(), untouched(model):
        result = plain(model, x) if limit == "plain" else sweep(model, x, layers, every, limit)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_megabytes": round(peak / 1e6), **result}


def plain(model: torch.nn.Module, x: torch.Tensor) -> dict[str, Any]:
    seconds = []
    for _ in range(3):
        started = time.process_time()
        model(x)
        seconds.append(time.process_time() - started)
    return {"pass_s": min(seconds)}


def sweep(model: torch.nn.Module, x: torch.Tensor, layers: list[sv.Layer], every: int, limit: str) -> dict[str, Any]:
    perturber = Perturber(model)
    replayer = Replayer(model, memory_limit=None if limit == "unlimited" else int(limit) * 10**6)
    touched = [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in layers]
    kept_bytes, seconds = 0, []
    for images in (x, x + 1):
        replayer.record(functools.partial(model, images), touched)
        kept_bytes = max(kept_bytes, replayer.kept_bytes)
        for number, (layer, modules) in enumerate(zip(layers, touched, strict=True)):
            if number % every == 0:
                started = time.process_time()
                with perturber.applied({layer: sv.INT4_WEIGHTS}), replayer.replaying(modules):
                    model(images)
                seconds.append(time.process_time() - started)
            replayer.done(modules)
    copies = sum(layer.weight_bytes for layer in layers)
    mean = sum(seconds) / len(seconds)
    return {
        "kept_megabytes": round(kept_bytes / 1e6, 1),
        "weights_copy_megabytes": round(copies / 1e6, 1),
        "replay_s": mean,
    }


if __name__ == "__main__":
    main()
