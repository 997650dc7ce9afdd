"""What the engine inspector answers, in the forms that NVIDIA documents for TensorRT 10 and 11, for our nodes."""

from __future__ import annotations

import json
from typing import Any

TACTIC = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize128x64x64"


def _tensor_10(name: str, dtype: str) -> dict[str, Any]:
    return {"Name": name, "Dimensions": [1, 3, 2, 2], "Format/Datatype": dtype, "Location": "Device"}


def _tensor_11(name: str, layout: str, dtype: str) -> dict[str, Any]:
    return {"Name": name, "Dimensions": [1, 3, 2, 2], "Format": layout, "Datatype": dtype, "Location": "Device"}


def _layers(image: Any, codes: Any, out: Any) -> list[dict[str, Any]]:
    return [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
            "LayerType": "Reformat",
            "Inputs": [image],
            "Outputs": [codes],
            "TacticName": "",
            "Metadata": "",
        },
        {
            "Name": "conv1",
            "LayerType": "CaskConvolution",
            "Inputs": [codes],
            "Outputs": [out],
            "Weights": {"Type": "Int8", "Count": 81},
            "Bias": {"Type": "Float", "Count": 3},
            "TacticName": TACTIC,
            "Metadata": "[ONNX Layer: conv1.weight_dequantize]\x1e[ONNX Layer: conv1]\x1e[ONNX Layer: relu[0]]",
        },
        {
            "Name": "head + PWN(sigmoid)",
            "LayerType": "CaskConvolution",
            "Inputs": [out],
            "Outputs": [image],
            "Weights": {"Type": "Float", "Count": 9},
            "TacticName": "ampere_scudnn_128x64_relu_interior_nn_v1",
            "Metadata": "",
        },
    ]


INSPECTOR = {
    "10": json.dumps(
        {
            "Layers": _layers(
                _tensor_10("x", "Row major linear FP32"),
                _tensor_10("codes", "Thirty-two wide channel vectorized row major Int8 format"),
                _tensor_10("out", "Row major linear FP32"),
            ),
            "Bindings": ["x", "y", "z"],
        }
    ),
    "11": json.dumps(
        {
            "Layers": _layers(
                _tensor_11("x", "Row major linear format (kLINEAR)", "Float"),
                _tensor_11("codes", "Thirty-two wide channel vectorized row major format (kCHW32)", "Int8"),
                _tensor_11("out", "Row major linear format (kLINEAR)", "Float"),
            ),
            "I/O Tensors": [
                {"Name": name, "IOMode": mode, "DataType": "Float", "Dimensions": [1, 3, 2, 2], "Location": "Device"}
                for name, mode in (("x", "Input"), ("y", "Output"), ("z", "Output"))
            ],
        }
    ),
}
