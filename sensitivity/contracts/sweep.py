"""What a sweep may be given: where results are kept, and where passes run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Store(Protocol):
    """Where the results of a sweep are kept, so that it can be stopped and resumed.

    Keys are text, values are trees of dicts, lists, tuples, numpy arrays, numbers, text, bytes and None, which come
    back to the last bit. Nothing is ever changed or removed, and one run at a time uses a store.
    """

    def __contains__(self, key: str) -> bool:
        """Whether there is a value."""

    def read(self, key: str) -> Any:
        """The value of a key that is in the store.

        Raises:
            KeyError: If it is not.
        """

    def add(self, key: str, value: Any) -> None:
        """Keep a value, for good when this returns; a key that is in the store keeps its first one.

        Raises:
            StoreError: If that is not possible; then everything added before is still there.
        """


@runtime_checkable
class Executor(Protocol):
    """What runs functions elsewhere: any of ``concurrent.futures``, or one that looks like them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Start a call; function and arguments can be pickled."""


@runtime_checkable
class SharesOnce(Protocol):
    """An executor that brings a large value to its workers itself; others are given a file on this machine."""

    def share(self, value: Any) -> Callable[[], Any]:
        """What a worker calls to get the value; it can be pickled."""
