"""Operators of ONNX that multiply by a weight; here, so that engines know them without torch."""

from __future__ import annotations

MULTIPLIERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
