"""Engines for any number of samples and any image size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy import other_sizes
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.errors import ExportError
from tests.deploy.nets import NETS, SAFE, SAFE_INT8, build, images

BOTH = ("batch", "size")


def wrapped_of(net: nn.Module, example: Tensor | None = None) -> sv.Wrapped:
    example = images(1) if example is None else example
    made = sv.wrap(net.eval(), example)
    made.calibrate([example], SAFE_INT8)
    return made


@pytest.fixture(scope="module")
def net() -> sv.Wrapped:
    return wrapped_of(build(NETS["mobilenet_v3"]))


def shown_db(wanted: Tensor, computed: Tensor) -> float:
    assert wanted.shape == computed.shape
    return float(10 * torch.log10(wanted.square().mean() / (wanted - computed).square().mean().clamp_min(1e-30)))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "onnxruntime-int8"])
def test_one_engine_runs_two_batch_sizes_and_two_image_sizes(net: sv.Wrapped, engine: str) -> None:
    deployed = net.deploy(SAFE, engine, dynamic=BOTH)
    for count, side in ((1, 64), (3, 64), (1, 96), (2, 128)):
        inputs = images(count, seed=7, side=side)
        with net.quantized(SAFE), torch.no_grad():
            simulated = net.model(inputs)
        assert shown_db(simulated, deployed(inputs)) > 25.0
    assert [
        len(part.graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_param) > 0
        for part in deployed.parts
        for axis in (0, 1, 2, 3)
    ] == [True, False, True, True]


def test_an_attention_whose_shapes_are_computed_in_the_graph_runs_at_other_sizes() -> None:
    made = wrapped_of(build(NETS["efficientvit"]))
    deployed = made.deploy(SAFE, "onnxruntime-int8", dynamic=BOTH)
    inputs = images(2, seed=7, side=96)
    with made.quantized(SAFE), torch.no_grad():
        assert shown_db(made.model(inputs), deployed(inputs)) > 25.0
    assert made.verify(made.deploy(SAFE, "openvino", dynamic=BOTH)).passed


def test_a_whole_batch_is_given_to_an_engine_that_takes_any(net: sv.Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = OrtEngine.run
    monkeypatch.setattr(OrtEngine, "run", lambda self, *arrays: (runs.append(len(arrays[0])), run(self, *arrays))[1])
    deployed = net.deploy(SAFE, "onnxruntime", dynamic="batch")
    runs.clear()
    deployed(images(3))
    assert runs == [3]
    fixed = net.deploy(SAFE, "onnxruntime")
    runs.clear()
    fixed(images(3))
    assert runs == [1, 1, 1]


def test_layers_of_an_engine_for_any_size_are_verified(net: sv.Wrapped) -> None:
    record = net.verify(net.deploy(SAFE, "openvino", dynamic=BOTH))
    assert {check.status for check in record.layers} == {"verified"}
    assert record.passed


def test_a_folder_with_an_engine_for_any_size_says_so_and_runs_it(net: sv.Wrapped, tmp_path: Path) -> None:
    deployed = net.deploy(SAFE, "onnxruntime", dynamic=BOTH)
    deployed.save(tmp_path)
    loaded = sv.load_deployment(tmp_path)
    assert loaded.manifest.parts[0].inputs[0].shape == (None, 3, None, None)
    inputs = images(2, seed=3, side=96)
    (outputs,) = loaded(inputs.numpy())
    assert torch.equal(torch.from_numpy(outputs), deployed(inputs))


class Fixed(nn.Module):
    """It knows the side of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 16 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


class OverSamples(nn.Module):
    """What it gives for a sample depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y - y.mean()


@pytest.mark.parametrize(
    ("net_type", "side", "dynamic", "message"),
    [
        (Fixed, 16, "size", r"dynamic='size': the model .* with inputs \(1, 3, 48, 80\) fails: "),
        (OverSamples, 16, "batch", "the outputs for several samples are not those of each sample by itself"),
    ],
)
def test_a_size_that_the_model_fixes_is_refused_in_words(
    net_type: type[nn.Module], side: int, dynamic: str, message: str
) -> None:
    torch.manual_seed(0)
    made = wrapped_of(net_type(), torch.randn(2 if net_type is OverSamples else 1, 3, side, side))
    with pytest.raises(ExportError, match=message):
        made.deploy(SAFE, "onnxruntime", dynamic=dynamic, parts=[""])  # type: ignore[arg-type]


def test_a_model_without_images_has_no_size_to_change() -> None:
    torch.manual_seed(0)
    made = wrapped_of(nn.Sequential(nn.Linear(8, 4)), torch.randn(1, 8))
    with pytest.raises(ExportError, match="no input is an image"):
        made.deploy(SAFE, "onnxruntime", dynamic="size")
    deployed = made.deploy(SAFE, "onnxruntime", dynamic="batch")
    assert deployed(torch.randn(5, 8)).shape == (5, 4)


def test_an_engine_that_is_not_known_to_do_so_is_refused(net: sv.Wrapped) -> None:
    with pytest.raises(ExportError, match="dynamic='batch': the simulation is not known to run graphs in which"):
        net.deploy(SAFE, "torch", dynamic="batch")
    with pytest.raises(ExportError, match="dynamic='length': give 'batch', 'size'"):
        net.deploy(SAFE, "onnxruntime", dynamic="length")  # type: ignore[arg-type]


def test_a_graph_that_computes_something_else_at_another_size_is_refused(
    net: sv.Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OrtEngine.run
    monkeypatch.setattr(OrtEngine, "run", lambda self, *x: tuple(y * (1 + (len(x[0]) > 1)) for y in run(self, *x)))
    with pytest.raises(ExportError, match=r"dynamic='batch': the model on onnxruntime with inputs .* agrees with the"):
        net.deploy(SAFE, "onnxruntime", dynamic="batch")


def test_a_network_in_which_last_bits_grow_is_compared_with_the_engine_for_fixed_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    made = wrapped_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), torch.randn(1, 3, 8, 8))
    run = OrtEngine.run
    monkeypatch.setattr(OrtEngine, "run", lambda self, *x: tuple(1.001 * y for y in run(self, *x)))  # 60 dB
    for name in ("ABOVE_FLOAT_DB", "ENOUGH_DB"):
        monkeypatch.setattr(other_sizes, name, 100.0)
    assert made.deploy(SAFE, "onnxruntime", dynamic="batch")(torch.randn(2, 3, 8, 8)).shape[0] == 2


def test_another_size_may_agree_as_the_simulation_does_with_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two correct results of a deep network differ so, and at the exported size they may be the same to the last."""
    torch.manual_seed(0)
    made = wrapped_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), torch.randn(1, 3, 8, 8))
    run = OrtEngine.run
    monkeypatch.setattr(
        OrtEngine, "run", lambda self, *x: tuple((1 + (len(x[0]) - 1) / 1e3) * y for y in run(self, *x))
    )
    monkeypatch.setattr(other_sizes, "ENOUGH_DB", 100.0)  # 60 dB with two samples are not enough by themselves
    assert made.deploy(SAFE, "onnxruntime", dynamic="batch")(torch.randn(2, 3, 8, 8)).shape[0] == 2
