"""What this CPU computes, which tests ask before they say what is right."""

from __future__ import annotations

import functools

import torch

import sensitivity as sv
from sensitivity.deploy.doctor.one_convolution import try_engine
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine


@functools.cache
def saturates() -> bool:
    """Whether OpenVINO's sums of 8-bit products saturate here, as on CPUs without VNNI: the doctor's finding."""
    return try_engine(OpenVinoEngine, "openvino").saturates


@functools.cache
def computes_in_bf16() -> bool:
    """Whether OpenVINO runs a convolution in bf16 here: what its kernels do, not what the CPU's name promises."""
    net = torch.nn.Conv2d(16, 16, 3).eval()
    try:
        engine = sv.wrap(net, torch.zeros(1, 16, 8, 8)).deploy(sv.Scheme().with_rest("bf16")).engine
    except sv.errors.EngineBuildError:
        return False
    return "bf16" in {layer.precision for layer in engine.layer_info()}
