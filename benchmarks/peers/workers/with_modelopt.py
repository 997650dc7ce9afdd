"""NVIDIA ModelOpt's int8 of the torch module, exported to ONNX with Q/DQ."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer, flattened, torch_model

KEPT_BITS = 8.2


def work(job: Job) -> dict[str, Any]:
    import modelopt.torch.quantization as mtq  # type: ignore[import-not-found]
    import torch

    images = torch.from_numpy(np.load(job.calibration))
    model = flattened(torch_model(job))

    def run(model: Any) -> None:
        with torch.no_grad():
            for image in images:
                model(image[None])

    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    if job.variant == "entropy":
        config["algorithm"] = {"method": "max"}
        config = _with_histograms(config)
    if job.variant == "auto_quantize":
        model, _ = mtq.auto_quantize(
            model,
            constraints={"effective_bits": KEPT_BITS},
            quantization_formats=[mtq.INT8_DEFAULT_CFG],
            data_loader=[image[None] for image in images],
            forward_step=lambda model, image: model(image),
            loss_func=lambda outputs, _: sum(output.square().mean() for output in outputs),
            num_calib_steps=len(images),
            num_score_steps=len(images),
        )
    else:
        model = mtq.quantize(model, config, run)
    out = Path(job.out).with_suffix(".onnx")
    with torch.no_grad():
        torch.onnx.export(model.eval(), images[:1], out, input_names=["input"], opset_version=17, dynamo=False)
    return {"file": out.name, "lines": 6}


def _with_histograms(config: dict[str, Any]) -> dict[str, Any]:
    """ModelOpt's own config with a histogram calibrator for activations."""
    for entry in config["quant_cfg"] if isinstance(config["quant_cfg"], list) else [config["quant_cfg"]]:
        for name, settings in entry.items():
            if "input_quantizer" in name and isinstance(settings, dict):
                settings["calibrator"] = "histogram"
    return config


if __name__ == "__main__":
    answer(work)
