"""Exact replay against naive hooks: how much a sweep of every layer gains, and how close that is to the most it can.

    python tests/benchmarks/replay.py l0 --repeats 3
    python tests/benchmarks/replay.py fastestdet --batch 8

Each repeat times the naive sweep (a full pass for each layer) and the replayed one (one recorded pass, then a replay
for each layer) on the same batch, one after the other, in CPU time of one thread. The bound is what a sweep would cost
that recomputed everything from the disturbed layer on and nothing before it: the times left at each layer's first call
in a plain pass, added up. Branches that a layer does not feed let replay beat it. Prints JSON.
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

import sensitivity as sv
from sensitivity.layers.inputs import tensors_in
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.replay import Replayer
from sensitivity.zoo import efficientvit_sam

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "01_coco_detector"


def example(file: str, cls: str, **settings: Any) -> nn.Module:
    spec = importlib.util.spec_from_file_location(file, EXAMPLES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file] = module
    spec.loader.exec_module(module)
    model: nn.Module = getattr(module, cls)(**settings)
    return model


def retinanet() -> nn.Module:
    from torchvision.models.detection import retinanet_resnet50_fpn

    class Heads(nn.Module):
        """RetinaNet up to its raw heads."""

        def __init__(self) -> None:
            super().__init__()
            whole = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
            self.backbone, self.head = whole.backbone, whole.head

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(list(self.backbone(x).values()))

    return Heads()


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "l0": (lambda: efficientvit_sam.build("l0").image_encoder, 512),
    "l1": (lambda: efficientvit_sam.build("l1").image_encoder, 512),
    "fastestdet": (lambda: example("fastestdet", "FastestDet"), 352),
    "yolo-fastest-xl": (lambda: example("yolo_fastest", "YoloFastest", xl=True), 320),
    "retinanet": (retinanet, 512),
}


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def suffix_seconds(model: nn.Module, x: torch.Tensor, layers: list[sv.Layer]) -> float:
    """Time left at the first call of each layer in a plain pass, over all layers."""
    starts: dict[str, float] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: starts.setdefault(name, time.process_time()) and None  # type: ignore[func-returns-value]

    with hooked(before=[(model.get_submodule(layer.module), note(layer.name)) for layer in layers]):
        model(x)
        end = time.process_time()
    return sum(end - starts[layer.name] for layer in layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, size = MODELS[options.model]
    model = make().eval()
    x = torch.randn(options.batch, 3, size, size)
    with torch.no_grad(), untouched(model):
        print(json.dumps(measure(model, x, options.repeats) | {"model": options.model, "batch": options.batch}))


def measure(model: nn.Module, x: torch.Tensor, repeats: int) -> dict[str, Any]:
    wrapped = sv.wrap(model, x)
    layers = list(wrapped.layers)
    disturber, replayer = Disturber(model), Replayer(model)
    differences = 0
    full: dict[str, list[torch.Tensor]] = {}

    def naive() -> None:
        model(x)
        for layer in layers:
            with disturber.applied({layer: sv.INT4_WEIGHTS}):
                full[layer.name] = [tensor.clone() for tensor in tensors_in(model(x))]

    def replayed() -> None:
        nonlocal differences
        replayer.record(lambda: model(x))
        for layer in layers:
            recipes = {layer: sv.INT4_WEIGHTS}
            with disturber.applied(recipes), replayer.replaying(disturber.touched(recipes)):
                output = list(tensors_in(model(x)))
            assert replayer.intact()
            differences += not all(map(torch.equal, output, full[layer.name]))

    naive()  # quantizes the weights, warms up
    replayed()  # learns what is worth keeping
    replayer.keep_only_what_was_used()
    pairs = [(seconds(naive), seconds(replayed), suffix_seconds(model, x, layers)) for _ in range(repeats)]
    one_pass = seconds(lambda: model(x))
    speedups = [slow / fast for slow, fast, _ in pairs]
    bounds = [slow / (slow / (len(layers) + 1) + suffix) for slow, _, suffix in pairs]
    return {
        "layers": len(layers),
        "speedup": round(statistics.median(speedups), 2),
        "suffix_bound": round(statistics.median(bounds), 2),
        "share_of_bound": round(statistics.median(s / b for s, b in zip(speedups, bounds, strict=True)), 3),
        "layers_that_differ": differences,
        "kept_megabytes": round(replayer.kept_bytes / 1e6, 1),
        "passes": round(statistics.median(fast for _, fast, _ in pairs) / one_pass, 1),
        "repeats": repeats,
    }


if __name__ == "__main__":
    main()
