"""The exporter chain: what happens when a link fails, and what a graph is named."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy import export as exporting
from sensitivity.deploy.measures import sqnr_db
from sensitivity.deploy.plan import one_sample
from sensitivity.deploy.structure import Tree, signature_of
from sensitivity.errors import EngineError, ExportError
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
    monkeypatch.setattr(exporting, "_dynamo", no_dynamo)
    wrapped, x = fresh(make), images(1, seed=4)
    deployed = wrapped.deploy(INT8, "onnxruntime")
    assert deployed.parts[0].part.exporter == "legacy"
    assert [(one.exporter, one.reason) for one in deployed.attempts] == [("dynamo", "dynamo is broken today")]
    assert not deployed.plan.left_out
    with deployed.plan.simulated() as model:
        want: Any = model(x)
    found = deployed(x)
    if isinstance(want, dict):
        want, found = want["up"][0], found["up"][0]
    assert sqnr_db(want, found) > 35.0


def test_a_layer_that_the_graph_lost_is_simulated_only(monkeypatch: pytest.MonkeyPatch) -> None:
    write = exporting._dynamo

    def lossy(module: Any, example: Any) -> Any:
        graph = write(module, example)
        for one in graph.graph.initializer:
            if one.name.endswith("up.weight"):
                one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one) * 2, one.name))
        return graph

    monkeypatch.setattr(exporting, "_dynamo", lossy)
    deployed = fresh().deploy(INT8, "onnxruntime")
    assert list(deployed.plan.left_out.values()) == [
        "simulated only: no exported graph has a node that multiplies by its weight"
    ]


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


class Doubled(nn.Module):
    def forward(self, x: Tensor, table: Tensor) -> dict[str, Tensor]:
        return {"out": x * 2, "table": table + 1}


def test_a_signature_tells_what_counts_samples() -> None:
    found = signature_of(Doubled(), (torch.zeros(2, 3), torch.zeros(5, 3)), {})
    assert (found.batch, found.batched_inputs, found.batched_outputs) == (2, (True, False), (True, False))


def test_a_tree_puts_tensors_back_where_they_were() -> None:
    value = {"a": [torch.zeros(1), None], "b": (2, torch.ones(2))}
    tree = Tree.of(value)
    back = tree.filled([torch.full((1,), 7.0), torch.full((2,), 8.0)])
    assert back["a"][1] is None
    assert back["b"][0] == 2
    assert (back["a"][0].item(), back["b"][1][0].item()) == (7.0, 8.0)
    assert [one.numel() for one in tree.tensors_of(value, "it")] == [1, 2]


def test_a_batch_of_examples_is_cut_to_one_sample() -> None:
    args, kwargs = one_sample(((torch.zeros(4, 3), torch.zeros(4), torch.zeros(2), 5), {"mask": torch.zeros(4, 1)}))
    assert [tuple(one.shape) for one in args[:3]] == [(1, 3), (1,), (2,)]
    assert (args[3], tuple(kwargs["mask"].shape)) == (5, (1, 1))


def test_sqnr_by_hand() -> None:
    one = torch.tensor([3.0, 4.0])
    assert sqnr_db(one, one + torch.tensor([0.5, 0.0])) == pytest.approx(20.0)
    assert sqnr_db(one, one) == float("inf")
    assert sqnr_db(torch.zeros(2), one) == float("-inf")
    assert sqnr_db(torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("inf")])) == float("inf")
    assert sqnr_db(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])) == float("-inf")
