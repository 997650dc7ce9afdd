"""Does the simulation predict what OpenVINO runs? Prints JSON.

    python benchmarks/deployment.py detector --data ../shared/data
    python benchmarks/deployment.py demo --scenes 100
    python benchmarks/deployment.py nets
    python benchmarks/deployment.py fault

``detector``: yolo-fastest-1.1-xl on the 50 images of tiny COCO val, calibrated on the 50 of train: everything in int8,
the five layers with the largest simulated drop one at a time, and a protected scheme, AP simulated and on OpenVINO; and
what a simulation in the thesis's style (norms not folded, four quantizers a layer, moving average) predicts instead.
``in_integers`` is the integer simulation against the build of OpenVINO that rounds as it does.
``demo``: the same for the mIoU of the demo model's image encoder. ``nets``: executed precision, codes and latency of
small nets in three shapes. ``fault``: the same on a CPU path that saturates, which must exceed the threshold.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from sensitivity.contracts import Engine, EngineLayer
from sensitivity.demo.run import CALIBRATION_SCENES, WEIGHTS, segment
from sensitivity.demo.scenes import CALIBRATION_SEED, HELD_OUT_SEED, draw_scene, write_scenes
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engine_module import EngineModule
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.verify.integer import integer_exact, verify_graph
from sensitivity.score import evaluate
from sensitivity.zoo.efficientvit_sam import load

ROOT = Path(__file__).resolve().parents[1]
INT8 = sv.Scheme.all(sv.INT8)
PROTECTED = 8


def facts(verification: sv.Verification) -> dict[str, Any]:
    compared = [check for check in verification.layers if check.code_share is not None]
    statuses = [check.status for check in verification.layers]
    return {
        "passed": verification.passed,
        "layers": {status: statuses.count(status) for status in sorted(set(statuses))},
        "codes_compared": sum(check.codes for check in compared),
        "largest_share_of_a_layer": max(check.code_share or 0.0 for check in compared),
        "largest_step": max(check.code_steps or 0 for check in compared),
        "output_sqnr_db": verification.output_sqnr_db,
        "simulation_sqnr_db": verification.simulation_sqnr_db,
        "latency_int8_ms": 1e3 * (verification.latency_int8_s or 0.0),
        "latency_fp32_ms": 1e3 * (verification.latency_fp32_s or 0.0),
        "int8_is_faster": verification.speedup,
    }


def metrics(verification: sv.Verification) -> dict[str, Any]:
    return {
        "images": verification.images,
        "fp32": verification.metric_fp32,
        "simulated": verification.metric_simulated,
        "deployed": verification.metric_deployed,
        "difference": verification.metric_difference,
        "allowed": verification.metric_tolerance,
        "passes": verification.metric_pass,
        "roundings": dict(verification.metric_variants),
        "spread_of_roundings": verification.metric_spread,
    }


def metric_of(task: Any, model: Any) -> float:
    """The task's metric of a model as it is."""
    with torch.no_grad():
        return evaluate(model, task).value


def both(wrapped: sv.Wrapped, scheme: sv.Scheme, task: Any) -> dict[str, float]:
    """The metric under one plan, simulated (with two roundings) and on OpenVINO."""
    deployed = wrapped.deploy(scheme)
    with deployed.plan.simulated() as model:
        simulated = metric_of(task, model)
    with deployed.plan.simulated(rounding="torch") as model:
        reciprocal = metric_of(task, model)
    on_engine = metric_of(task, deployed)
    return {
        "simulated": simulated,
        "simulated_reciprocal_scale": reciprocal,
        "deployed": on_engine,
        "difference": on_engine - simulated,
    }


class Outputs(Engine):
    """The verify build, in which OpenVINO returns every tensor of codes too, behind the outputs of the model."""

    name = "openvino, verify build"

    def __init__(self, deployed: Deployed) -> None:
        graph, readers = verify_graph(deployed.parts[0].qdq)
        self.engine, self.codes = OpenVinoEngine(graph.SerializeToString()), len(readers)

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return self.engine.run(*inputs)[: -self.codes]

    def layer_info(self) -> list[EngineLayer]:
        return self.engine.layer_info()

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        return self.engine.latency_s(*inputs, repeats=repeats)


