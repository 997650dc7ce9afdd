"""What `verify` says of int8 on x86 CPUs with VNNI and without, with weights in 8 bits and in 7: a table.

    python -m benchmarks.saturation [NAME ...] [--data ../shared/data]

Needs torchvision for resnet18 and mobilenet_v3_large (random weights, batch norms that have seen images), DATA for
Yolo-Fastest-1.1-xl (trained); the fourth is the image encoder of the demo (MBConv and linear attention, trained). Every
layer is quantized with ``sv.INT8`` and deployed to OpenVINO. Each row is a process of its own: oneDNN reads
``ONEDNN_MAX_CPU_ISA`` once, and AVX2 stands for a CPU without VNNI. On such a CPU there are no rows for VNNI.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.records.results.verification import Cause

ROOT = Path(__file__).resolve().parents[1]
PATHS = {"VNNI": "", "AVX2": "AVX2"}
WEIGHTS = ("int8", "int7")
CALIBRATION_IMAGES = 8
HEADER = (
    "| network | CPU path | weights | verified | disagree, of these by saturation | other | largest step, share of a "
    "layer's codes | outputs, dB: engine to simulation, simulation to fp32 | passed | int8 against float |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """What `verify` said of one network, one kind of kernels and one width of weights."""

    warned: bool
    verified: int
    disagree: int
    saturated: int
    other: int
    largest_step: int
    largest_share: float
    output_sqnr_db: float
    simulation_sqnr_db: float
    passed: bool
    speedup: float

    def cells(self) -> list[str]:
        layers = self.verified + self.disagree + self.other
        ratio = (
            f"{self.speedup:.2f} times as fast"
            if self.speedup >= 1
            else f"slower, {1 / self.speedup:.2f} times as long"
        )
        return [
            f"{self.verified} of {layers}",
            f"{self.disagree}, {self.saturated}",
            str(self.other),
            f"{self.largest_step}, {self.largest_share:.1e}",
            f"{self.output_sqnr_db:.1f}, {self.simulation_sqnr_db:.1f}",
            "yes" if self.passed else "no",
            ratio,
        ]


def _torchvision(name: str) -> Callable[[Path], tuple[nn.Module, Tensor]]:
    def build(_: Path) -> tuple[nn.Module, Tensor]:
        from torchvision import models

        torch.manual_seed(0)
        model = getattr(models, name)(weights=None)
        images = torch.rand(CALIBRATION_IMAGES, 3, 224, 224)
        with torch.no_grad():
            for _turn in range(3):
                model.train()(images)  # the statistics of its norms
        return model.eval(), images

    return build


def _encoder(_: Path) -> tuple[nn.Module, Tensor]:
    from sensitivity.demo.run import WEIGHTS as TRAINED
    from sensitivity.demo.scenes import CALIBRATION_SEED, draw_scene
    from sensitivity.zoo.efficientvit_sam import load

    sam = load("tiny", checkpoint=TRAINED)
    scenes = [sam.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(CALIBRATION_IMAGES)]
    return sam.image_encoder, torch.cat(scenes)


def _yolo(data: Path) -> tuple[nn.Module, Tensor]:
    sys.path.insert(0, str(ROOT / "examples" / "01_coco_detector"))
    from detectors import DETECTORS

    detector = DETECTORS["yolo-fastest-xl"]
    coco = data / "tiny_coco"
    task = sv.CocoDetection(
        coco / "train2017",
        coco / "annotations" / "instances_train2017.json",
        preprocess=detector.preprocess,
        adapter=detector.decode,
        batch_size=CALIBRATION_IMAGES,
    )
    (images,) = next(iter(task.batches())).inputs
    return detector.load(data / "weights" / "yolo_fastest_1_1_xl.safetensors"), images


NETWORKS: dict[str, Callable[[Path], tuple[nn.Module, Tensor]]] = {
    "resnet18": _torchvision("resnet18"),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large"),
    "demo's image encoder": _encoder,
    "Yolo-Fastest-1.1-xl": _yolo,
}


def measured(name: str, weights: str, data: Path) -> Row:
    """Deploy and verify one network in this process."""
    model, images = NETWORKS[name](data)
    wrapped = sv.wrap(model, images[:1], name=name)
    assert sv.INT8.weights is not None
    recipe = replace(sv.INT8, name=f"{weights} weights", weights=replace(sv.INT8.weights, format=weights))
    wrapped.calibrate(images, recipe)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        deployed = wrapped.deploy(sv.Scheme.all(recipe), "openvino", threads=1)
    record = wrapped.verify(deployed, samples=4)
    counts = Counter(str(check.status) for check in record.layers)
    compared = [check for check in record.layers if check.code_share is not None]
    return Row(
        warned=any("saturate" in str(warning.message) for warning in heard),
        verified=counts["verified"],
        disagree=counts["disagrees"],
        saturated=sum(check.cause is Cause.SATURATION for check in record.layers),
        other=len(record.layers) - counts["verified"] - counts["disagrees"],
        largest_step=max(check.code_steps or 0 for check in compared),
        largest_share=max(check.code_share or 0.0 for check in compared),
        output_sqnr_db=record.output_sqnr_db or float("nan"),
        simulation_sqnr_db=record.simulation_sqnr_db or float("nan"),
        passed=record.passed,
        speedup=record.speedup or float("nan"),
    )


def in_a_process(name: str, path: str, weights: str, data: Path) -> Row:
    """The same with the kernels of one kind of CPU."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": PATHS[path] or "DEFAULT"}
    command = [sys.executable, "-m", "benchmarks.saturation", "--row", name, weights, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{name}, {path}, {weights} bits: {done.stderr[-2000:]}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def paths_here() -> list[str]:
    """Without VNNI in this CPU there is nothing to compare AVX2 with."""
    cpu = Path("/proc/cpuinfo")
    return [name for name in PATHS if name != "VNNI" or not cpu.exists() or "vnni" in cpu.read_text(encoding="utf-8")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--row", nargs=2, metavar=("NAME", "WEIGHTS"), help="print one row as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.row:
        name, weights = options.row
        print(json.dumps(asdict(measured(name, weights, options.data))))
        return
    print(HEADER, flush=True)
    for name in options.names or NETWORKS:
        for path in paths_here():
            for weights in WEIGHTS:
                row = in_a_process(name, path, weights, options.data.resolve())
                warned = f"{weights}, told by `deploy`" if row.warned else weights
                print(f"| {' | '.join([name, path, warned, *row.cells()])} |", flush=True)


if __name__ == "__main__":
    main()
