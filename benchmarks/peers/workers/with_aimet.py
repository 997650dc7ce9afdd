"""AIMET's simulation of the torch module: plain, with cross-layer equalization, with AdaRound; exported with Q/DQ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer, flattened, torch_model, with_one_pair_a_tensor

ROUNDING_STEPS = 2000


def work(job: Job) -> dict[str, Any]:
    import aimet_torch.onnx
    import torch
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.common.defs import QuantScheme
    from aimet_torch.cross_layer_equalization import equalize_model
    from aimet_torch.quantsim import QuantizationSimModel

    images = torch.from_numpy(np.load(job.calibration))
    model = flattened(torch_model(job))
    shape = tuple(images[:1].shape)
    if job.variant == "equalization":
        equalize_model(model, dummy_input=images[:1], input_shapes=shape)
    else:
        fold_all_batch_norms(model, shape, images[:1])
    settings: dict[str, Any] = {
        "quant_scheme": QuantScheme.post_training_tf_enhanced,
        "default_param_bw": 8,
        "default_output_bw": 8,
    }

    def run(model: Any) -> None:
        with torch.no_grad():
            for image in images:
                model(image[None])

    if job.variant == "AdaRound":
        model = _rounded(job, model, images)
    simulation = QuantizationSimModel(model, images[:1], **settings)
    if job.variant == "AdaRound":
        simulation.set_and_freeze_param_encodings(str(Path(job.out).with_suffix("")) + "-rounded.encodings")
    simulation.compute_encodings(run)
    out = Path(job.out).with_suffix(".onnx")
    aimet_torch.onnx.export(
        simulation, images[:1], str(out), export_int32_bias=False, input_names=["input"], dynamo=False
    )
    with_one_pair_a_tensor(out)
    return {"file": out.name, "lines": 12 if job.variant == "AdaRound" else 8}


def _rounded(job: Job, model: Any, images: Any) -> Any:
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters

    parameters = AdaroundParameters(
        data_loader=[image[None] for image in images], num_batches=len(images), default_num_iterations=ROUNDING_STEPS
    )
    out = Path(job.out)
    return Adaround.apply_adaround(
        model, images[:1], parameters, path=str(out.parent), filename_prefix=f"{out.stem}-rounded"
    )


if __name__ == "__main__":
    answer(work)
