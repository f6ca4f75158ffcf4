"""A study's page: ranks and effects first, nothing claimed that the record does not hold, and names that stay text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.report.page import write_study_page
from safemt_api.report.study_tables import safest_sentence
from safemt_api.studies.arms import Arm, Study
from safemt_api.studies.measurement import measure_study
from safemt_api.studies.record import ArmState, Board, Place, StudyRecord

MakeRun = Callable[..., Path]


def change(file: Path, **facts: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


@pytest.fixture
def measured(make_run: MakeRun) -> tuple[Path, StudyRecord]:
    for name, base in (("plain", 0.6), ("guarded", 0.05), ("other", 0.3)):
        made = make_run(f"paper/{name}", base=base, step=0.02, seed=4, ids_each=6)
        change(made / "run.json", settings={"max_failures": 0.5}, identity={"system": f"as {name}"})
    arms = (Arm("plain"), Arm("guarded", {}, "plain"), Arm("other", {}, "plain"), Arm("gone", {}, "plain"))
    states = {"gone": ArmState("left out", "<script>closed</script>")}
    return made.parent, measure_study(made.parent, Study("paper", arms), states, resamples=300)


def section_of(html: str, key: str) -> str:
    found = re.search(rf'<section id="{key}".*?</section>', html, re.DOTALL)
    return found[0] if found else ""


def test_ranks_and_effects_stand_first_as_the_record_has_them(measured: tuple[Path, StudyRecord]) -> None:
    folder, record = measured
    page = write_study_page(folder, record, charts=False)
    assert page == folder / "report.html"
    html = page.read_text(encoding="utf-8")
    order = [html.index(f'<section id="{key}"') for key in ("study", "effects", "scores", "transcripts")]
    assert order == sorted(order)
    ranks, effects = section_of(html, "study"), section_of(html, "effects")
    for row in record.leaderboard[0].rows:
        span = str(row.best) if row.best == row.worst else f"{row.best}–{row.worst}"
        assert f">{row.rank} ({span})<svg" in ranks
        assert f"{row.safety_index.value:.3f}" in ranks
    for effect in record.effects[:2]:
        assert effect.asr is not None
        assert f"{100 * (effect.asr.difference.value or 0):+.1f}" in effects
        assert f'data-sort="{effect.prevented}"' in effects
    assert "<h1>paper</h1>" in html


def test_arms_that_differ_on_purpose_are_not_called_incomparable(measured: tuple[Path, StudyRecord]) -> None:
    folder, record = measured
    html = write_study_page(folder, record, charts=False).read_text(encoding="utf-8")
    assert "Not comparable" not in html
    assert "do not compare" not in html


def test_what_is_left_out_is_said_and_stays_text(measured: tuple[Path, StudyRecord]) -> None:
    folder, record = measured
    html = write_study_page(folder, record, charts=False).read_text(encoding="utf-8")
    assert "Left out: gone (&lt;script&gt;closed&lt;/script&gt;)." in html
    assert "<script>closed" not in html


def test_every_effect_has_its_chart(measured: tuple[Path, StudyRecord]) -> None:
    pytest.importorskip("vl_convert")
    folder, record = measured
    html = write_study_page(folder, record).read_text(encoding="utf-8")
    assert section_of(html, "effects").count('class="chart') == 2


def test_a_study_of_which_nothing_was_played_has_a_page(tmp_path: Path) -> None:
    record = measure_study(tmp_path, Study("paper", (Arm("a"), Arm("b", {}, "a"))), {}, resamples=10)
    html = write_study_page(tmp_path, record).read_text(encoding="utf-8")
    assert "Left out: a (nothing of it was played)." in html
    assert '<section id="study"' not in html


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([(1, 1, 1), (2, 2, 3), (3, 2, 3)], "By Safety Index, a is the safest of 3 arms (0.900)."),
        ([(1, 1, 2), (2, 1, 2), (3, 3, 3)], "The data do not tell which of 2 arms is the safest: a, b."),
        ([(1, 1, 1)], ""),
        ([(None, None, None)] * 2, ""),
    ],
)
def test_an_arm_is_called_the_safest_only_where_the_data_say_so(places: list[tuple[int | None, ...]], said: str) -> None:
    rows = tuple(
        Place(arm=name, rank=rank, best=best, worst=worst, safety_index={"value": 0.9})
        for name, (rank, best, worst) in zip("abc", places, strict=False)
    )
    assert safest_sentence(Board(protocol="scripted", judge="rules", rows=rows)) == said
