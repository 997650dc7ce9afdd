"""What `deploy` compares on the example inputs: the engine with the simulation, and that with float: a table.

    python -m benchmarks.example_check [NAME ...]

Needs timm: models of its families with random weights and 96 pixels a side (or what they take), calibrated on two
random images, every layer in int8. OpenVINO runs weights in 7 bits, which no CPU cuts off, and in 8 bits, which CPUs
without VNNI do; ONNX Runtime's int8 kernels run those in 7. The last column says what the comparison costs.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import replace

import torch

import sensitivity as sv
from sensitivity.deploy.example_check import check_example, disagreement

SIDE = 96
NAMES = (
    *("resnet18", "mobilenetv3_small_050", "regnety_002", "repvgg_a0", "ghostnet_050", "densenet121", "dla34"),
    *("convnext_atto", "poolformer_s12", "efficientformer_l1", "mobilevit_xxs", "levit_128s", "vit_tiny_patch16_224"),
    *("visformer_tiny", "xcit_nano_12_p16_224", "cait_xxs24_224", "hrnet_w18_small"),
)
RUNS = (("openvino", "int7"), ("openvino", "int8"), ("onnxruntime-int8", "int7"))


def rows(name: str) -> list[str]:
    """One model on every engine."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10).eval()
    channels, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    side = (height, width) if model.default_cfg.get("fixed_input_size") else (SIDE, SIDE)
    images = torch.rand(2, channels, *side)
    wrapped = sv.wrap(model, images[:1], name=name)
    assert sv.INT8.weights is not None
    recipes = {bits: replace(sv.INT8, name=bits, weights=replace(sv.INT8.weights, format=bits)) for _, bits in RUNS}
    wrapped.calibrate(images, list(recipes.values()), progress=False)
    lines, spent = [], time.process_time()
    for engine, bits in RUNS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says stands in the row
            deployed = wrapped.deploy(sv.Scheme.all(recipes[bits]), engine, threads=1)
        deploy_s, spent = time.process_time() - spent, time.process_time()
        check_example(deployed)
        check_s, spent = time.process_time() - spent, time.process_time()
        wrong = disagreement(deployed.on_example, deployed.plan.scheme)
        (check,) = deployed.on_example
        assert check.sqnr_db is not None
        assert check.simulation_sqnr_db is not None
        cells = [name, engine, bits, f"{check.sqnr_db:.1f}", f"{check.simulation_sqnr_db:.1f}"]
        cells += [f"{check.sqnr_db - check.simulation_sqnr_db:+.1f}", "no" if wrong is None else "yes"]
        lines.append(f"| {' | '.join([*cells, f'{check_s:.2f} of {deploy_s:.2f} s'])} |")
    return lines


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| model | engine | weights | engine to simulation | simulation to float | difference, dB | told | cost |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or NAMES:
        try:
            print("\n".join(rows(name)), flush=True)
        except (sv.errors.SensitivityError, RuntimeError) as error:
            print(f"| {name} | {type(error).__name__}: {str(error)[:150]} |", flush=True)


if __name__ == "__main__":
    main()
