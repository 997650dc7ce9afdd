"""An observer as an outsider would write it: without a base class of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensitivity.errors import CalibrationError


class Plain:
    """Minimum and maximum."""

    def __init__(self) -> None:
        self.low, self.high = torch.inf, -torch.inf

    def observe(self, x: Tensor) -> None:
        if not x.numel():
            return
        low, high = float(x.min()), float(x.max())
        if not np.isfinite([low, high]).all():
            raise CalibrationError("a tensor holds NaN or infinite values")
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: Any) -> None:
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def state(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.low, self.high = state["low"], state["high"]

    def range(self) -> tuple[Tensor, Tensor]:
        if self.low > self.high:
            raise CalibrationError("no value was observed")
        return torch.tensor(self.low), torch.tensor(self.high)
