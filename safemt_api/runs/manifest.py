"""``run.json``: all settings of a run as it was planned, with versions and times; never a key.

What decides the numbers must be the same when a run goes on (``identity``); what only decides pace, money or display may differ.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safemt_api.errors import SettingsChangedError, StoreError

MANIFEST_FILE = "run.json"
SCHEMA = 1
VERSIONED_PACKAGES = ("safemt-api", "openai", "anthropic", "google-genai", "httpx2", "polars", "genai-prices")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a run."""
    found = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The run file of a folder, or ``None`` if the run is new.

    Raises:
        StoreError: The file is damaged or of a newer version.
    """
    file = folder / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(file, f"cannot be read as JSON ({error})", "restore it, or choose another --run") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("identity"), dict):
        raise StoreError(file, "is no run file", "restore it, or choose another --run")
    if not isinstance(manifest.get("schema"), int) or manifest["schema"] > SCHEMA:
        raise StoreError(file, "was written by a newer safemt-api", "upgrade safemt-api")
    return manifest


def check_same_run(run: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings.

    Raises:
        SettingsChangedError: Lists each difference as ``name: before → now``.
    """
    # Through JSON and back, so that tuples and lists compare equal.
    now = json.loads(json.dumps(now))
    names = sorted(before.keys() | now.keys())
    differences = [f"{name}: {_shown(before.get(name))} → {_shown(now.get(name))}" for name in names if before.get(name) != now.get(name)]
    if differences:
        raise SettingsChangedError(run, differences)


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
