"""Modules that remember passes in Python: what comes out depends on the passes before, unless each starts anew."""

from __future__ import annotations

import collections
import functools
import itertools
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn


class Shift(nn.Module):
    """Adds something to its input; what, its kinds say."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift(x)

    def shift(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Counter(Shift):
    """Adds 1 every third call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def shift(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.full((), float(self.calls % 3 == 0))


class ListCache(Shift):
    """Adds the mean of all that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def shift(self, x: Tensor) -> Tensor:
        self.seen.append(x.mean().detach())
        return torch.stack(self.seen).sum()


class DictCache(Shift):
    """Adds what it computed for the first input of a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.by_shape: dict[torch.Size, Tensor] = {}

    def shift(self, x: Tensor) -> Tensor:
        if x.shape not in self.by_shape:
            self.by_shape[x.shape] = x.mean((1, 2, 3), keepdim=True)
        return self.by_shape[x.shape]


class TensorsInAList(Shift):
    """Writes to a tensor that a list in a tuple holds."""

    def __init__(self) -> None:
        super().__init__()
        self.nest = (["text", torch.zeros(())], None)

    def shift(self, x: Tensor) -> Tensor:
        held = self.nest[0][1]
        assert isinstance(held, Tensor)
        return held.add_(x.mean())


class RunningMean(Shift):
    """Keeps a mean in an array of numpy's."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = np.zeros(1, np.float32)

    def shift(self, x: Tensor) -> Tensor:
        self.mean *= 0.5
        self.mean += float(x.mean())
        return torch.from_numpy(self.mean.copy())


class Lazy(Shift):
    """Makes an attribute, a buffer and an entry of a buffer in its first call."""

    first: Tensor | None
    second: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", None)

    def shift(self, x: Tensor) -> Tensor:
        if self.first is None:
            self.first = x.mean()
            self.register_buffer("second", x.std())
            self.third = float(x.max())
        return self.first + self.second + self.third


class Tracker:
    """An object of its own class, with attributes in slots and a nest."""

    __slots__ = ("history", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self.history = collections.deque([0.0], maxlen=3)


class Tracked(Shift):
    """Keeps its state in another object."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = Tracker()
        self.names = SimpleNamespace(used=set(), counts=collections.Counter())

    def shift(self, x: Tensor) -> Tensor:
        self.tracker.total += float(x.mean())
        self.tracker.history.append(self.tracker.total)
        self.names.used.add(len(self.names.used))
        self.names.counts["calls"] += 1
        return torch.tensor(sum(self.tracker.history) + 0.1 * len(self.names.used) + 0.1 * self.names.counts["calls"])


class OfItsClass(Shift):
    """Keeps its state in its class."""

    calls = 0
    seen: list[float] = []  # noqa: RUF012 - shared on purpose

    def shift(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        self.seen.append(float(x.mean()))
        return torch.tensor(0.1 * self.calls + sum(self.seen))


class Memoised(Shift):
    """Keeps what a method returned, with a cache of functools."""

    def __init__(self) -> None:
        super().__init__()
        self.now = torch.zeros(())

    @functools.lru_cache(maxsize=8)  # noqa: B019 - as models do
    def of_size(self, width: int) -> Tensor:
        return self.now * width / 8

    def shift(self, x: Tensor) -> Tensor:
        self.now = x.mean()
        return self.of_size(x.shape[-1])


class PythonDropout(Shift):
    """Draws from the generator of the module random."""

    def shift(self, x: Tensor) -> Tensor:
        return -x if random.random() < 0.5 else torch.zeros(())


class NumpyNoise(Shift):
    """Draws from the generator of numpy.random."""

    def shift(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.random.standard_normal(x.shape[1:]).astype(np.float32))


class OwnNoise(Shift):
    """Draws from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.python, self.old = random.Random(0), np.random.RandomState(0)
        self.numpy, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def shift(self, x: Tensor) -> Tensor:
        plain = self.python.random() + self.old.rand() + self.numpy.random()
        return plain + torch.rand(x.shape[1:], generator=self.torch)


class Hidden(Shift):
    """Runs a module that it keeps in a plain list, with a counter in that."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [Counter()]

    def shift(self, x: Tensor) -> Tensor:
        return self.hidden[0](x) - x


class Iterating(Shift):
    """Steps through an iterator, which nothing can put back."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: Iterator[float] = itertools.count(1)

    def shift(self, x: Tensor) -> Tensor:
        return torch.tensor(float(next(self.steps)))


class Listing(Iterating):
    """Steps through a list."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = iter([1.0] * 99)


class Net(nn.Module):
    """Convolutions, with something that remembers between them and behind them."""

    def __init__(self, remembering: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Conv2d(3, 4, 3), remembering(), nn.Conv2d(4, 4, 1)
        self.behind = self.between

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.last(torch.relu(self.between(self.first(x)))))


KINDS: list[Callable[[], nn.Module]] = [
    Counter,
    ListCache,
    DictCache,
    TensorsInAList,
    RunningMean,
    Lazy,
    Tracked,
    OfItsClass,
    Memoised,
    PythonDropout,
    NumpyNoise,
    OwnNoise,
    Hidden,
]


def net(kind: Callable[[], nn.Module]) -> Net:
    """A net of fixed weights in 7 bits or fewer."""
    torch.manual_seed(0)
    return Net(kind).eval()
