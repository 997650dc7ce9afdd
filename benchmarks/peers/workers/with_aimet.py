"""AIMET's simulation of the torch module: plain, with cross-layer equalization, with AdaRound; exported with Q/DQ.

``weights`` in a variant's name says that they alone are quantized, to so many bits: the float network is exported with
weights that have been rounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer, flattened, torch_model, with_one_pair_a_tensor

ROUNDING_STEPS = {
    "AdaRound, 200 steps": 200,
    "AdaRound, 2000 steps": 2000,
    "4-bit weights, AdaRound, 50 steps": 50,
    "4-bit weights, AdaRound, 200 steps": 200,
}
"""Steps of optimization for each layer's rounding. AIMET itself would take 10,000, and 15,000 below 8 bits."""
WEIGHTS_ALONE = {
    "4-bit weights, nearest": 4,
    "4-bit weights, AdaRound, 50 steps": 4,
    "4-bit weights, AdaRound, 200 steps": 4,
}
"""Bits of variants that quantize nothing else."""


def work(job: Job) -> dict[str, Any]:
    import aimet_torch.onnx
    import torch
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.cross_layer_equalization import equalize_model

    images = torch.from_numpy(np.load(job.calibration))
    model = flattened(torch_model(job))
    shape = tuple(images[:1].shape)
    if job.variant == "equalization":
        equalize_model(model, dummy_input=images[:1], input_shapes=shape)
    else:
        fold_all_batch_norms(model, shape, images[:1])
    out = Path(job.out).with_suffix(".onnx")
    if job.variant in WEIGHTS_ALONE:
        rounded = _with_rounded_weights(job, model, images)
        torch.onnx.export(rounded, (images[:1],), str(out), input_names=["input"], opset_version=17, dynamo=False)
        return {"file": out.name, "lines": 8}

    def run(model: Any) -> None:
        with torch.no_grad():
            for image in images:
                model(image[None])

    bits = 8
    if job.variant in ROUNDING_STEPS:
        model = _rounded(job, model, images, bits)
    simulation = _simulation(model, images, bits)
    if job.variant in ROUNDING_STEPS:
        simulation.set_and_freeze_param_encodings(str(Path(job.out).with_suffix("")) + "-rounded.encodings")
    simulation.compute_encodings(run)
    aimet_torch.onnx.export(
        simulation, images[:1], str(out), export_int32_bias=False, input_names=["input"], dynamo=False
    )
    with_one_pair_a_tensor(out)
    return {"file": out.name, "lines": 12 if job.variant in ROUNDING_STEPS else 8}


def _simulation(model: Any, images: Any, bits: int) -> Any:
    from aimet_torch.common.defs import QuantScheme
    from aimet_torch.quantsim import QuantizationSimModel

    return QuantizationSimModel(
        model,
        images[:1],
        quant_scheme=QuantScheme.post_training_tf_enhanced,
        default_param_bw=bits,
        default_output_bw=8,
    )


def _with_rounded_weights(job: Job, model: Any, images: Any) -> Any:
    """The float network with weights that so many bits can hold."""
    import torch

    bits = WEIGHTS_ALONE[job.variant]
    if job.variant in ROUNDING_STEPS:
        return _rounded(job, model, images, bits).eval()
    simulation = _simulation(model, images, bits)
    for module in simulation.model.modules():
        for name, quantizer in getattr(module, "param_quantizers", {}).items():
            if quantizer is not None:
                with torch.no_grad(), quantizer.compute_encodings():
                    quantizer(getattr(module, name))
    return simulation.get_original_model(simulation.model, qdq_weights=True).eval()


def _rounded(job: Job, model: Any, images: Any, bits: int) -> Any:
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters

    parameters = AdaroundParameters(
        data_loader=[image[None] for image in images],
        num_batches=len(images),
        default_num_iterations=ROUNDING_STEPS[job.variant],
    )
    out = Path(job.out)
    return Adaround.apply_adaround(
        model,
        images[:1],
        parameters,
        path=str(out.parent),
        filename_prefix=f"{out.stem}-rounded",
        default_param_bw=bits,
    )


if __name__ == "__main__":
    answer(work)
