"""The exporter chain: what happens when a link fails, and what a graph is named."""

from __future__ import annotations

import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.graph.export import export as exporting
from sensitivity.deploy.graph.export.asked import values_asked
from sensitivity.deploy.graph.export.exporters import ExporterError, write_by_tracing
from sensitivity.deploy.graph.export.parts import OPSET
from sensitivity.deploy.graph.export.time_limit import TimeIsUpError, within_seconds
from sensitivity.deploy.prepare.basis import one_sample
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.deploy.prepare.signature import FlatModule, Tree, signature_of
from sensitivity.errors import DisagreementWarning, EngineError, ExportError
from tests.deploy.nets import NETS, SharedHead, build, images

INT8 = sv.Scheme.all(sv.INT8)


def fresh(make: Any = SharedHead) -> sv.Wrapped:
    made = sv.wrap(build(make), images(1))
    made.calibrate([images(8, seed=1)])
    return made


def no_dynamo(*_: Any) -> Any:
    raise ExportError("dynamo is broken today")


@pytest.mark.parametrize("make", [SharedHead, NETS["mobilenet_v3"]])
def test_the_older_exporter_takes_over_and_finds_every_layer(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    monkeypatch.setattr(exporting, "write_by_dynamo", no_dynamo)
    wrapped, x = fresh(make), images(1, seed=4)
    deployed = wrapped.deploy(INT8, "onnxruntime")
    assert deployed.parts[0].part.exporter == "legacy"
    assert [(attempt.exporter, attempt.reason) for attempt in deployed.attempts] == [
        ("dynamo", "dynamo is broken today")
    ]
    assert not deployed.plan.left_out
    with deployed.plan.simulated() as model:
        want: Any = model(x)
    output = deployed(x)
    if isinstance(want, dict):
        want, output = want["up"][0], output["up"][0]
    assert sqnr_db(want, output) > 35.0


def test_a_model_too_large_for_a_file_is_exported_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole it had ended in an error of protobuf's, after minutes."""
    torch.manual_seed(0)
    wrapped = sv.wrap(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16)).eval(), torch.randn(1, 8))
    wrapped.calibrate([torch.randn(4, 8)])
    monkeypatch.setattr(exporting, "LARGEST_FILE_BYTES", 1500)  # 576 and 1088 bytes of weights
    deployed = wrapped.deploy(INT8, "onnxruntime")
    assert [part.path for part in deployed.parts] == ["0", "2"]
    assert "it has weights of 0.0 GB in float, an ONNX file holds" in str(deployed.attempts[0])
    with pytest.raises(ExportError, match=r"the whole model: it has weights of 0\.0 GB in float"):
        wrapped.deploy(INT8, "onnxruntime", parts=[""])


def test_a_layer_that_the_graph_lost_is_simulated_only(monkeypatch: pytest.MonkeyPatch) -> None:
    write = exporting.write_by_dynamo

    def lossy(module: Any, example: Any, opset: int) -> Any:
        graph, printed = write(module, example, opset)
        for initializer in graph.graph.initializer:
            if initializer.name.endswith("up.weight"):
                initializer.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(initializer) * 2, initializer.name)
                )
        return graph, printed

    monkeypatch.setattr(exporting, "write_by_dynamo", lossy)
    with pytest.warns(DisagreementWarning, match=r"output \['up'\]\[0\] agrees with the simulation"):
        deployed = fresh().deploy(INT8, "onnxruntime")
    assert list(deployed.plan.left_out.values()) == [
        "simulated only: the exported graph gives its weight to ConvTranspose: no node multiplies by what the layer "
        "multiplied by when it was traced"
    ]


