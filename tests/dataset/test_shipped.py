"""The demonstration set comes with the package; rooms that do not need Pillow do not load it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from safemt_api.dataset import shipped
from safemt_api.errors import UsageError


def test_the_folder_is_in_the_package_and_its_lack_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (shipped.demonstration_folder() / "1_turn.json").is_file()
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "shipped.py"))
    with pytest.raises(UsageError, match="missing from this installation"):
        shipped.demonstration_folder()


def test_light_modules_do_not_load_pillow() -> None:
    program = (
        "import sys, safemt_api.dataset, safemt_api.dataset.hub, safemt_api.dataset.shipped, safemt_api.dataset.elements;"
        "sys.exit('PIL' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=root).returncode == 0
