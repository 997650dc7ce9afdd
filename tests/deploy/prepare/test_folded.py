"""The folded copy computes what the model does, without its norms, and leaves the model alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.prepare import folded as folding
from sensitivity.deploy.prepare.folded import folded_copy
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import ExportError
from sensitivity.weights import weights_digest
from tests.deploy.nets import SAFE, build, images


def test_every_norm_of_the_nets_is_folded_and_the_output_kept(wrapped: sv.Wrapped) -> None:
    before, x = weights_digest(wrapped.model), images(2, seed=3)
    folded = folded_copy(wrapped.model, wrapped.layers, (images(1),), {})
    assert not folded.kept
    assert not [m for m in folded.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not [layer for layer in folded.layers if layer.norm_module]
    with torch.no_grad():
        assert sqnr_db(wrapped.model(x), folded.model(x)) > 100.0
    assert weights_digest(wrapped.model) == before
    assert wrapped.layers.names == folded.layers.names


def test_the_folded_layer_equals_the_formula() -> None:
    net = build(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    wrapped = sv.wrap(net, images(1))
    folded = folded_copy(net, wrapped.layers, (images(1),), {}).model
    conv, norm = net[0], net[1]
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(folded[0].weight, conv.weight * factor[:, None, None, None])
    torch.testing.assert_close(folded[0].bias, (conv.bias - norm.running_mean) * factor + norm.bias)


class OwnActivation(nn.BatchNorm2d):
    """A batch norm that ends in an activation, as timm's."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def test_an_activation_inside_a_norm_stays() -> None:
    net = build(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), OwnActivation(8), nn.Conv2d(8, 4, 1)))
    folded = folded_copy(net, sv.wrap(net, images(1)).layers, (images(1),), {})
    assert not folded.kept
    with torch.no_grad():
        assert sqnr_db(net(images(2)), folded.model(images(2))) > 100.0


class NormUsedTwice(nn.Module):
    """The norm behind the convolution also serves the image: it must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm(x)


def test_a_norm_that_serves_something_else_stays_with_its_reason() -> None:
    net = build(NormUsedTwice)
    folded = folded_copy(net, sv.wrap(net, images(1)).layers, (images(1),), {})
    assert [reason for reason in folded.kept.values() if "used elsewhere" in reason]
    with torch.no_grad():
        torch.testing.assert_close(folded.model(images(1)), net(images(1)))


class OneNormUsedTwice(nn.Module):
    """Three norms, the second of which serves something else too: by a call of its own, or by its formula."""

    def __init__(self, by_call: bool) -> None:
        super().__init__()
        self.by_call = by_call
        self.first, self.one = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.two = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.third, self.three = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(self.first(x)))
        other = self.two(x) if self.by_call else x * getattr(self.two, "weight", x.mean())[:, None, None]
        return self.three(self.third(F.relu(self.two(self.second(x)) + other)))


@pytest.mark.parametrize("by_call", [True, False])
def test_one_norm_that_serves_something_else_is_the_only_one_that_stays(by_call: bool) -> None:
    net = build(lambda: OneNormUsedTwice(by_call))
    wrapped = sv.wrap(net, images(1))
    folded = folded_copy(net, wrapped.layers, (images(1),), {})
    assert list(folded.kept) == [wrapped.layers["second"].name]
    assert [m for m in folded.model.modules() if isinstance(m, nn.BatchNorm2d)] == [folded.model.two]
    assert [layer.module for layer in folded.layers if layer.norm_module] == ["second"]
    with torch.no_grad():
        assert sqnr_db(net(images(2)), folded.model(images(2))) > 100.0


class LastBits(nn.Module):
    """What it returns hangs on the last bits of what its norms write, as the order of boxes with equal scores does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(3, 4, 1), OwnActivation(4)
        self.second, self.two = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.frac(self.two(self.second(self.one(self.first(x)))) * 1e6)


