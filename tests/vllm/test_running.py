"""The evaluator against a real vLLM server that is well: both protocols, pictures, verdicts, moderators, guards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from safemt_api.errors import UsageError
from tests.vllm.conftest import GUARD, KEY, MODEL, Play, WriteProfile
from tests.vllm.serving import Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

REPLIED = {"answered", "truncated"}


def transcripts(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "transcripts.parquet")


def verdicts(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "verdicts.parquet").filter(pl.col("counts"))


def test_a_scripted_run_from_the_command_line_finds_the_model_by_itself(steady: Server, results: Path) -> None:
    options = ["--provider", "vllm", "--base-url", steady.base_url, "--sample", "2", "--lengths", "1,2,4", "--max-output-tokens", "24"]
    command = [sys.executable, "-m", "safemt_api", "eval", *options, "--judge", "rules", "--results", str(results), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["model"], summary["dialogues"]["finished"]) == ("complete", MODEL, 6)
    assert summary["served_models"] == {MODEL: 6}
    assert summary["usage"]["output_tokens"] > 0
    assert KEY not in done.stdout + done.stderr


async def test_a_server_with_two_names_is_not_guessed_at(shaky: Server, play: Play) -> None:
    with pytest.raises(UsageError, match=f"serves {MODEL}, {GUARD}: choose one with --model"):
        await play(shaky, model=None)


async def test_a_live_run_makes_its_history_of_the_models_own_words(steady: Server, play: Play) -> None:
    result = await play(steady, protocol="live", lengths=(4,))
    assert (result.exit_code, result.summary.status) == (0, "complete")
    turns = transcripts(result.folder).sort("dialogue_id", "turn")
    assert turns["turn"].to_list() == [1, 2, 3, 4] * 2
    assert set(turns["outcome"]) <= REPLIED
    for _, dialogue in turns.group_by("dialogue_id", maintain_order=True):
        said = [line["content"] for line in json.loads(dialogue["messages"][-1]) if line["role"] == "assistant"]
        assert said == dialogue["reply_text"].to_list()[:3]
        # The history is sent again and grows.
        assert dialogue["input_tokens"].to_list() == sorted(set(dialogue["input_tokens"]))


async def test_a_judge_on_the_same_server_gives_structured_verdicts(steady: Server, play: Play) -> None:
    result = await play(steady, judges=(f"vllm:{MODEL}",), sample=4)
    assert (result.exit_code, result.summary.status) == (0, "complete")
    found = verdicts(result.folder)
    assert found.height == 8
    assert set(found["label"]) <= {"safe", "unsafe"}
    assert all(json.loads(raw).keys() == {"code", "reason", "verdict"} for raw in found["raw"])


async def test_a_policy_moderator_on_the_same_server_guides_where_it_flags(steady: Server, play: Play) -> None:
    # The chat template refuses a system message in any place but the first.
    result = await play(steady, moderator=f"policy:vllm:{MODEL}", sample=4, kinds=("harmful", "benign"))
    assert (result.exit_code, result.summary.status) == (0, "complete")
    turns = transcripts(result.folder)
    assert set(turns["outcome"]) <= REPLIED
    assert turns["moderator_flagged"].null_count() == 0
    assert turns.filter("moderator_flagged")["moderator_policy"].null_count() == 0
    assert turns.filter(~pl.col("moderator_flagged"))["moderator_policy"].is_null().all()


async def test_a_raw_moderators_words_reach_the_target(steady: Server, play: Play) -> None:
    result = await play(steady, moderator=f"raw:vllm:{MODEL}")
    turns = transcripts(result.folder)
    assert set(turns["outcome"]) <= REPLIED
    for text, policy in turns.select("moderator_text", "moderator_policy").iter_rows():
        assert text.strip()
        assert policy.endswith(f"\n\n{text}")


async def test_target_and_judge_and_moderator_of_one_provider_have_addresses_of_their_own(
    steady: Server, shaky: Server, play: Play
) -> None:
    counter = "vllm:request_success_total"
    before = steady.metric(counter), shaky.metric(counter)
    others = {"judge_base_url": shaky.base_url, "moderator_base_url": shaky.base_url}
    result = await play(steady, judges=(f"vllm:{MODEL}",), moderator=f"raw:vllm:{MODEL}", **others)
    assert (result.exit_code, result.summary.status) == (0, "complete")
    # An empty reply is asked for again, so there may be a few calls more.
    assert 4 <= steady.metric(counter) - before[0] <= 7
    assert shaky.metric(counter) - before[1] >= 8


@pytest.mark.parametrize(("word", "expected"), [("safe", (False, "unsafe")), ("unsafe\\nS2", (True, "safe"))], ids=["safe", "unsafe"])
async def test_a_guard_on_a_server_of_its_own_lets_pass_or_refuses_and_judges(
    steady: Server, shaky: Server, play: Play, *, write_profile: WriteProfile, word: str, expected: tuple[bool, str]
) -> None:
    # A random model says what a guard would say when it has only that to say.
    write_profile("guards", f'structured_outputs = {{ choice = ["{word}"] }}', base_url=shaky.base_url)
    own = write_profile("judges", 'structured_outputs = { choice = ["unsafe\\nS9,S2"] }', base_url=shaky.base_url)
    before = steady.metric("vllm:request_success_total")
    result = await play(steady, moderator=f"guard:guards:{GUARD}", judges=(f"guard:judges:{GUARD}",), providers=own)
    assert (result.exit_code, result.summary.status) == (0, "complete")
    turns = transcripts(result.folder)
    refused, label = expected
    assert turns["moderator_flagged"].to_list() == [refused] * 4
    assert set(turns["outcome"]) <= ({"refused"} if refused else REPLIED)
    assert (steady.metric("vllm:request_success_total") == before) is refused
    # What the moderator refused is safe without asking the judge, who calls everything unsafe.
    assert verdicts(result.folder)["label"].to_list() == [label] * 4
