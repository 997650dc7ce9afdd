"""Models that write, read or keep things where no argument and no version shows it: replayed right all the same."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from sensitivity.sweep.replay import foresight
from tests.sweep.recording_task import RecordingTask


def conv(inputs: int = 4, outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Chain(nn.Module):
    """Twelve layers before the interesting ones, more than are checked on the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.ModuleList(conv() for _ in range(12))
        self.head = conv()

    def before(self, x: Tensor) -> Tensor:
        for layer in self.chain[:-1]:
            x = layer(x).relu() + x
        out: Tensor = self.chain[-1](x)
        return out


class Scaled(nn.Module):
    """A convolution times an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.rate: Any = 1

    def forward(self, x: Tensor) -> Any:
        return self.conv(x) * self.rate


class ChildIsTold(Chain):
    """Sets an attribute of a child to what a layer computed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.block = nn.Linear(4, 4), Scaled()

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        self.block.rate = self.gate(x.mean((2, 3)))[..., None, None]
        return self.head(self.block(x))


class ChildIsToldTwice(Chain):
    """Runs one block at two rates on the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.block = conv(), Scaled()

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        y = self.middle(x)
        self.block.rate = 1
        first = self.block(x)
        self.block.rate = 2
        return self.head(y + first * self.block(x))


class WeightIsMade(Chain):
    """A hypernetwork: a convolution is called with a weight that another layer computed."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.made = nn.Linear(4, 16), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        weight = self.maker(x.mean((0, 2, 3))).view(4, 4, 1, 1)
        return self.head(torch.func.functional_call(self.made, {"weight": weight}, (x,)))


class TwoAutocasts(Chain):
    """The same block under two types of autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.shared = conv(), conv()

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        y = self.middle(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = self.shared(x)
        with torch.autocast("cpu", dtype=torch.float16):
            other = self.shared(x)
        return self.head(y + first.float() * 3 - other.float())


class Keeps(nn.Module):
    """Keeps what it computed in a private attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self._last: Any = None

    def forward(self, x: Tensor) -> Any:
        self._last = self.conv(x).relu()
        return self._last


class Reads(nn.Module):
    """Reads a private attribute of a module that it did not register."""

    def __init__(self, other: Keeps) -> None:
        super().__init__()
        self.other, self.conv = [other], conv()

    def forward(self, x: Tensor) -> Any:
        return self.conv(x) + self.other[0]._last


