"""A virtual clock: hours pass in a moment, and the same each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import pytest
import trio.testing

T = TypeVar("T")
Virtually = Callable[[Callable[[], Awaitable[T]]], T]


@pytest.fixture(scope="session")
def virtually() -> Virtually[object]:
    """Runs an async function on a clock that jumps whenever everyone sleeps."""

    def run(main: Callable[[], Awaitable[T]]) -> T:
        return anyio.run(main, backend="trio", backend_options={"clock": trio.testing.MockClock(autojump_threshold=0)})

    return run
