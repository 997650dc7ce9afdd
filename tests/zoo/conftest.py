"""Fixtures of the model zoo's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sensitivity.zoo.efficientvit_sam import EfficientViTSam, build


@pytest.fixture
def tiny() -> EfficientViTSam:
    torch.manual_seed(0)
    return build("tiny")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
