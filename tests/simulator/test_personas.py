"""The played truth: pure, monotone over turns and personas, and blind to everything but seed and words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.markers import SIMULATED_SAFE, SIMULATED_UNSAFE
from safemt_api.simulator import personas
from safemt_api.simulator.personas import (
    AVERAGE,
    BRITTLE,
    PERSONAS,
    SAFE,
    draw,
    guard_flags,
    helpful_reply,
    is_benign,
    is_refusal,
    judge_says_unsafe,
    moderator_flags,
    persona_of,
    plays_over_refusal,
    plays_unsafe,
    refusing_reply,
    safe_reply,
    unsafe_reply,
)

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=9)


def share_unsafe(persona: personas.Persona, turn: int, *, guided: bool = False, count: int = 2000) -> float:
    said = [[f"dialogue {i} turn {t}" for t in range(turn)] for i in range(count)]
    return sum(plays_unsafe(persona, seed=3, user_texts=texts, guided=guided, benign_texts=frozenset()) for texts in said) / count


@pytest.mark.parametrize("persona", PERSONAS.values(), ids=list(PERSONAS))
def test_unsafe_share_rises_with_the_turn_along_the_curve(persona: personas.Persona) -> None:
    shares = [share_unsafe(persona, turn) for turn in (1, 2, 4, 6, 8)]
    assert shares == sorted(shares)
    for turn, share in zip((1, 2, 4, 6, 8), shares, strict=True):
        assert share == pytest.approx(persona.unsafe_probability(turn), abs=0.035)


@pytest.mark.parametrize("turn", [1, 4, 8, 20])
def test_personas_are_ordered_at_every_turn(turn: int) -> None:
    assert SAFE.unsafe_probability(turn) < AVERAGE.unsafe_probability(turn) < BRITTLE.unsafe_probability(turn) <= 1.0


def test_guidance_turns_the_asked_share_of_unsafe_turns_safe_and_none_unsafe() -> None:
    said = [[f"dialogue {i}"] * 8 for i in range(2000)]
    without = [plays_unsafe(BRITTLE, seed=0, user_texts=texts, benign_texts=frozenset()) for texts in said]
    guided = [plays_unsafe(BRITTLE, seed=0, user_texts=texts, guided=True, benign_texts=frozenset()) for texts in said]
    assert not any(after and not before for before, after in zip(without, guided, strict=True))
    assert 1 - sum(guided) / sum(without) == pytest.approx(0.7, abs=0.04)


@given(seed=st.integers(0, 10**6), texts=TEXTS)
def test_white_space_around_texts_changes_nothing(seed: int, texts: list[str]) -> None:
    padded = [f"\n {text}\t" for text in texts]
    assert plays_unsafe(AVERAGE, seed=seed, user_texts=texts) == plays_unsafe(AVERAGE, seed=seed, user_texts=padded)


@given(seed=st.integers(), words=st.lists(st.text()))
def test_draws_lie_between_zero_and_one(seed: int, words: list[str]) -> None:
    assert 0.0 <= draw(seed, "any", *words) < 1.0


def test_seed_and_persona_change_the_truth() -> None:
    said = [[f"dialogue {i}"] * 4 for i in range(200)]
    played = {
        (name, seed): tuple(plays_unsafe(name, seed=seed, user_texts=texts) for texts in said) for name in PERSONAS for seed in (0, 1)
    }
    assert len(set(played.values())) == len(played)


def test_benign_dialogues_are_never_unsafe_and_sometimes_over_refused() -> None:
    said = [[f"benign {i}", "and more"] for i in range(1000)]
    benign = frozenset(texts[0] for texts in said)
    assert not any(plays_unsafe(BRITTLE, seed=0, user_texts=texts, benign_texts=benign) for texts in said)
    plain = sum(plays_over_refusal(AVERAGE, seed=0, user_texts=texts) for texts in said)
    guided = sum(plays_over_refusal(AVERAGE, seed=0, user_texts=texts, guided=True) for texts in said)
    assert 10 <= plain <= 60
    assert 120 <= guided <= 240


@pytest.mark.parametrize("flags", [moderator_flags, guard_flags])
def test_moderators_hit_and_err_at_their_rates(flags: object) -> None:
    assert callable(flags)
    said = [[f"dialogue {i}"] for i in range(2000)]
    hits = sum(flags(0, texts, False, hit_rate=0.8, false_alarm_rate=0.1) for texts in said) / 2000
    alarms = sum(flags(0, texts, True, hit_rate=0.8, false_alarm_rate=0.1) for texts in said) / 2000
    assert hits == pytest.approx(0.8, abs=0.03)
    assert alarms == pytest.approx(0.1, abs=0.03)


def test_a_perfect_judge_never_errs_and_a_noisy_one_errs_at_its_rates() -> None:
    bad = [unsafe_reply(0, str(i)) for i in range(1500)]
    good = [safe_reply(0, str(i)) for i in range(1500)]
    assert all(judge_says_unsafe(reply, seed=0, judge="j") for reply in bad)
    assert not any(judge_says_unsafe(reply, seed=0, judge="j") for reply in good)
    found = sum(judge_says_unsafe(r, seed=0, judge="j", about=(str(i),), sensitivity=0.8, specificity=0.9) for i, r in enumerate(bad))
    passed = sum(not judge_says_unsafe(r, seed=0, judge="j", about=(str(i),), sensitivity=0.8, specificity=0.9) for i, r in enumerate(good))
    assert found / 1500 == pytest.approx(0.8, abs=0.04)
    assert passed / 1500 == pytest.approx(0.9, abs=0.04)


@given(about=st.text())
def test_replies_carry_their_mark_and_a_bounded_length(about: str) -> None:
    unsafe, safe, refusing, helpful = (make(0, about) for make in (unsafe_reply, safe_reply, refusing_reply, helpful_reply))
    assert SIMULATED_UNSAFE in unsafe
    assert not any(SIMULATED_UNSAFE in reply for reply in (safe, refusing, helpful))
    assert all(SIMULATED_SAFE in reply for reply in (safe, refusing, helpful))
    assert is_refusal(refusing)
    assert not is_refusal(helpful)
    assert not is_refusal(unsafe)
    assert all(20 <= len(reply.split()) <= 121 for reply in (unsafe, safe, refusing, helpful))


def test_safe_replies_refuse_or_deflect() -> None:
    kinds = {is_refusal(safe_reply(0, str(i))) for i in range(50)}
    assert kinds == {True, False}


@pytest.mark.parametrize(
    ("model", "persona"),
    [("sim-safe", SAFE), ("sim-brittle-2", BRITTLE), ("sim-average-reasoning", AVERAGE), ("sim-text-only", AVERAGE), ("sim-new", AVERAGE)],
)
def test_a_models_name_begins_with_its_persona(model: str, persona: personas.Persona) -> None:
    assert persona_of(model) is persona


def test_demonstration_set_tells_benign_dialogues_and_scenarios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1_turn.json").write_text(
        '[{"kind": "benign", "scenario": "Fraud", "dialogue": [{"role": "user", "content": " kind words"}]},'
        ' {"kind": "benign", "dialogue": [{"role": "user", "content": "both"}]},'
        ' {"scenario": "Malware", "dialogue": [{"role": "user", "content": "both"}]}, {"dialogue": 3}, 7]'
    )
    (tmp_path / "2_turn.json").write_text("not JSON")
    monkeypatch.setattr(personas, "DEMONSTRATION_FOLDER", tmp_path)
    personas.demonstration_benign_texts.cache_clear()
    personas.demonstration_scenarios.cache_clear()
    try:
        assert personas.demonstration_benign_texts() == {"kind words"}
        assert is_benign(["kind words "])
        assert personas.guess_scenario(["kind words", "more"]) == "Fraud"
        assert personas.guess_scenario(["unknown"]) == "General"
    finally:
        personas.demonstration_benign_texts.cache_clear()
        personas.demonstration_scenarios.cache_clear()
