"""NNCF on the OpenVINO model: default, mixed preset, full bias correction, and accuracy control.

``overflow fix`` is its own way for CPUs without VNNI: weights in half of the range of 8 bits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer

SETTING_OF_CONTROL = {"advanced_parameters": "advanced_quantization_parameters"}
"""Settings of ``quantize`` that ``quantize_with_accuracy_control`` calls something else."""


def work(job: Job) -> dict[str, Any]:
    import nncf
    import openvino

    images = np.load(job.calibration)
    model = openvino.Core().read_model(job.onnx)
    dataset = nncf.Dataset(list(images[:, None]))
    settings: dict[str, Any] = {"subset_size": len(images)}
    if job.variant != "default":
        settings["preset"] = nncf.QuantizationPreset.MIXED
    if job.variant == "full bias correction":
        settings["fast_bias_correction"] = False
    way, _, fix = job.variant.partition(", ")
    if fix:
        settings["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    if way == "accuracy control":
        return _with_accuracy_control(job, model, dataset, settings)
    quantized = nncf.quantize(model, dataset, **settings)
    return _written(quantized, job) | {"lines": 4}


def _with_accuracy_control(job: Job, model: Any, dataset: Any, settings: dict[str, Any]) -> dict[str, Any]:
    import nncf

    sys.path.insert(0, job.repository)
    from benchmarks.peers.measure import on_openvino, predictions_of
    from benchmarks.real_nets import real_nets

    task = real_nets()[job.net].split(Path(job.data), "val")
    calls = []

    def validate(compiled: Any, _: Any) -> tuple[float, None]:
        calls.append(1)
        return task.score(predictions_of(task, on_openvino(compiled)))[task.metric], None

    quantized = nncf.quantize_with_accuracy_control(
        model,
        dataset,
        dataset,
        validate,
        max_drop=job.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        **{SETTING_OF_CONTROL.get(name, name): value for name, value in settings.items()},
    )
    return _written(quantized, job) | {"lines": 10, "validations": len(calls)}


def _written(model: Any, job: Job) -> dict[str, Any]:
    import openvino

    file = Path(job.out).with_suffix(".xml")
    openvino.save_model(model, file, compress_to_fp16=False)
    return {"file": file.name}


if __name__ == "__main__":
    answer(work)
