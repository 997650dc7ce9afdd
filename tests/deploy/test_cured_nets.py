"""Nets with every cure at once, on OpenVINO: each layer's codes are the simulated ones, with and without VNNI."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sensitivity as sv
from tests.deploy.nets import NETS, build, images

assert sv.INT8_AFFINE.weights is not None
CURED = replace(
    sv.INT8_AFFINE,
    name="every cure",
    weights=replace(sv.INT8_AFFINE.weights, format="int7"),
    bias_correction=True,
    rounding="compensated",
)
"""Zero points, clipped ranges, corrected biases, compensated rounding; weights in 7 bits saturate on no CPU."""


def verified(name: str, *, equalized: bool) -> sv.Verification:
    """What verification says of a net whose layers are all cured."""
    x = images(4, seed=1)
    wrapped = sv.wrap(build(NETS[name]), x[:1], name=name)
    if equalized:
        wrapped = wrapped.equalized()
    wrapped.calibrate(x, CURED)
    return wrapped.verify(wrapped.deploy(sv.Scheme.all(CURED), "openvino"))


def check(verification: sv.Verification) -> None:
    """Nothing is outside of its threshold, and the codes of nearly all layers were compared."""
    compared = [layer for layer in verification.layers if layer.codes]
    assert verification.passed, str(verification)
    assert len(compared) >= 0.8 * len(verification.layers)
    for layer in compared:
        assert layer.code_share is not None
        assert layer.code_share <= verification.gates.code_share, layer.layer


@pytest.mark.parametrize("name", NETS)
def test_every_code_of_an_equalized_net_with_every_cure_is_the_simulated_one(name: str) -> None:
    check(verified(name, equalized=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_so_it_is_without_equalization(name: str) -> None:
    check(verified(name, equalized=False))


@pytest.mark.slow
def test_so_it_is_on_a_cpu_without_vnni(repository: Path) -> None:
    code = (
        "from tests.deploy.test_cured_nets import NETS, check, verified\n"
        "for name in NETS:\n"
        "    for equalized in (False, True):\n"
        "        check(verified(name, equalized=equalized))\n"
        "        print(name, equalized)\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=repository
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(NETS)
