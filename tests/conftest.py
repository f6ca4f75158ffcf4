"""What every test gets: an environment without real keys, and asyncio as the loop unless a test asks for a virtual clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no defect: properties are checked without a stopwatch, and with the same examples for everyone.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

KEY_PARTS = ("_API_KEY", "_KEY", "_TOKEN", "SAFEMT_", "_BASE_URL", "_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test can see a real key, a proxy or the user's .env: they are removed, and the working directory is empty."""
    for name in list(os.environ):
        if any(part in name.upper() for part in KEY_PARTS) and not name.startswith(("SAFEMT_TEST_", "PYTEST_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def anyio_backend() -> str:
    """The loop that users run on."""
    return "asyncio"
