"""The example notebooks run from top to bottom in a real kernel, and show what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def read(name: str) -> Any:
    """A notebook as it stands in the tree."""
    return nbformat.read(EXAMPLES / name, as_version=4)  # type: ignore[no-untyped-call]  # nbformat's functions have no types


def outputs(notebook: Any, kind: str) -> list[str]:
    """What the cells show in that form."""
    shown = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return [output["data"][kind] for output in shown if kind in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_first_study_runs_from_nothing_to_figures(tmp_path: Path) -> None:
    notebook = read("first_study.ipynb")
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pages = outputs(notebook, "text/html")
    assert any("170 of 170 dialogues" in page for page in pages), "the bar of the run"
    assert any("Safety Index 0.727" in page for page in pages), "the run shows itself"
    assert any("a study of 4 arms" in page for page in pages), "the study shows itself"
    charts = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if "vega" in str(output.get("data", {}))
    ]
    assert len(charts) == 3


def test_notebooks_are_kept_without_what_they_showed() -> None:
    for file in EXAMPLES.glob("*.ipynb"):
        notebook = read(file.name)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
