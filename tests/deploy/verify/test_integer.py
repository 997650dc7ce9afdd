"""Integer simulation: every code of every layer equals what OpenVINO computes, from the image to the last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.deploy.verify.integer import codes_of, integer_exact, verify_graph
from sensitivity.errors import CalibrationError
from sensitivity.records import QuantSpec, Recipe
from tests.deploy.nets import SAFE_INT8, Attention, SharedHead, build, images
from tests.deploy.this_cpu import saturates

INT8 = sv.Scheme.all(sv.INT8)
SAFE_MINMAX = sv.Scheme.all(replace(SAFE_INT8, activations=sv.INT8_MINMAX.activations))


def differences(wrapped: sv.Wrapped, scheme: sv.Scheme, *, values: bool = False) -> Tensor:
    """By how many steps every code of every quantized input that OpenVINO computes differs from the simulated one.

    Args:
        wrapped: The net.
        scheme: How it is quantized.
        values: Whether the graph returns what the codes stand for instead of them.
    """
    deployed = wrapped.deploy(scheme)
    qdq = deployed.parts[0].qdq
    graph, readers = verify_graph(qdq, values=values)
    engine = OpenVinoEngine(graph.SerializeToString())
    steps: list[Tensor] = []
    for seed in range(20, 24):
        x, seen = images(1, seed=seed), dict[str, Tensor]()
        with integer_exact(deployed.plan, seen) as model:
            model(x)
        for name, output in zip(readers, engine.run(x.numpy())[-len(readers) :], strict=True):
            codes = torch.from_numpy(codes_of(qdq, name, output) if values else output)
            steps.append((codes.long() - seen[name].long()).abs().flatten())
    return torch.cat(steps)


def test_every_code_equals_openvinos_bit_for_bit_where_no_sum_saturates(wrapped: sv.Wrapped) -> None:
    steps = differences(wrapped, INT8)
    assert len(steps) > 100_000
    if saturates():
        assert float((steps > 0).float().mean()) > 0.1
    else:
        assert int(steps.max()) == 0


def test_codes_of_weights_in_7_bits_are_openvinos_but_for_rounding_on_every_cpu(wrapped: sv.Wrapped) -> None:
    """Requantized in another float form, a code in 10,000 flips by a step; through 20 layers flips multiply."""
    steps = differences(wrapped, SAFE_MINMAX, values=True)
    assert float((steps > 0).float().mean()) < 0.03
    assert int(steps.max()) <= 5


def test_codes_use_their_range(wrapped: sv.Wrapped) -> None:
    """Equal codes would mean little if most were zero."""
    plan, seen = wrapped.plan(INT8), dict[str, Tensor]()
    with integer_exact(plan, seen) as model:
        model(images(4, seed=20))
    for name, codes in seen.items():
        assert len(torch.unique(codes)) > 10, name


def test_it_is_the_simulation_but_for_rounding(wrapped: sv.Wrapped) -> None:
    plan, x = wrapped.plan(INT8), images(4, seed=3)
    with plan.simulated() as model:
        simulated = model(x)
    with integer_exact(plan) as model:
        exact = model(x)
    with torch.no_grad():
        assert sqnr_db(simulated, exact) > sqnr_db(simulated, wrapped.model(x)) + 6.0


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: nn.Conv1d(8, 6, 3, padding=1), torch.randn(2, 8, 20)),
        (lambda: nn.Conv2d(8, 6, 3, groups=2, dilation=2, bias=False), torch.randn(2, 8, 9, 9)),
        (lambda: nn.Conv3d(4, 6, 2), torch.randn(2, 4, 5, 5, 5)),
        (lambda: nn.ConvTranspose2d(8, 6, 3, 2, groups=2), torch.randn(2, 8, 5, 5)),
        (lambda: nn.Linear(8, 6), torch.randn(2, 7, 8)),
        (lambda: nn.Linear(4096, 6), torch.randn(2, 4096)),
    ],
    ids=["conv1d", "grouped dilated", "conv3d", "transposed grouped", "linear on tokens", "too long for float32"],
)
def test_one_layer_of_every_kind_equals_integer_arithmetic(layer: Callable[[], nn.Module], x: Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(layer()).eval()
    wrapped = sv.wrap(net, x)
    wrapped.calibrate([x])
    plan = wrapped.plan(INT8, example=x)
    with plan.simulated() as model:
        simulated = model(x)
    seen: dict[str, Tensor] = {}
    with integer_exact(plan, seen) as model:
        exact = model(x)
    torch.testing.assert_close(exact, simulated, atol=1e-4, rtol=1e-4)
    if isinstance(net[0], nn.Linear):  # the sum by numpy, in 64-bit integers
        codes = plan.weight_codes(plan.layers[0])
        params = plan.input_params(plan.layers[0])
        assert codes is not None
        assert params is not None
        total = seen["0"].numpy().astype(np.int64) @ codes.codes.numpy().astype(np.int64).T
        scale = (params.scale * codes.params.scale).numpy()
        want = total.astype(np.float32) * scale + net[0].bias.detach().numpy()
        np.testing.assert_array_equal(exact.numpy(), want)


def test_zero_points_are_taken_off() -> None:
    wrapped = sv.wrap(build(SharedHead), images(1))
    recipe = Recipe("affine", sv.INT8.weights, QuantSpec("uint8", symmetric=False))
    wrapped.calibrate([images(4, seed=1)], recipe)
    plan, x = wrapped.plan(sv.Scheme.all(recipe)), images(1, seed=2)
    with plan.simulated() as model:
        simulated = model(x)["up"][0]
    with integer_exact(plan) as model:
        torch.testing.assert_close(model(x)["up"][0], simulated, atol=1e-3, rtol=1e-3)


def test_half_quantized_layers_are_simulated_as_ever() -> None:
    wrapped = sv.wrap(build(SharedHead), images(1))
    plan, x = wrapped.plan(sv.Scheme.all(sv.INT4_WEIGHTS)), images(1, seed=2)
    with plan.simulated() as model:
        simulated = model(x)["up"][0]
    with integer_exact(plan) as model:
        assert torch.equal(model(x)["up"][0], simulated)


def test_a_projection_inside_attention_is_computed_in_integers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 10, 16)
    wrapped = sv.wrap(Attention().eval(), x)
    wrapped.calibrate([x])
    plan, seen = wrapped.plan(INT8), dict[str, Tensor]()
    with plan.simulated() as model:
        simulated = model(x)
    with integer_exact(plan, seen) as model:
        exact = model(x)
    assert set(seen) == {"enter", "attend.in_proj_weight", "attend.out_proj", "leave"}
    with torch.no_grad():
        assert sqnr_db(simulated, exact) > sqnr_db(simulated, wrapped.model(x)) + 6.0


def test_the_copy_is_as_before_afterwards(shared: sv.Wrapped) -> None:
    plan = shared.plan(INT8)
    before = {name: (value.dtype, value.clone()) for name, value in plan.model.state_dict().items()}
    with integer_exact(plan) as model:
        model(images(1))
    for name, value in plan.model.state_dict().items():
        assert value.dtype == before[name][0]
        assert torch.equal(value, before[name][1])
    assert not [m for m in plan.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_a_call_that_the_plan_does_not_know_is_refused_by_name() -> None:
    class Often(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.times = nn.Conv2d(3, 3, 1), 2

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = self.head(x)
            return x

    net = Often().eval()
    wrapped = sv.wrap(net, images(1))
    wrapped.calibrate([images(2, seed=1)])
    plan = wrapped.plan(INT8)
    plan.model.times = 3
    with pytest.raises(CalibrationError, match=r"call #2 of head:0:0"), integer_exact(plan) as model:
        model(images(1))
