r"""What the question "which ten layers are the worst" costs on a real network, in passes over the data.

    OMP_NUM_THREADS=1 python -m benchmarks.worst_layers DATA CACHE [--net fastestdet] [--each 6] [--tolerance 2]

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do; ``CACHE`` keeps random views of the 50
images, ``--each`` of each. All layers run in int4 weights with ``stop=Confidence(top=...)``, and a layer stops as soon
as it is known whether it is among the worst. Prints one line of JSON: ``passes``, the images that the layers and the
unperturbed model were run on as a share of the data set, each counted as a full pass although most are replayed in
part; ``cpu_passes``, the CPU time of all of it, scores and intervals included, by that of one pass of the unperturbed
model over the data, reading and post-processing included; ``decided``, the layers that stopped before all images were
seen; and the worst layers with their drops in points.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import sensitivity as sv
from benchmarks.real_nets import real_nets, views_task
from sensitivity.score import predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--net", default="fastestdet")
    parser.add_argument("--each", type=int, default=6, help="views of each of the 50 images")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--tolerance", type=float, default=2.0, help="points by which a layer left out may be worse")
    parser.add_argument("--minimum-images", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    net = real_nets()[arguments.net]
    wrapped, task = net.wrapped(arguments.data), views_task(net, arguments.data, arguments.each, arguments.cache)
    stop = sv.Confidence(
        tolerance=arguments.tolerance, top=arguments.top, minimum_images=arguments.minimum_images, seed=0
    )
    started = time.process_time()
    with torch.no_grad():
        for batch in task.batches():
            predict(task, wrapped.model, batch)
    pass_s = time.process_time() - started
    started = time.process_time()
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, stop=stop, progress=False)
    cpu_s = time.process_time() - started
    images = [row.images for row in study.measurements]
    worst = sorted(study.measurements, key=lambda row: row.drop or 0.0, reverse=True)[: arguments.top]
    facts = {
        "net": arguments.net,
        "layers": len(images),
        "views": len(task),
        "tolerance": arguments.tolerance,
        "passes": round((sum(images) + max(images)) / len(task), 2),
        "fewest_and_most_images": [min(images), max(images)],
        "decided": sum(count < len(task) for count in images),
        "cpu_s": round(cpu_s, 1),
        "cpu_passes": round(cpu_s / pass_s, 2),
        "worst": {row.layer: round(100 * (row.drop or 0.0), 2) for row in worst},
    }
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