class PrivateSkip(Chain):
    """A skip connection through a private attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.middle = Keeps(), conv()
        self.decoder = Reads(self.encoder)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.decoder(self.middle(self.encoder(self.before(x)))))


class TwoHeads(Chain):
    """Boxes that are written to after they were returned, and classes beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.box, self.classes = conv(), conv(4, 2)

    def change(self, boxes: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        return self.change(self.box(x)), self.classes(x).sigmoid()


class ChangedByNumpy(TwoHeads):
    def change(self, boxes: Tensor) -> Any:
        array = boxes.numpy()
        array[:, 2:] += array[:, :2]
        return torch.from_numpy(array)


class ChangedThroughData(TwoHeads):
    def change(self, boxes: Tensor) -> Any:
        boxes.data.mul_(2)
        return boxes


class AsArray(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return (x * 2).numpy()


class ChangedArray(TwoHeads):
    """A module returns an array, and its caller writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = AsArray()

    def change(self, boxes: Tensor) -> Any:
        array = self.decode(boxes)
        array *= 8
        return torch.from_numpy(array.copy())


class Borrows(nn.Module):
    """Uses the parameters of a module that it did not register, without naming them."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner, self.offset = [owner], nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, next(self.owner[0].parameters()), padding=1) + self.offset


class BorrowedParameters(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.middle = conv()
        self.borrows = Borrows(self.middle)

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        return self.head(self.middle(x) + self.borrows(x))


class OtherSequential(Chain):
    """A ``Sequential`` whose forward was exchanged on the object: it returns all that its modules give."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(conv(), conv(), conv())
        self.head = conv(12)
        self.block.forward = types.MethodType(all_of, self.block)  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.cat(self.block(self.before(x)), 1))


def all_of(block: nn.Sequential, x: Tensor) -> list[Tensor]:
    outputs = []
    for module in block:
        x = module(x)
        outputs.append(x)
    return outputs


class Appends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        skips.append(self.conv(x).relu())
        return F.max_pool2d(skips[-1], 2)


class Pops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(8)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Any:
        return self.conv(torch.cat([F.interpolate(x, scale_factor=2), skips.pop()], 1)).relu()


class SkipsInAList(Chain):
    """A U-Net whose encoders put their skips into a list that they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = (nn.ModuleList(kind() for _ in range(2)) for kind in (Appends, Pops))

    def forward(self, x: Tensor) -> Any:
        skips: list[Tensor] = []
        x = self.before(x)
        for module in (*self.down, *self.up):
            x = module(x, skips)
        return self.head(x)


class Pyramid(nn.Module):
    def __init__(self, give: Callable[[list[Tensor]], Any]) -> None:
        super().__init__()
        self.levels, self.give = nn.ModuleList(conv() for _ in range(3)), give

    def forward(self, x: Tensor) -> Any:
        levels = []
        for level in self.levels:
            x = level(x).relu()
            levels.append(x)
        return self.give(levels)


class GivenOnce(Chain):
    """A backbone that returns an iterator."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid, self.heads = Pyramid(iter), nn.ModuleList(conv() for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        levels: Iterator[Tensor] = self.pyramid(self.before(x))
        return self.head(torch.stack([head(level) for head, level in zip(self.heads, levels, strict=True)]).sum(0))


class HooksInside(Chain):
    """Collects features by hooks that it registers for the time of a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Sequential(conv(), conv(), conv()), conv(12)

    def forward(self, x: Tensor) -> Any:
        outputs: list[Tensor] = []
        handles = [module.register_forward_hook(lambda _, __, out: outputs.append(out)) for module in self.block]
        try:
            self.block(self.before(x))
        finally:
            for handle in handles:
                handle.remove()
        return self.head(torch.cat(outputs, 1))


class GradientsInside(Chain):
    """Forces as gradients of an energy."""

    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            place = x.detach().requires_grad_()
            energy = self.head(self.before(place)).square().sum()
            (force,) = torch.autograd.grad(energy, place)
        return energy.detach(), force


class FrozenByFlag(Chain):
    """Part of it runs with gradients, whoever calls it."""

    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(True):
            x = self.before(x)
        return self.head(x.detach())


@dataclass(slots=True)
class Slots:
    one: Tensor
    other: Tensor


class NoDict:
    __slots__ = ("one", "other")

    def __init__(self, first: Tensor, other: Tensor) -> None:
        self.one, self.other = first, other


class ReturnsAnObject(Chain):
    """What its neck returns is written to, attribute by attribute."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.pyramid, self.last = Pyramid(lambda levels: kind(*levels[:2])), conv()

    def forward(self, x: Tensor) -> Any:
        levels = self.pyramid(self.before(x))
        levels.one = levels.one * 2
        levels.other.relu_()
        return self.last(self.head(levels.one) + levels.other)


class Mapped(Chain):
    """Runs a module under ``vmap``."""

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.vmap(self.chain[0])(self.before(x)[None])[0])


class Graph(Chain):
    """A module is given a sparse matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = Mix()

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        return self.head(self.mix(x, torch.eye(x.shape[-1]).to_sparse()))


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, matrix: Tensor) -> Any:
        return torch.sparse.mm(matrix, self.conv(x).flatten(0, 2).T).T.reshape(x.shape)


class Scripted(Chain):
    """Has a scripted module."""

    def __init__(self) -> None:
        super().__init__()
        self.script = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Sigmoid()))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.script(self.before(x)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (
        ChildIsTold,
        ChildIsToldTwice,
        WeightIsMade,
        TwoAutocasts,
        PrivateSkip,
        ChangedByNumpy,
        ChangedThroughData,
        ChangedArray,
        BorrowedParameters,
        OtherSequential,
        SkipsInAList,
        GivenOnce,
        HooksInside,
        GradientsInside,
        FrozenByFlag,
        Mapped,
        Graph,
        Scripted,
    )
} | {f"ReturnsAnObject of {kind.__name__}": lambda kind=kind: ReturnsAnObject(kind) for kind in (Slots, NoDict)}


@pytest.mark.parametrize("lookup_s", [foresight.OPERATOR_SECONDS, 0.0], ids=["modules", "operators too"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_it_is_replayed_to_the_same_bits(name: str, lookup_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "OPERATOR_SECONDS", lookup_s)
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3)]
    torch.manual_seed(0)
    wrapped = sv.wrap(MODELS[name]().eval(), images[0])
    full, replayed = (
        wrapped.analyze(RecordingTask(images), sv.INT4_WEIGHTS, replay=replay, progress=False)
        for replay in (False, True)
    )
    assert [(row.status, row.score) for row in replayed.measurements] == [
        (row.status, row.score) for row in full.measurements
    ]
    assert replayed.baseline.value == full.baseline.value
    assert {row.status for row in full.measurements} == {"measured"}
    assert not replayed.notes
