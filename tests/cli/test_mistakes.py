"""What a user may type wrong: each is one sentence and exit code 2, and nothing is sent or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
EVAL = ("eval", "--lengths", "1", "--sample", "1")
NOBODY = "http://127.0.0.1:9/v1"


def refused(cli: Cli, *words: str) -> str:
    """What the command line says of the mistake."""
    said = cli(*words)
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert not Path("results").exists()
    return str(said.err)


@pytest.mark.parametrize(
    "words",
    [
        (*EVAL, "--model", "sim-safe", "--model", "sim-brittle"),
        (*EVAL, "--seed", "1", "--seed", "1"),
        (*EVAL, "--rpm", "9", "--requests-per-minute", "9"),
        ("defend", "--moderator", "a", "--provider", "x", "--provider", "y"),
        ("resume", "r", "--max-usd", "1", "--max-usd", "2"),
        ("judge", "r", "--judge", "rules", "--rubric", "a", "--rubric", "b"),
        ("judge", "label", "r", "-n", "3", "--rows", "4"),
        ("report", "r", "--output", "a", "--output", "b"),
        ("compare", "a", "b", "--seed", "1", "--seed", "2"),
        ("export", "r", "--to", "csv", "--to", "jsonl"),
        ("data", "fetch", "--revision", "a", "--revision", "b"),
        ("providers", "show", "openai", "--providers", "a", "--providers", "b"),
        ("simulate", "--port", "1", "--port", "2"),
    ],
    ids=" ".join,
)
def test_an_option_that_takes_one_value_may_be_given_once(cli: Cli, words: tuple[str, ...]) -> None:
    assert "was given 2 times, and takes one value" in refused(cli, *words)


@pytest.mark.parametrize("option", ["--judge", "--scenario", "--base-url"])
def test_the_same_value_twice_is_said(cli: Cli, option: str) -> None:
    assert f"{option} 'same' was given twice" in refused(cli, *EVAL, option, "same", option, "same")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("evl",), "eval"),
        ((*EVAL, "--modle", "x"), "--model"),
        (("data", "chek"), "check"),
        (("judge", "lable", "r"), "label"),
        ((*EVAL, "--provider", "opnai"), "(did you mean 'openai'?)"),
        ((*EVAL, "--model", "sim-averge"), "(did you mean 'sim-average'?)"),
        ((*EVAL, "--provider", "simulator-google", "--model", "sim-brittel"), "(did you mean 'sim-brittle'?)"),
        ((*EVAL, "--judge", "simulator:sim-jugde"), "(did you mean 'sim-judge'?)"),
        ((*EVAL, "--judge", "rules", "--moderator", "policy:simulator:sim-moderater"), "(did you mean 'sim-moderator'?)"),
        ((*EVAL, "--scenario", "Frad"), "(did you mean 'Fraud'?)"),
        ((*EVAL, "--fault", "resett:0.1"), "(did you mean 'reset'?)"),
        (("defend", "--moderator", "simulator:sim-modrator", *EVAL[1:]), "(did you mean 'sim-moderator'?)"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_what_nobody_knows_is_answered_with_what_was_meant(cli: Cli, words: tuple[str, ...], meant: str) -> None:
    assert meant in refused(cli, *words)


def test_a_run_is_meant_by_a_name_close_to_its_own(cli: Cli) -> None:
    assert cli(*EVAL, "--run", "first").code == 0
    assert "(did you mean 'first'?)" in cli("resume", "frist").err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--base-url", NOBODY, "--fault", "reset:0.1"), "--fault"),
        (("--base-url", NOBODY, "--sim-seed", "3"), "--sim-seed"),
        (("--base-url", NOBODY, "--sim-latency-seconds", "1"), "--sim-latency-seconds"),
        (("--provider", "openai", "--fault", "reset:0.1"), "--fault"),
        (("--judge-base-url", NOBODY), "--judge-base-url"),
        (("--judge-fallback", "simulator:sim-judge"), "--judge-fallback"),
        (("--rubric", "rubric.md"), "--rubric"),
        (("--rubric", "rubric.md", "--judge", "guard:simulator:sim-guard"), "--rubric"),
        (("--policies", "policies"), "--policies"),
        (("--policies", "policies", "--moderator", "raw:simulator:sim-raw-moderator"), "--policies"),
        (("--moderator-base-url", NOBODY), "--moderator-base-url"),
        (("--moderator-failure", "open"), "--moderator-failure"),
        (("--moderator", "none", "--moderator-failure", "open"), "--moderator-failure"),
        (("--kinds", "benign", "--until-ci", "0.1"), "--until-ci"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_an_option_without_effect_is_refused(cli: Cli, words: tuple[str, ...], option: str) -> None:
    assert f"{option} has no effect here: " in refused(cli, *EVAL, *words)


def test_a_defence_refuses_policies_only_where_no_arm_reads_them(cli: Cli, tmp_path: Path) -> None:
    words = ("defend", *EVAL[1:], "--policies", str(tmp_path), "--dry-run", "--moderator", "raw:simulator:sim-raw-moderator")
    assert "--policies has no effect here" in refused(cli, *words)
    assert "--policies has no effect" not in cli(*words, "--moderator", "policy:simulator:sim-moderator").err


def test_a_report_without_pictures_needs_no_place_for_them(cli: Cli) -> None:
    assert "--no-images" in refused(cli, "report", "r", "--no-images", "--data", "x")


@pytest.mark.parametrize(
    "words",
    [
        (*EVAL, "--base-url", "http://[::1/v1"),
        ("eval", "--lengths", "one"),
        ("providers", "check", "vllm", "--base-url", "http://[::1/v1"),
        ("simulate", "--port", "99999"),
        ("simulate", "--rpm", "nan"),
        ("simulate", "--rpm", "inf"),
        ("simulate", "--max-seconds", "nan"),
        ("simulate", "--latency-seconds", "nan"),
        ("simulate", "--seed", "9" * 30),
        ("compare", "a", "b", "--seed", "-1"),
        ("judge", "label", "r", "-n", "0"),
        ("judge", "label", "r", "-n", "9" * 30),
        *(
            (*EVAL, option, value)
            for option in ("--max-usd", "--rpm", "--temperature", "--stall-seconds")
            for value in ("nan", "inf", "-1")
        ),
        *((*EVAL, option, "9" * 30) for option in ("--concurrency", "--max-output-tokens", "--seed", "--lengths", "--total-seconds")),
    ],
    ids=" ".join,
)
def test_a_number_or_an_address_that_makes_no_sense_is_a_mistake_and_no_defect(cli: Cli, words: tuple[str, ...]) -> None:
    said = refused(cli, *words)
    assert "defect" not in said
