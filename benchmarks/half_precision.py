"""Does the simulation predict a graph whose rest is in fp16 as it does one whose rest is in fp32? Prints a table.

    python benchmarks/half_precision.py [--data DATA]

Five nets: those of ``tests/deploy/nets.py`` (random weights, 8 images), one of them with ReLU in the place of GELU as
well, and the image encoder of the demo (trained, 8 scenes); with DATA (``weights/``, ``tiny_coco/``)
yolo-fastest-1.1-xl on 8 photographs as well. Each is deployed to ONNX Runtime in float, with the exit layers and with
all layers in int8. A number is an SQNR in dB: of the engine's outputs to the simulation of the same plan with the rest
in fp32 and in fp16, and of the latter to the model in fp32. The demo keeps its attention in fp32 where the rest is in
fp16: one of the scenes divides 0 by an epsilon that is 0 in fp16.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import sensitivity as sv
from sensitivity.demo.run import CALIBRATION_SCENES, WEIGHTS
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene
from sensitivity.deploy.prepare.measures import sqnr_of_all_db
from sensitivity.zoo.efficientvit_sam import load

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 8
SCHEMES = {
    "in float": sv.Scheme(),
    "exits in int8": sv.Scheme.only("@exit", sv.INT8),
    "all in int8": sv.Scheme.all(sv.INT8),
}

Net = tuple[str, sv.Wrapped, list[Tensor]]
KEEP_FP32 = {"EfficientViT-SAM tiny, image encoder": ("attention",)}


def small_nets() -> Iterator[Net]:
    sys.path.insert(0, str(ROOT))
    from tests.deploy.nets import NETS, build, images

    nets = {name: build(make) for name, make in NETS.items()}
    nets["efficientvit with ReLU for GELU"] = with_relu(build(NETS["efficientvit"]))
    for name, net in nets.items():
        wrapped = sv.wrap(net, images(1), name=name)
        wrapped.calibrate([images(8, seed=1)], sv.INT8)
        yield name, wrapped, [images(1, seed=20 + number) for number in range(IMAGES)]


def with_relu(net: torch.nn.Module) -> torch.nn.Module:
    """A net whose GELU are ReLU: each is one node in the graph, where GELU is several, of which each rounds."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.GELU):
                setattr(parent, name, torch.nn.ReLU())
    return net


def demo() -> Net:
    sam = load("tiny", checkpoint=WEIGHTS)
    calibration = [sam.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(CALIBRATION_SCENES)]
    wrapped = sv.wrap(sam.image_encoder, calibration[0], name="demo")
    wrapped.calibrate(calibration, sv.INT8)
    held_out = [sam.preprocess(draw_scene(HELD_OUT_SEED, index)[0]) for index in range(IMAGES)]
    return "EfficientViT-SAM tiny, image encoder", wrapped, held_out


def detector(data: Path) -> Net:
    sys.path.insert(0, str(ROOT / "examples" / "01_coco_detector"))
    from detectors import DETECTORS

    chosen = DETECTORS["yolo-fastest-xl"]
    model = chosen.load(data / "weights" / "yolo_fastest_1_1_xl.safetensors")
    coco = data / "tiny_coco"
    photographs = {}
    for split in ("train2017", "val2017"):
        annotations = coco / "annotations" / f"instances_{split}.json"
        task = sv.CocoDetection(
            coco / split, annotations, preprocess=chosen.preprocess, adapter=chosen.decode, batch_size=1
        )
        photographs[split] = seen_by(model, task)[: 5 * IMAGES]
    wrapped = sv.wrap(model, photographs["train2017"][0], name="yolo-fastest-1.1-xl")
    wrapped.calibrate(photographs["train2017"], sv.INT8)
    return "yolo-fastest-1.1-xl", wrapped, photographs["val2017"][:IMAGES]


def seen_by(model: torch.nn.Module, task: sv.CocoDetection) -> list[Tensor]:
    """What a model reads of a task."""
    seen: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        for batch in task.batches():
            task.predict(model, batch)
    hook.remove()
    return seen


def outputs(model: Callable[[Tensor], Any], images: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [leaf.clone() for image in images for leaf in tree_leaves(model(image)) if isinstance(leaf, Tensor)]


def row(wrapped: sv.Wrapped, scheme: sv.Scheme, images: list[Tensor], keep_fp32: tuple[str, ...]) -> dict[str, float]:
    measured = {}
    for rest, whole in (("fp32", scheme), ("fp16", scheme.with_rest("fp16", keep_fp32=keep_fp32))):
        deployed = wrapped.deploy(whole, "onnxruntime", threads=1)
        with deployed.plan.simulated() as model:
            simulated = outputs(model, images)
        measured[f"engine to simulation, rest in {rest}"] = sqnr_of_all_db(simulated, outputs(deployed, images))
    measured["simulation in fp16 to fp32"] = sqnr_of_all_db(outputs(wrapped.model, images), simulated)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    nets = [*small_nets(), demo(), *([detector(chosen.data)] if chosen.data is not None else [])]
    for name, wrapped, images in nets:
        for label, scheme in SCHEMES.items():
            cells = [f"{value:.1f}" for value in row(wrapped, scheme, images, KEEP_FP32.get(name, ())).values()]
            print(" | ".join(["", name, label, *cells, ""]).strip(), flush=True)


if __name__ == "__main__":
    main()
