"""Handlers see the calls of their own thread, innermost first, and ``nn.Module`` is itself again whatever happens."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.interception import Handler, Original, calls_handled, forward_exchanged, parameters_read


def members() -> tuple[object, ...]:
    return nn.Module.__call__, nn.Module._call_impl, nn.Module.__getattr__, nn.Module._named_members


def noting(notes: list[str], name: str) -> Handler:
    def handle(original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        notes.append(name)
        return original(module, *args, **kwargs)

    return handle


def in_a_thread(act: Any) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "fail", [None, ValueError("broken"), KeyboardInterrupt("broken")], ids=["ends", "raises", "^C"]
)
def test_nothing_stays_patched(fail: BaseException | None) -> None:
    before, module = members(), nn.Linear(2, 2)
    forward = module.forward

    def run() -> None:
        with (
            calls_handled(noting([], "outer")),
            parameters_read(lambda module: None),
            forward_exchanged(module, lambda present: lambda x: present(x) * 2),
            calls_handled(noting([], "inner")),
        ):
            assert members() != before
            module(torch.ones(1, 2))
            if fail is not None:
                raise fail

    if fail is None:
        run()
    else:
        with pytest.raises(type(fail), match="broken"):
            run()
    assert members() == before
    assert module.forward == forward
    assert "forward" not in vars(module)


def test_handlers_of_one_thread_are_nested_and_the_innermost_is_first() -> None:
    notes: list[str] = []
    with calls_handled(noting(notes, "outer")):
        with calls_handled(noting(notes, "inner")):
            nn.Identity()(1)
        nn.Identity()(1)
    assert notes == ["inner", "outer", "outer"]


def test_a_call_in_another_thread_goes_to_the_original_and_is_told_of() -> None:
    notes: list[str] = []
    elsewhere: list[nn.Module] = []
    module = nn.Identity()
    with calls_handled(noting(notes, "own"), elsewhere=elsewhere.append):
        in_a_thread(lambda: module(1))
    assert (notes, elsewhere) == ([], [module])


def test_a_patch_stays_while_any_thread_needs_it() -> None:
    before = members()
    notes: list[str] = []
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with calls_handled(noting(notes, "held")):
            entered.set()
            assert leave.wait(60)
            nn.Identity()(1)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    with calls_handled(noting(notes, "short")):
        nn.Identity()(1)
    assert members() != before
    leave.set()
    thread.join()
    assert notes == ["short", "held"]
    assert members() == before


def test_look_ups_of_parameters_are_told_in_their_own_thread_alone() -> None:
    module = nn.Linear(2, 2)
    readers: list[nn.Module] = []
    with parameters_read(readers.append):
        in_a_thread(lambda: module.weight)
        assert readers == []
        assert module.weight is not None
        assert module.in_features == 2
        list(module.parameters())
    assert readers == [module, module]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_keeps_no_patch_of_another_thread() -> None:
    entered, leave = threading.Event(), threading.Event()
    before = members()

    def hold() -> None:
        with calls_handled(noting([], "held")):
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    child = os.fork()
    if child == 0:
        os._exit(0 if members() == before else 1)
    _, status = os.waitpid(child, 0)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