class Branches(nn.Module):
    """Another path for another image, around two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.head(out.relu() if self.takes_first(x) else -3 * out)

    def takes_first(self, x: Tensor) -> bool:
        return bool(x.mean() > 0)


class BranchesByList(Branches):
    def takes_first(self, x: Tensor) -> bool:
        return sum(x.mean((0, 2, 3)).tolist()) > 0


class BranchesByArray(Branches):
    def takes_first(self, x: Tensor) -> bool:
        return np.asarray(x.mean((0, 2, 3))).sum() > 0


class BranchesByItem(Branches):
    def takes_first(self, x: Tensor) -> bool:
        return x.mean().item() > 0


class BranchesBySize(Branches):
    """Asks for a size, which a graph fixes anyway."""

    def takes_first(self, x: Tensor) -> bool:
        return x.shape[2] % 2 == 0


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Branches, "Python bool"),
        (BranchesByList, "Python list"),
        (BranchesByArray, "NumPy array"),
        (BranchesByItem, "Python float"),
    ],
)
def test_a_path_that_depends_on_the_image_is_not_baked_into_a_graph(
    make: type[nn.Module], kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    net, x = make().eval(), images(1).abs()
    deployed = sv.wrap(net, x).deploy(sv.Scheme())
    assert {part.path for part in deployed.parts} == {"conv", "head"}
    reasons = {attempt.exporter: attempt.reason for attempt in deployed.attempts if attempt.part == ""}
    assert f"would bake what this example holds into the graph: a tensor was converted to a {kind}" in reasons["legacy"]
    assert f"({Path(__file__).name}, line " in reasons["legacy"], "it says where"
    assert reasons["dynamo"].startswith("torch.onnx.export(dynamo=True) failed: ")
    with torch.no_grad():
        for image in (x, -x):
            assert sqnr_db(net(image), deployed(image)) > 100.0
    assert capfd.readouterr().err == "", "the exporters' own dumps are silenced"


def test_equal_biases_are_of_their_own_layers_in_the_graph_of_the_older_exporter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.Softmax(-1)).eval()
    for layer in (net[1], net[3]):
        nn.init.constant_(layer.bias, 0.5)  # type: ignore[arg-type]
    monkeypatch.setattr(exporting, "write_by_dynamo", no_dynamo)
    x = torch.randn(1, 4, 8)
    wrapped = sv.wrap(net, x)
    wrapped.calibrate(x)
    deployed = wrapped.deploy(INT8, "onnxruntime")
    assert not [
        node for node in deployed.parts[0].graph.graph.node if node.op_type == "Identity" and "bias" in node.output[0]
    ]
    verification = wrapped.verify(deployed, progress=False)
    assert {layer.status for layer in verification.layers} == {"agrees in float"}


class TracedOtherwise(nn.Module):
    """Asks for a value only where it is not traced, as torchvision's mask head does when it pastes its masks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if not torch.jit.is_tracing() and y.abs().max() > 1e6:
            return y.clamp(-1e6, 1e6)
        return y[..., : int(x.shape[2])]


def test_what_a_traced_pass_does_not_ask_for_is_not_baked() -> None:
    torch.manual_seed(0)
    net, x = TracedOtherwise().eval(), images(1)
    deployed = sv.wrap(net, x).deploy(sv.Scheme(), "onnxruntime")
    assert [(part.path, part.part.exporter) for part in deployed.parts] == [("", "legacy")]
    with torch.no_grad():
        assert sqnr_db(net(-x), deployed(-x)) > 100.0


def test_a_place_in_a_package_whose_name_begins_as_torch_does_is_told() -> None:
    names: dict[str, Any] = {}
    exec(compile("def ask(x):\n    return float(x)", f"{Path(torch.__file__).parent}vision/asking.py", "exec"), names)
    (value,) = values_asked(lambda: names["ask"](torch.ones(1)))
    assert str(value) == "a tensor was converted to a Python float (asking.py, line 2)"


def test_a_path_that_depends_on_a_size_alone_is_exported_by_the_older_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "write_by_dynamo", no_dynamo)
    net, x = BranchesBySize().eval(), images(1)
    deployed = sv.wrap(net, x).deploy(sv.Scheme())
    assert [(part.path, part.exporter) for part in (deployed.parts[0].part,)] == [("", "legacy")]


@dataclass
class Detections:
    """What a detector returns: no tuple, and nothing that torch knows."""

    boxes: Tensor
    levels: list[Tensor]
    names: str = "cat"
    count: int = field(init=False, default=0)


