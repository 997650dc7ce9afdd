"""Exact replay: after one recorded pass, recompute only what a disturbed layer can change.

While a pass is recorded, every module call leaves its output. When the same pass is run again with one layer
disturbed, a module call is answered from the record, without running, if its module holds no disturbed layer and

- it ended before the first disturbed call began (nothing can have changed yet), or
- everything it is given is the recorded object itself at its recorded version (a branch the disturbance cannot reach).

So a replayed pass computes what a full one would, bit for bit; nothing is estimated. The rules hold for modules that
are functions of their inputs. Those that are not are found while recording and never answered from the record:
modules that write to their arguments, keep state, or carry somebody's hooks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sensitivity.layers.inputs import tensors_in

UNKNOWN = -1
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)


@dataclass(slots=True)
class _Call:
    """One recorded call, numbered in order of entry.

    Attributes:
        module: ``id`` of the module.
        last: Number after its last nested call.
        key: What it was given: identities and versions of tensors, plain values.
        output: What it returned; unset where it is not kept.
        versions: The tensors of its output with their versions when it returned.
        kept: Whether its output is kept.
        answers: Whether the record may answer for it.
        clone: Whether its output is written to later in the pass, so that a copy is handed out each time.
    """

    module: int
    last: int = 0
    key: tuple[Hashable, ...] | None = None
    output: Any = None
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    kept: bool = False
    answers: bool = True
    clone: bool = False


@dataclass
class Counts:
    """What replay saved.

    Attributes:
        answered: Module calls answered from the record.
        run: Module calls run.
    """

    answered: int = 0
    run: int = 0


@dataclass
class _Record:
    """One pass over one batch."""

    calls: list[_Call] = field(default_factory=list)
    by_key: dict[tuple[int, Hashable], int] = field(default_factory=dict)
    given: list[Tensor] = field(default_factory=list)  # what the model itself was given


class Replayer:
    """Records a pass of one model and replays it with layers disturbed.

    Args:
        model: The model; its modules must stay the same objects.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.counts = Counts()
        self._containers = _containers(model)
        self._stateful: set[int] | None = None  # modules that keep state, learned in the first recording
        self._overwritten: set[int] = set()  # numbers of calls whose output is written to later
        self._wanted: set[int] | None = None  # numbers of calls worth keeping; None keeps all
        self._hits: set[int] = set()
        self._record = _Record()

    def record(self, run: Callable[[], Any]) -> Any:
        """Run a pass and keep what module calls returned; the former record is dropped.

        Args:
            run: The pass, e.g. ``lambda: task.predict(model, batch)``; called again where outputs turn out to be
                written to after they were returned.

        Returns:
            What ``run`` returned.
        """
        result = self._record_once(run)
        stale = self._stale()
        if stale:
            self._overwritten |= stale
            result = self._record_once(run)
        for number in self._stale():
            self._record.calls[number].answers = False
        self._index()
        return result

    def keep_only_what_was_used(self) -> None:
        """From the next record on, keep only outputs that have answered a call so far."""
        self._wanted = set(self._hits)

    @contextlib.contextmanager
    def replaying(self, disturbed: Iterable[nn.Module]) -> Iterator[None]:
        """Passes inside are answered from the record as far as the disturbed modules allow.

        Args:
            disturbed: Every module whose output may differ from the record: hooked, or with another weight.
        """
        touched = {id(module) for module in disturbed}
        blocked = self._around(touched)
        calls = self._record.calls
        first = next((i for i, call in enumerate(calls) if call.module in touched), len(calls))
        with _calls_through(_Answers(self._record, blocked, first, self.counts, self._hits)):
            yield

    def intact(self) -> bool:
        """Whether no kept output was written to since it was recorded."""
        return not any(_is_stale(call) for call in self._record.calls if call.kept)

    def forget(self) -> None:
        """Drop the record and its memory."""
        self._record = _Record()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the outputs that the record keeps; storage shared between outputs counts once."""
        storages = {}
        for call in self._record.calls:
            for tensor, _ in call.versions if call.kept else ():
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values())

    def _record_once(self, run: Callable[[], Any]) -> Any:
        self._record = _Record()
        learning = self._stateful is None
        recorder = _Recorder(self._record, set(self._containers), self._overwritten, self._wanted, learning)
        with _calls_through(recorder):
            result = run()
        if self._stateful is None:
            self._stateful = recorder.stateful
        return result

    def _index(self) -> None:
        """Note which calls the record may answer, and under which key."""
        hooked = {id(module) for module in self.model.modules() if _has_hooks(module)}
        barred = self._around((self._stateful or set()) | hooked)
        record = self._record
        alive = {id(tensor) for call in record.calls if call.kept and not call.clone for tensor, _ in call.versions}
        alive |= {id(tensor) for tensor in record.given}
        for number, call in enumerate(record.calls):
            call.answers = call.answers and call.kept and call.module not in barred
            if not call.answers or call.key is None:
                continue
            tensors = [part for part in call.key if isinstance(part, tuple)]
            if tensors and all(identity in alive for identity, _ in tensors):  # others may share a dead one's identity
                record.by_key.setdefault((call.module, call.key), number)

    def _stale(self) -> set[int]:
        """Calls whose output was written to after they returned."""
        calls = enumerate(self._record.calls)
        return {number for number, call in calls if call.kept and not call.clone and _is_stale(call)}

    def _around(self, modules: set[int]) -> set[int]:
        """These modules and all that contain one of them."""
        return set().union(*(self._containers.get(module, {module}) for module in modules))


class _Recorder:
    """Runs every call and writes it down."""

    def __init__(
        self, record: _Record, known: set[int], overwritten: set[int], wanted: set[int] | None, learning: bool
    ) -> None:
        self.record = record
        self.known = known
        self.overwritten = overwritten
        self.wanted = wanted
        self.learning = learning
        self.stateful: set[int] = set()

    def __call__(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        if id(module) not in self.known:
            return original(module, *args, **kwargs)
        number = len(self.record.calls)
        call = _Call(id(module), clone=number in self.overwritten)
        self.record.calls.append(call)
        given = list(tensors_in((args, kwargs)))
        if number == 0:
            self.record.given = given
        before = [version_of(tensor) for tensor in given]
        state = _state(module) if self.learning else None
        call.key = _key((args, kwargs))
        result = original(module, *args, **kwargs)
        call.last = len(self.record.calls)
        if state is not None and state != _state(module):
            self.stateful.add(id(module))
        call.answers = UNKNOWN not in before and before == [version_of(tensor) for tensor in given]
        call.kept = self.wanted is None or number in self.wanted
        if call.kept:
            self._keep(call, result, given)
        return result

    def _keep(self, call: _Call, result: Any, given: list[Tensor]) -> None:
        outputs = list(tensors_in(result))
        if call.clone:
            # handing out a copy would cut the tie between an output and what shares its memory
            call.answers = call.answers and not _share_memory([*outputs, *given], outputs)
            result = _cloned(result)
            outputs = list(tensors_in(result))
        call.output = result
        call.versions = [(tensor, version_of(tensor)) for tensor in outputs]
        call.answers = call.answers and all(version != UNKNOWN for _, version in call.versions)


class _Answers:
    """Answers calls from the record where the rules allow, and runs the others."""

    def __init__(self, record: _Record, blocked: set[int], first: int, counts: Counts, hits: set[int]) -> None:
        self.record = record
        self.blocked = blocked
        self.first = first
        self.counts = counts
        self.hits = hits
        self.position = 0  # number of the next call, as long as nothing disturbed has begun

    def __call__(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        number = self._match(module, args, kwargs)
        if number is None:
            self.counts.run += 1
            return original(module, *args, **kwargs)
        self.counts.answered += 1
        self.hits.add(number)
        call = self.record.calls[number]
        return _cloned(call.output) if call.clone else call.output

    def _match(self, module: nn.Module, args: Any, kwargs: Any) -> int | None:
        """The recorded call that answers this one, if there is one."""
        calls = self.record.calls
        here = self.position
        if here < self.first and calls[here].module == id(module):
            call = calls[here]
            if call.answers and call.last <= self.first and call.module not in self.blocked:
                self.position = call.last
                return here
            self.position += 1
            return None
        self.position = max(self.position, self.first)  # from here on by identity alone
        if id(module) in self.blocked:
            return None
        key = _key((args, kwargs))
        return None if key is None else self.record.by_key.get((id(module), key))


@contextlib.contextmanager
def _calls_through(handler: Callable[[Callable[..., Any], nn.Module, Any, Any], Any]) -> Iterator[None]:
    """Every module call inside goes through a handler."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return handler(original, module, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def _containers(model: nn.Module) -> dict[int, set[int]]:
    """For every module the modules that contain it, itself included."""
    containers: dict[int, set[int]] = {}
    for outer in model.modules():
        for inner in outer.modules():
            containers.setdefault(id(inner), set()).add(id(outer))
    return containers


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _state(module: nn.Module) -> list[Any]:
    """What a module could remember a pass by: which objects its attributes and buffers are, and buffer versions."""
    attributes = [(name, id(value)) for name, value in vars(module).items() if not name.startswith("_")]
    plain = [(name, len(value)) for name, value in vars(module).items() if isinstance(value, (list, dict, set))]
    buffers = [(id(b), version_of(b)) for b in module._buffers.values() if b is not None]
    return [*attributes, *plain, *buffers]


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written; inference mode does not count, so its tensors can never be trusted."""
    return UNKNOWN if tensor.is_inference() else tensor._version


def _is_stale(call: _Call) -> bool:
    return any(version_of(tensor) != version for tensor, version in call.versions)


def _share_memory(tensors: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether two of the tensors, one of them an output, lie in the same memory."""
    places = [tensor.untyped_storage().data_ptr() for tensor in tensors]
    return any(places.count(tensor.untyped_storage().data_ptr()) > 1 for tensor in outputs)


def _key(tree: Any) -> tuple[Hashable, ...] | None:
    """Identity of what a call is given; None where it holds something that cannot be compared."""
    parts: list[Hashable] = []
    return tuple(parts) if _collect(tree, parts) else None


def _collect(tree: Any, parts: list[Hashable]) -> bool:
    """Add tensors as (identity, version) and everything else as text; whether all of it could be added."""
    if isinstance(tree, Tensor):
        parts.append((id(tree), version_of(tree)))
    elif isinstance(tree, _PLAIN):
        parts.append(f"{type(tree).__name__} {tree!r}")
    elif isinstance(tree, (tuple, list)):
        parts.append(f"{type(tree).__name__} {len(tree)}")
        return all(_collect(item, parts) for item in tree)
    elif isinstance(tree, dict):
        parts.append(f"dict {len(tree)}")
        return all(_collect(key, parts) and _collect(value, parts) for key, value in tree.items())
    else:
        return False
    return True


def _cloned(tree: Any) -> Any:
    """A copy of a tree of tensors that shares nothing that can be written to."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)
