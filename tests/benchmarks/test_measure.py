"""What the peers' benchmark measures."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("openvino")

from benchmarks.peers.measure import sqnr_db


def test_sqnr_is_that_of_all_outputs_together() -> None:
    image = np.full(2, 10.0, np.float32)
    references = [[np.full(2, 10.0, np.float32), np.full(1, 10.0, np.float32)]]
    # signal 3 x 100, noise 2 x 1 + 1 x 1
    assert sqnr_db(lambda x: [x + 1, x[:1] - 1], references, [image]) == pytest.approx(20.0)
    assert sqnr_db(lambda x: [x, x[:1]], references, [image]) == np.inf