class ReturnsDetections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Detections]:
        out = self.conv(x)
        detections = Detections(out, [out * 2, out + 1], "dog")
        detections.count = 3
        return {"found": detections}


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_dataclass_is_exported_whole_and_comes_back(engine: str) -> None:
    net, x = ReturnsDetections().eval(), images(3)
    deployed = sv.wrap(net, images(1)).deploy(sv.Scheme(), engine)
    assert [part.path for part in deployed.parts] == [""]
    detections = deployed(x)["found"]
    assert isinstance(detections, Detections)
    assert (detections.names, detections.count) == ("dog", 3)
    with torch.no_grad():
        want = net(x)["found"]
    torch.testing.assert_close(detections.boxes, want.boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(detections.levels[1], want.levels[1], atol=1e-5, rtol=1e-4)


@dataclass
class Doubling:
    """Changes what it is given: it cannot be put together again."""

    values: Tensor

    def __post_init__(self) -> None:
        self.values = self.values * 2


class ReturnsDoubling(ReturnsDetections):
    def forward(self, x: Tensor) -> Doubling:
        return Doubling(self.conv(x))


def test_a_dataclass_that_changes_what_it_is_given_is_not_filled() -> None:
    net, x = ReturnsDoubling().eval(), images(1)
    deployed = sv.wrap(net, x).deploy(sv.Scheme())
    assert [part.path for part in deployed.parts] == ["conv"], "the whole of it returns no tensor"
    with torch.no_grad():
        torch.testing.assert_close(deployed(x).values, net(x).values, atol=1e-5, rtol=1e-4)


class Leftover(nn.Module):
    """An argument that is not used, an input that is returned, and one output twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, unused: Tensor, *, factor: float = 1.0) -> tuple[Tensor, ...]:
        out = self.conv(x) * factor
        return out, x, out


def test_odd_outputs_come_back_in_their_places() -> None:
    x, unused = images(1), torch.zeros(1, 2)
    net = Leftover().eval()
    deployed = sv.wrap(net, (x, unused)).deploy(sv.Scheme())
    first, same, again = deployed(x, unused)
    assert torch.equal(same, x)
    assert torch.equal(first, again)
    torch.testing.assert_close(first, net(x, unused)[0].detach())


def test_keyword_arguments_are_part_of_the_graph() -> None:
    x, unused = images(1), torch.zeros(1, 2)
    net = Leftover().eval()
    deployed = sv.wrap(net, {"x": x, "unused": unused, "factor": 2.0}).deploy(sv.Scheme())
    torch.testing.assert_close(
        deployed(x=x, unused=unused, factor=2.0)[0], net(x, unused, factor=2.0)[0].detach(), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(EngineError, match=r"constant arguments 2\.0; it was given 3\.0"):
        deployed(x=x, unused=unused, factor=3.0)


class MixesSamples(nn.Module):
    """What one image gives depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(1, -1, 64)


def test_samples_that_cannot_be_told_apart_are_not_split() -> None:
    deployed = sv.wrap(MixesSamples().eval(), images(1)).deploy(sv.Scheme())
    assert deployed(images(1)).shape == (1, 256, 64)
    with pytest.raises(EngineError, match=r"exported for batches of 1 and was given 2: its samples cannot be run one"):
        deployed(images(2))


class LevelsFirst(nn.Module):
    """Levels before samples, as SSD and FCOS flatten their heads: twice the samples look like twice the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        levels = [self.head(level).permute(0, 2, 3, 1) for level in (fine, self.coarse(fine))]
        return torch.cat([level.reshape(-1, 4) for level in levels])


class Centred(nn.Module):
    """What one image gives depends on the others, in a tensor that grows with them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return out - out.mean(0)


class Averaged(Centred):
    """The same, in a tensor that does not grow."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.conv(x)
        return out, out.mean((0, 2, 3))


class Counted(Centred):
    """Tells how many images there were."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.conv(x), len(x)


@pytest.mark.parametrize("make", [LevelsFirst, Centred, Averaged, Counted])
@pytest.mark.parametrize("example", [images(1), torch.zeros(1, 3, 64, 64)], ids=["image", "zeros"])
def test_samples_that_mix_are_found_by_value_and_refused(make: type[nn.Module], example: Tensor) -> None:
    torch.manual_seed(0)
    net = make().eval()
    deployed, x = sv.wrap(net, example).deploy(sv.Scheme(), "torch"), images(3)
    with torch.no_grad():
        alone: Any = net(x[:1])
    output = deployed(x[:1])
    torch.testing.assert_close(output, alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(EngineError, match="its samples cannot be run one by one"):
        deployed(x)


def test_samples_that_mix_are_exported_with_the_batch_of_the_example() -> None:
    torch.manual_seed(0)
    net, x = LevelsFirst().eval(), images(3)
    with torch.no_grad():
        torch.testing.assert_close(sv.wrap(net, x).deploy(sv.Scheme())(x), net(x), atol=1e-5, rtol=1e-4)


class Doubled(nn.Module):
    def forward(self, x: Tensor, table: Tensor) -> dict[str, Tensor]:
        return {"out": x * 2, "table": table + 1}


def test_a_signature_tells_what_counts_samples() -> None:
    signature = signature_of(Doubled(), (torch.zeros(2, 3), torch.zeros(5, 3)), {})
    assert (signature.batch, signature.batched_inputs, signature.batched_outputs) == (2, (True, False), (True, False))


def test_a_tree_puts_tensors_back_where_they_were() -> None:
    value = {"a": [torch.zeros(1), None], "b": (2, torch.ones(2))}
    tree = Tree.of(value)
    back = tree.filled([torch.full((1,), 7.0), torch.full((2,), 8.0)])
    assert back["a"][1] is None
    assert back["b"][0] == 2
    assert (back["a"][0].item(), back["b"][1][0].item()) == (7.0, 8.0)
    assert [tensor.numel() for tensor in tree.tensors_of(value, "it")] == [1, 2]


def test_a_batch_of_examples_is_cut_to_one_sample() -> None:
    args, kwargs = one_sample(((torch.zeros(4, 3), torch.zeros(4), torch.zeros(2), 5), {"mask": torch.zeros(4, 1)}))
    assert [tuple(tensor.shape) for tensor in args[:3]] == [(1, 3), (1,), (2,)]
    assert (args[3], tuple(kwargs["mask"].shape)) == (5, (1, 1))


def test_sqnr_by_hand() -> None:
    signal = torch.tensor([3.0, 4.0])
    assert sqnr_db(signal, signal + torch.tensor([0.5, 0.0])) == pytest.approx(20.0)
    assert sqnr_db(signal, signal) == float("inf")
    assert sqnr_db(torch.zeros(2), signal) == float("-inf")
    assert sqnr_db(torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("inf")])) == float("inf")
    assert sqnr_db(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])) == float("-inf")


