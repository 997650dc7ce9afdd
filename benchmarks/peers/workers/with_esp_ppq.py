"""ESP-PPQ on the ONNX model, exported with Q/DQ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer


def work(job: Job) -> dict[str, Any]:
    import torch
    from esp_ppq import QuantizationSettingFactory
    from esp_ppq.api import export_ppq_graph, quantize_onnx_model
    from esp_ppq.core import TargetPlatform

    images = torch.from_numpy(np.load(job.calibration))
    settings = QuantizationSettingFactory.default_setting()
    settings.quantize_activation_setting.calib_algorithm = job.variant
    graph = quantize_onnx_model(
        onnx_import_file=job.onnx,
        calib_dataloader=[image[None] for image in images],
        calib_steps=len(images),
        input_shape=list(images[:1].shape),
        setting=settings,
        platform=TargetPlatform.TRT_INT8,
        device="cpu",
        verbose=0,
    )
    out = Path(job.out).with_suffix(".onnx")
    export_ppq_graph(graph, platform=TargetPlatform.ONNXRUNTIME, graph_save_to=str(out))
    return {"file": out.name, "lines": 7}


if __name__ == "__main__":
    answer(work)