def in_integers(wrapped: sv.Wrapped, scheme: sv.Scheme, task: Any) -> dict[str, float]:
    """The metric of the simulation in integers, and of the build that rounds as it does."""
    deployed = wrapped.deploy(scheme)
    with integer_exact(deployed.plan) as model:
        simulated = metric_of(task, model)
    build = EngineModule(Outputs(deployed), deployed.parts[0].part.signature, deployed.plan.model, "the model")
    on_engine = metric_of(task, build)
    return {"simulated": simulated, "deployed": on_engine, "difference": on_engine - simulated}


def in_the_thesis_style(wrapped: sv.Wrapped, task: Any, images: Any, deployed: float) -> dict[str, float]:
    wrapped.calibrate(images, sv.THESIS)
    predicted = wrapped.evaluate(task, sv.Scheme.all(sv.THESIS)).value
    return {"simulated": predicted, "deployed": deployed, "difference": deployed - predicted}


def detector(data: Path) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "examples" / "01_coco_detector"))
    from detectors import DETECTORS

    chosen = DETECTORS["yolo-fastest-xl"]
    model = chosen.load(data / "weights" / "yolo_fastest_1_1_xl.safetensors")
    assert chosen.naming is not None
    wrapped = sv.wrap(model, torch.zeros(1, 3, 320, 320), name="yolo-fastest-1.1-xl", naming=chosen.naming(model))

    def task(split: str) -> sv.CocoDetection:
        coco = data / "tiny_coco"
        annotations = coco / "annotations" / f"instances_{split}.json"
        return sv.CocoDetection(
            coco / split, annotations, preprocess=chosen.preprocess, adapter=chosen.decode, batch_size=10
        )

    scored, seen = task("val2017"), task("train2017")
    wrapped.calibrate(seen, sv.INT8)
    verification = wrapped.verify(wrapped.deploy(INT8), scored, strict=True)
    study = wrapped.analyze(scored, sv.INT8, progress=False)
    worst = sorted(study.measurements, key=lambda row: -(row.drop or 0.0))[:5]
    protected = study.protect(top=PROTECTED)
    return {
        "all_int8": facts(verification) | {"AP": metrics(verification)},
        "worst_five_one_at_a_time": {
            row.layer: {"swept": row.score} | both(wrapped, sv.Scheme.only(row.layer, sv.INT8), scored) for row in worst
        },
        f"worst_{PROTECTED}_protected": metrics(wrapped.verify(wrapped.deploy(protected), scored)),
        "in_integers": {
            "all_int8": in_integers(wrapped, INT8, scored),
            f"worst_{PROTECTED}_protected": in_integers(wrapped, protected, scored),
        },
        "in_the_thesis_style": in_the_thesis_style(wrapped, scored, seen, verification.metric_deployed or 0.0),
    }


def demo(scenes: int) -> dict[str, Any]:
    sam = load("tiny", checkpoint=WEIGHTS)
    calibration = [sam.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(CALIBRATION_SCENES)]
    wrapped = sv.wrap(sam.image_encoder, calibration[0], name="EfficientViT-SAM tiny, image encoder")
    with tempfile.TemporaryDirectory() as folder:
        task = sv.PromptedMasks(
            *write_scenes(folder, scenes, HELD_OUT_SEED), segment=functools.partial(segment, sam), name="scenes"
        )
        wrapped.calibrate(calibration, sv.INT8)
        verification = wrapped.verify(wrapped.deploy(INT8), task, strict=True)
        style = in_the_thesis_style(wrapped, task, calibration, verification.metric_deployed or 0.0)
        return {"all_int8": facts(verification) | {"mIoU": metrics(verification)}, "in_the_thesis_style": style}


def nets() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    from tests.deploy.nets import NETS, build, images

    facts_of_net = {}
    for name, make in NETS.items():
        wrapped = sv.wrap(build(make), images(1), name=name)
        wrapped.calibrate([images(8, seed=1)])
        task = sv.FeatureFidelity(list(images(8, seed=11)))
        facts_of_net[name] = facts(wrapped.verify(wrapped.deploy(INT8), task, samples=8, strict=True))
    return facts_of_net


def fault() -> dict[str, Any]:
    """The nets again, in a process whose oneDNN may use no VNNI."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-W", "ignore", __file__, "nets"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    facts_of_nets: dict[str, Any] = json.loads(done.stdout)["nets"]
    return facts_of_nets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["detector", "demo", "nets", "fault"])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--scenes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    runs: dict[str, Any] = {
        "detector": lambda: detector(options.data),
        "demo": lambda: demo(options.scenes),
        "nets": nets,
        "fault": fault,
    }
    result = runs[options.what]()
    print(json.dumps({options.what: result, "seconds": round(time.perf_counter() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
