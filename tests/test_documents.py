"""What README.md and docs/ show is what the program prints: each page is run from top to bottom in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, ROOT, as_printed, run, steps


def test_a_gap_stands_for_any_lines_and_for_nothing_else() -> None:
    assert as_printed("one\n…\nfour\n", "one\ntwo\nthree\nfour\n")
    assert as_printed("…\nfour\n", "four\n")
    assert not as_printed("one\n…\nfour\n", "one\ntwo\nfive\n")
    assert not as_printed("one\n", "one\ntwo\n")


def test_seconds_and_ports_may_differ_but_nothing_else() -> None:
    assert as_printed("Time 0.6 s at 127.0.0.1:80\n", "Time 12.1 s at 127.0.0.1:4711\n")
    assert not as_printed("ASR 2.9%\n", "ASR 2.8%\n")


def test_steps_know_where_their_output_stands(tmp_path: Path) -> None:
    page = "```console\n$ one \\\n  two\nsaid\n$ three\n```\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n"
    found = list(steps(page, tmp_path))
    assert [step.command for step in found] == ["one \\\n  two", "three", "python"]
    assert [page[step.start : step.end] for step in found] == [step.printed for step in found] == ["said\n", "", "1\n"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_prints_what_it_shows(document: Path, tmp_path: Path) -> None:
    for step in steps(document.read_text(encoding="utf-8"), tmp_path):
        printed = run(step, tmp_path)
        assert as_printed(step.printed, printed), f"{step.command} printed:\n{printed}\nrun `make figures` if that is right"
