"""What a row and a share of refusals say, and in which order they are counted."""

from __future__ import annotations

from safemt_api.limits.refusals import LEAST_TRIAL_CALLS, TRIAL_CALLS, RefusalShare, Sent, Sequence, Trial


def test_a_row_is_the_less_likely_by_chance_the_fewer_calls_were_refused_before() -> None:
    clean, noisy = RefusalShare(), RefusalShare()
    for _ in range(20):
        clean.count(answered=3)
        noisy.count(refused=1, answered=2)
    assert clean.chance(2) < 0.001 < noisy.chance(4)
    assert clean.probes() == 1 < noisy.probes()


def test_outcomes_are_counted_in_the_order_in_which_the_calls_went_out() -> None:
    sequence = Sequence()
    calls = [Sent(0.01 * number) for number in range(4)]
    for call in calls:
        sequence.append(call)
    sequence.refused(0.05, calls[3], 0.0)
    assert list(sequence.decided(0.05)) == []
    # Refusals take 0.02 s here: what is out for much longer has been let through.
    assert [call.outcome for call in sequence.decided(0.12)] == ["answered", "answered", "answered", "refused"]
    calls[0].outcome = "answered"
    assert list(sequence.decided(5.0)) == []


def test_before_any_refusal_nothing_is_taken_for_let_through() -> None:
    sequence = Sequence()
    sequence.append(Sent(0.0))
    assert list(sequence.decided(600.0)) == []


def tried(trial: Trial, *, refused: int, answered: int) -> Trial:
    for number in range(refused + answered):
        trial.count(refused=number < refused)
    return trial


def test_a_share_that_goes_away_was_a_quota() -> None:
    assert tried(Trial(None, 12, 28), refused=0, answered=15).verdict() == "cured"


def test_a_share_that_stays_is_chance_only_after_a_second_stage() -> None:
    trial = tried(Trial(None, 12, 28), refused=5, answered=10)
    assert trial.verdict() == "slower"
    trial.next_stage()
    assert tried(trial, refused=5, answered=10).verdict() == "chance"


def test_nothing_is_decided_by_a_few_calls() -> None:
    assert tried(Trial(None, 12, 28), refused=LEAST_TRIAL_CALLS - 1, answered=0).verdict() is None


def test_a_trial_that_leans_either_way_ends_by_the_likelier() -> None:
    assert tried(Trial(None, 4, 76), refused=3, answered=TRIAL_CALLS - 3).verdict() == "cured"
    assert tried(Trial(None, 8, 72, stages=1), refused=9, answered=TRIAL_CALLS - 9).verdict() == "chance"
