"""``canary``: a run asked afresh over real sockets, by a model that is the same and by one that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.cli.canary import identity_lines
from safemt_api.evaluation import evaluate
from safemt_api.runs.folder import settings_of
from safemt_api.runs.record import read_run
from safemt_api.studies.canary import Identity, canary, fresh_settings

Cli = Callable[..., Any]
RESULTS = Path("results")
NEW = f"a-canary-{date.today().isoformat()}"  # noqa: DTZ011 (the user's own date, as the command takes it)


@pytest.fixture
def run_a(cli: Cli) -> Cli:
    """A run ``a`` of a model that answers each asking otherwise."""
    given = ("--model", "sim-safe", "--seed-sampling", "5", "--lengths", "2,8", "--sample", "20", "--judge", "simulator:sim-judge")
    assert cli("eval", *given, "--run", "a").code == 0
    return cli


def serves_now(model: str) -> None:
    """Another model stands behind the name: the run file says that it was this one that was asked."""
    file = RESULTS / "a" / "run.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["settings"]["model"] = model
    file.write_text(json.dumps(record), encoding="utf-8")


def test_a_model_that_only_varies_is_not_called_changed(run_a: Cli) -> None:
    said = run_a("canary", "a", "--sample", "12", "--max-usd", "5")
    assert said.code == 0
    assert said.out.startswith("No change is shown beyond what repeated replies differ by (ASR ")
    assert "24 dialogues of 12 ids; 24 replies of before against 48 new ones" in " ".join(said.out.split())
    assert "Served model: sim-safe (40 replies) before, sim-safe (48 replies) now." in said.out
    assert "System fingerprint: not told before, not told now." in said.out
    new = read_run(RESULTS / NEW)
    assert new.summary.cost_usd.ceiling == 5
    # Nothing of before was taken for new; the judge's trial was.
    assert (new.summary.calls.sent, new.transcripts.filter("from_store").height) == (2 * 48, 0)
    assert set(new.transcripts["dialogue_id"]) <= set(read_run(RESULTS / "a").transcripts["dialogue_id"])
    assert "24 dialogues are asked 2 times each: that is expected to find a change of 21.2 points in ASR in 8 of 10 cases" in said.err
    assert "So many replies find a change of " in " ".join(said.out.split())
    again = run_a("canary", "a", "--sample", "12", "--max-usd", "5", "--json", "--exit-code")
    assert again.code == 0
    assert 0.01 < json.loads(again.out)["test"]["detectable"] < 0.5
    assert json.loads(again.out)["changed"] is False
    assert read_run(RESULTS / NEW).summary.calls.sent == 0


def test_another_model_behind_the_name_is_found(run_a: Cli) -> None:
    serves_now("sim-brittle")
    said = run_a("canary", "a", "--json")
    found = json.loads(said.out)
    assert found["others_answer"] == ["served_model"]
    # The same command goes on with the same replies; asked to, it tells the change by its exit code.
    telling = run_a("canary", "a", "--exit-code")
    assert telling.code == 5
    assert "By the vendor's own word another model answered now." in telling.out
    assert (said.code, found["changed"], found["canary"]) == (0, True, NEW)
    assert found["verdict"].startswith("Changed: less safe than before, beyond what repeated replies differ by (ASR ")
    assert found["test"]["change"]["ci_low"] > 0
    assert found["test"]["differs_between"] > found["test"]["differs_within"]
    assert (found["before"]["served_models"], found["now"]["served_models"]) == ({"sim-safe": 40}, {"sim-brittle": 80})


def test_a_run_with_repeats_knows_its_noise_and_is_asked_as_often_as_that_takes(cli: Cli) -> None:
    given = ("--model", "sim-average", "--seed-sampling", "5", "--lengths", "8", "--sample", "6", "--repeats", "3")
    assert cli("eval", *given, "--run", "a").code == 0
    found = json.loads(cli("canary", "a", "--json").out)
    assert (found["test"]["old_replies"], found["test"]["new_replies"], found["not_comparable"]) == (18, 24, [])


def test_no_two_days_share_a_reply_and_the_ceiling_is_the_canarys_own(run_a: Cli) -> None:
    settings, old = settings_of("a", RESULTS), read_run(RESULTS / "a")
    first, second = (fresh_settings(settings, old, sample=200, today=date(2026, 3, day), given={}) for day in (1, 2))
    assert first.repeats_from + first.repeats < second.repeats_from
    assert (first.sample, first.repeats, first.max_usd) == (20, 2, None)


def test_both_askings_are_two_arms_of_a_study(run_a: Cli) -> None:
    assert run_a("canary", "a", "--sample", "6", "--save", "again.toml").code == 0
    assert not (RESULTS / NEW).exists()
    said = run_a("study", "again.toml", "--json")
    record = json.loads(said.out)
    assert (said.code, record["study"], [arm["name"] for arm in record["arms"]]) == (0, NEW, ["before", "now"])
    # The replies of before come from the store; those of now are asked for.
    calls = [read_run(RESULTS / NEW / name).summary.calls for name in ("before", "now")]
    assert (calls[0].sent, calls[1].sent) == (0, 2 * 12)
    (effect,) = record["effects"]
    assert (effect["arm"], effect["reference"], effect["ids"]) == ("now", "before", 6)


async def test_the_same_from_python(cli: Cli, tmp_path: Path) -> None:
    await evaluate(model="sim-safe", seed_sampling=5, lengths=(8,), sample=6, run="p", results=tmp_path)
    found = await canary("p", sample=4, results=tmp_path)
    assert found.test is not None
    assert (found.test.changed(), found.test.ids, found.not_comparable) == (False, 4, ())
    assert found.now is not None
    assert (found.before.served_models, found.now.served_models) == ({"sim-safe": 6}, {"sim-safe": 8})


def test_a_dry_run_says_what_it_costs_and_what_it_finds_and_asks_nobody(run_a: Cli) -> None:
    said = run_a("canary", "a", "--dry-run")
    assert said.code == 0
    assert "Expected cost $0." in said.out
    assert "40 dialogues are asked 2 times each: that is expected to find a change of " in said.err
    more = run_a("canary", "a", "--dry-run", "--repeats", "6", "--json")
    assert "40 dialogues are asked 6 times each" in more.err
    assert json.loads(more.out)["dialogues"] == 240
    assert not (RESULTS / NEW).exists()


def test_where_nothing_can_be_said_json_says_so_and_the_exit_code_when_asked(cli: Cli) -> None:
    given = ("--model", "sim-safe", "--lengths", "1", "--sample", "2", "--kinds", "benign")
    assert cli("eval", *given, "--run", "a").code == 0
    said = cli("canary", "a", "--json", "--exit-code")
    found = json.loads(said.out)
    assert (said.code, found["changed"]) == (4, None)
    assert found["verdict"] == "no dialogue has a verdict both before and now, so nothing can be said"


def test_a_run_that_has_not_ended_is_refused(run_a: Cli) -> None:
    file = RESULTS / "a" / "run.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    summary = json.loads((RESULTS / "a" / "summary.json").read_text(encoding="utf-8")) | {"status": "interrupted"}
    (RESULTS / "a" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    file.write_text(json.dumps({**record, "files": {}}), encoding="utf-8")
    said = run_a("canary", "a")
    assert said.code == 2
    assert "a has not come to its end: `safemt-api resume a` goes on with it, and a canary comes after" in said.err
    assert not (RESULTS / NEW).exists()


def test_fingerprints_are_told_with_their_replies() -> None:
    lines = identity_lines(Identity({"m-1": 2}, {"fp_a": 2}), Identity({"m-1": 2}, {"fp_b": 1, "fp_a": 1}))
    assert lines == [
        "Served model: m-1 (2 replies) before, m-1 (2 replies) now.",
        "System fingerprint: fp_a (2 replies) before, fp_b (1 replies), fp_a (1 replies) now.",
    ]


def test_the_column_of_fingerprints_is_text(run_a: Cli) -> None:
    assert run_a("report", "a").code == 0
    assert read_run(RESULTS / "a").transcripts.schema["system_fingerprint"] == pl.String
