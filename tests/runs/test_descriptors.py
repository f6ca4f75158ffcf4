"""The limit of open files is raised to what a run needs, or named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
CODE = """
import resource
from safemt_api.runs.descriptors import make_room
from safemt_api.errors import UsageError
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
try:
    make_room({concurrency})
except UsageError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")


def limited(soft: int, hard: int, concurrency: int) -> list[str]:
    """What a process of these limits says, and the soft limit it ends with; in a process of its own, since limits stay."""
    code = CODE.format(soft=soft, hard=hard, concurrency=concurrency)
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_soft_limit_is_raised_as_far_as_needed_and_allowed() -> None:
    assert limited(64, 1024, 32) == ["292"]
    assert limited(64, 256, 32) == ["256"]
    assert limited(512, 1024, 32) == ["512"]


def test_too_few_are_named_with_the_cure() -> None:
    (sentence, _) = limited(64, 128, 100)
    assert sentence == "--concurrency 100 needs 200 open files and the system allows 128: lower it, or raise the limit (ulimit -n)"