def asleep(*_: Any) -> None:
    """What never ends: in steps, since no function in C is interrupted."""
    while True:
        time.sleep(0.01)


def test_an_export_that_takes_too_long_is_stopped_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), images(1))
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_by_dynamo", asleep)
        with pytest.raises(
            ExportError, match=r"Sequential was stopped after export_limit_s=0.2 seconds. Give more, or"
        ):
            wrapped.deploy(sv.Scheme(), "onnxruntime", export_limit_s=0.2)
    assert wrapped.deploy(sv.Scheme(), "onnxruntime", export_limit_s=600.0).attempts == (), "nothing of it was kept"


def test_a_limit_holds_in_any_thread_and_ends_with_its_block() -> None:
    stopped: list[str] = []

    def elsewhere() -> None:
        try:
            with within_seconds(0.05):
                asleep()
        except TimeIsUpError:
            stopped.append("stopped")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(timeout=30)
    assert stopped == ["stopped"]
    with within_seconds(0.05):
        pass
    time.sleep(0.2)  # the error would be raised here


def test_a_limit_of_no_time_is_refused() -> None:
    with pytest.raises(ExportError, match=r"export_limit_s=0\.0: give seconds above 0"), within_seconds(0.0):
        pass


class Talks(nn.Module):
    """Prints and warns while it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            print("a word")
            warnings.warn("a warning", UserWarning, stacklevel=1)
        y: Tensor = self.conv(x)
        return y[..., : 8 if not torch.jit.is_tracing() and y.abs().max() > 1e6 else 16]


class ChangesASize(nn.Module):
    """The older exporter's C++ code prints of it, on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[2]
        side += 1
        return self.conv(x).flatten(2)[:, :, :side]


class ComplexLinear(ChangesASize):
    """The older exporter's C++ code prints the graph in which it fails, on stdout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(self.linear(self.conv(x).mean((2, 3)).to(torch.complex64)))


@pytest.mark.parametrize(
    ("net_type", "words"),
    [(ChangesASize, "In-place op on output of tensor.shape"), (ComplexLinear, "Torch IR graph at exception")],
)
def test_what_an_exporters_c_code_prints_is_kept_with_what_it_says(
    net_type: type[nn.Module], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    net, example = net_type().eval(), torch.randn(1, 3, 8, 8)
    module = FlatModule(net, signature_of(net, (example,), {})).eval()
    try:
        _, printed = write_by_tracing(module, (example,), OPSET)
    except ExporterError as error:
        printed = error.printed
    assert words in printed
    assert capfd.readouterr() == ("", "")


def test_what_an_exporter_says_is_kept_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    deployed = sv.wrap(Talks().eval(), images(1)).deploy(sv.Scheme(), "onnxruntime")
    assert "the whole model (legacy):\n" in deployed.export_log
    assert "\na word" in deployed.export_log
    assert "UserWarning: a warning" in deployed.export_log
    assert capfd.readouterr() == ("", "")
