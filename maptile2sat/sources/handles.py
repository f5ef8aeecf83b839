"""Handles that only one thread may use at a time, lent out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """Something with `close`."""

    def close(self) -> None:
        """Free what it holds."""


T = TypeVar("T", bound=Closable)


class Pool(Generic[T]):
    """Lends handles and opens another only when all are in use.

    Args:
        opener: Opens one more handle.
    """

    def __init__(self, opener: Callable[[], T]) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._idle: list[T] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Give a handle for the time of a `with` block."""
        with self._lock:
            if self._closed:
                raise ValueError("the source is closed")
            handle = self._idle.pop() if self._idle else None
        if handle is None:
            handle = self._opener()
        try:
            yield handle
        finally:
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(handle)
            if not keep:
                handle.close()

    def close(self) -> None:
        """Close all idle handles now and the others when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.close()
