"""Nets, wrapped and calibrated once a session."""

from __future__ import annotations

import pytest
import torch

import sensitivity as sv
from tests.deploy.nets import NETS, Several, SharedHead, build, images


@pytest.fixture(scope="session", params=NETS)
def wrapped(request: pytest.FixtureRequest) -> sv.Wrapped:
    """A net in the shape of resnet18, mobilenet_v3 or EfficientViT."""
    made = sv.wrap(build(NETS[request.param]), images(1), name=request.param)
    made.calibrate([images(8, seed=1)], [sv.INT8, sv.INT8_MINMAX])
    return made


@pytest.fixture(scope="session")
def shared() -> sv.Wrapped:
    """A net with a head shared over two levels, and a nest of outputs."""
    made = sv.wrap(build(SharedHead), images(1))
    made.calibrate([images(8, seed=1)], [sv.INT8, sv.INT8_MINMAX])
    return made


@pytest.fixture(scope="session")
def several() -> sv.Wrapped:
    """A net of which one part cannot be exported."""
    torch.manual_seed(0)
    made = sv.wrap(Several().eval(), images(1))
    made.calibrate([images(4, seed=1)])
    return made