def test_where_last_bits_decide_the_outputs_each_layer_is_compared_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build(LastBits)
    layers = sv.wrap(net, images(1)).layers
    folded = folded_copy(net, layers, (images(1),), {})
    assert folded.kept == {}
    assert not [m for m in folded.model.modules() if isinstance(m, nn.BatchNorm2d)]
    fold = folding.fold_batch_norm

    def fold_wrongly(weight: Tensor, *others: Any, **settings: Any) -> Any:
        scaled, bias = fold(weight, *others, **settings)
        return scaled * (1.0 if weight.shape[1] == 3 else 1.02), bias

    monkeypatch.setattr(folding, "fold_batch_norm", fold_wrongly)
    (reason,) = folded_copy(net, layers, (images(1),), {}).kept.values()
    assert reason.startswith("folding changed what its norm writes (SQNR 3")


@pytest.mark.parametrize(
    "computed",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
    ids=["weight norm", "spectral norm"],
)
def test_a_weight_that_is_computed_from_others_is_baked_and_runs_in_int8(computed: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(computed(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
    with torch.no_grad():
        want = net(images(2))
    wrapped = sv.wrap(net, images(1))
    wrapped.calibrate([images(4, seed=1)])
    deployed = wrapped.deploy(SAFE)
    assert (deployed.plan.left_out, deployed.attempts) == ({}, ())
    layers = {node: layer.precision for layer in deployed.engine.layer_info() for node in layer.nodes}
    assert (layers["0"], layers["2"]) == ("int8", "int8")
    with torch.no_grad():
        assert torch.equal(net(images(2)), want), "the caller's model is left alone"
    assert sqnr_db(want, deployed(images(2))) > 25.0


def test_a_norm_that_depends_on_its_input_stays_with_its_reason() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)).eval()
    wrapped = sv.wrap(net, images(1))
    reasons = folded_copy(net, wrapped.layers, (images(1),), {}).kept
    assert list(reasons.values()) == ["its GroupNorm depends on its input"]


def test_a_folded_model_is_wrapped_under_the_same_names_and_measures_the_same() -> None:
    net = build(lambda: OneNormUsedTwice(True))
    wrapped = sv.wrap(net, images(1))
    task = sv.FeatureFidelity(images(8))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded = wrapped.folded()
    assert [layer.name for layer in folded.layers] == [layer.name for layer in wrapped.layers]
    assert [layer.norm is None for layer in folded.layers] == [True, False, True]
    expected, study = (model.analyze(task, sv.INT8_WEIGHTS, progress=False) for model in (wrapped, folded))
    assert [row.score for row in study.measurements] == pytest.approx([row.score for row in expected.measurements])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_tied_weights_are_two_weights_in_the_copy() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)).eval()
    net[2].weight = net[0].weight
    copied = folded_copy(net, sv.wrap(net, images(1)).layers, (images(1),), {}).model
    assert copied[0].weight is not copied[2].weight
    assert torch.equal(copied[0].weight, copied[2].weight)
    assert net[0].weight is net[2].weight


class Uncopyable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    net = Uncopyable().eval()
    wrapped = sv.wrap(net, images(1))
    net.stream = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(ExportError, match="Uncopyable cannot be copied"):
        wrapped.deploy(sv.Scheme())


def test_a_parametrized_weight_is_deployed_with_its_input_and_output_axis() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = torch.randn(8, 6)
    wrapped = sv.wrap(model, x[:1])
    wrapped.calibrate(x)
    deployed = wrapped.deploy(sv.Scheme.all(sv.INT8), "onnxruntime")
    assert dict(deployed.plan.left_out) == {}
    assert wrapped.verify(deployed).passed


def test_a_weight_that_a_look_up_reads_as_well_is_quantized_where_it_is_multiplied_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(4, 4)
            self.table = nn.Embedding(9, 4)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.own(self.table(words)), self.table.weight)

    words = torch.tensor([[1, 4, 8]])
    wrapped = sv.wrap(Tied().eval(), words)
    wrapped.calibrate([words])
    deployed = wrapped.deploy(sv.Scheme.only("table", sv.INT8), "onnxruntime")
    assert deployed.plan.left_out == {}
    look_ups = [node for node in deployed.parts[0].qdq.graph.graph.node if node.op_type == "Gather"]
    assert look_ups[0].input[0] == "table.weight"
    with deployed.plan.simulated() as model, torch.no_grad():
        assert torch.allclose(deployed(words), model(words), atol=1e-5)
