"""NVIDIA ModelOpt's int8 of the torch module, exported to ONNX with Q/DQ."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer, flattened, torch_model, with_one_pair_a_tensor

KEPT_BITS = 8.2
ENTROPY_STRIDE = 16  # of the 2,048 thresholds every 16th is tried: all of them take 20 minutes a network here


def work(job: Job) -> dict[str, Any]:
    import modelopt.torch.quantization as mtq
    import torch

    images = torch.from_numpy(np.load(job.calibration))
    model = flattened(torch_model(job))

    def run(model: Any) -> None:
        with torch.no_grad():
            for image in images:
                model(image[None])

    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
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
    if job.variant == "entropy":
        _calibrate_by_entropy(model, run)
    out = Path(job.out).with_suffix(".onnx")
    with torch.no_grad():
        torch.onnx.export(model.eval(), (images[:1],), out, input_names=["input"], opset_version=17, dynamo=False)
    with_one_pair_a_tensor(out)
    return {"file": out.name, "lines": 20 if job.variant == "entropy" else 6}


def _calibrate_by_entropy(model: Any, run: Any) -> None:
    """Measure the ranges of activations anew: INT8_DEFAULT_CFG offers their maximum only."""
    from modelopt.torch.quantization.calib import HistogramCalibrator
    from modelopt.torch.quantization.nn import TensorQuantizer

    activations = [
        module
        for name, module in model.named_modules()
        if isinstance(module, TensorQuantizer) and name.endswith("input_quantizer") and module.is_enabled
    ]
    for quantizer in activations:
        quantizer._calibrator = HistogramCalibrator(8, None, False)
        quantizer.disable_quant()
        quantizer.enable_calib()
    run(model)
    for quantizer in activations:
        quantizer.load_calib_amax("entropy", stride=ENTROPY_STRIDE)
        quantizer.disable_calib()
        quantizer.enable_quant()


if __name__ == "__main__":
    answer(work)
