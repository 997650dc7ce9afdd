"""ONNX Runtime's static quantization to Q/DQ, weights per channel.

``reduced range`` is its own way for CPUs without VNNI: weights in 7 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer


def work(job: Job) -> dict[str, Any]:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = np.load(job.calibration)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> Any:
            image = next(self.images, None)
            return None if image is None else {"input": image[None]}

    method, _, reduced = job.variant.partition(", ")
    out = Path(job.out).with_suffix(".onnx")
    prepared = out.with_name(f"{out.stem}-prepared.onnx")
    quant_pre_process(job.onnx, prepared)
    quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method={
            "min-max": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
            "entropy": CalibrationMethod.Entropy,
        }[method],
        reduce_range=bool(reduced),
    )
    return {"file": out.name, "lines": 9}


if __name__ == "__main__":
    answer(work)
