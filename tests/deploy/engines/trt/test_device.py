"""Memory and streams on a real GPU: needs CUDA, not TensorRT."""

from __future__ import annotations

import pytest
import torch

from sensitivity.deploy.engines.trt.device import CudaDevice
from sensitivity.errors import EngineError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.bool])
def test_memory_at_an_address_is_read_as_it_was_written(dtype: torch.dtype) -> None:
    device = CudaDevice()
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    uploaded = device.upload(tensor)
    assert uploaded.is_cuda
    values = device.read(uploaded.data_ptr(), (2, 3, 4), dtype, device.stream)
    assert torch.equal(values, tensor)


def test_strides_are_gone_on_the_device() -> None:
    tensor = torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1)
    uploaded = CudaDevice().upload(tensor)
    assert uploaded.is_contiguous()
    assert torch.equal(uploaded.cpu(), tensor)


def test_work_takes_time() -> None:
    device = CudaDevice()
    matrix = torch.zeros(4096, 4096, device="cuda")
    stream = torch.cuda.ExternalStream(device.stream)

    def multiply() -> None:
        with torch.cuda.stream(stream):
            matrix @ matrix

    multiply()
    assert 1e-6 < device.time_s(multiply) < 10


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineError, match="there is no CUDA device 99"):
        CudaDevice(99)
