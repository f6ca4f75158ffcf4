"""A virtual clock: hours pass in a moment, and the same each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from benchmarks.stray_refusals import virtually as virtually_

T = TypeVar("T")
Virtually = Callable[[Callable[[], Awaitable[T]]], T]


@pytest.fixture(scope="session")
def virtually() -> Virtually[object]:
    """Runs an async function on a clock that jumps whenever everyone sleeps."""
    return virtually_
