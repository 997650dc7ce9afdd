"""What this CPU does to 8-bit weights, which tests ask before they say what is right."""

from __future__ import annotations

import functools

from sensitivity.deploy.doctor.one_convolution import try_engine
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine


@functools.cache
def saturates() -> bool:
    """Whether OpenVINO's sums of 8-bit products saturate here, as on CPUs without VNNI: the doctor's finding."""
    return try_engine(OpenVinoEngine, "openvino").saturates
