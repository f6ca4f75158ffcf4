"""The arms of a defence: names, addresses, settings, and one ceiling handed on from arm to arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.limits.budget import Ledger
from safemt_api.runs.defending import Arm, arm_settings, ceiling_left, ceiling_of, plan_arms
from safemt_api.runs.settings import EvalSettings
from safemt_api.store.turns import STORE_FILE, open_store

POLICY, GUARD = "policy:vllm:org/Chat-Model", "guard:vllm:org/Llama-Guard"


def test_the_undefended_arm_comes_first_and_names_are_fit_for_folders() -> None:
    arms = plan_arms("exp", [POLICY, GUARD])
    assert [(arm.run, arm.moderator, arm.title) for arm in arms] == [
        ("exp-none", None, "none"),
        ("exp-policy-vllm-org-Chat-Model", POLICY, POLICY),
        ("exp-guard-vllm-org-Llama-Guard", GUARD, GUARD),
    ]


def test_moderators_whose_names_would_be_one_folder_get_two() -> None:
    arms = plan_arms("exp", ["policy:a:b/c", "policy:a:b:c"])
    assert len({arm.run for arm in arms}) == 3


@pytest.mark.parametrize(
    ("urls", "expected"),
    [((), [None, None]), (("http://m/v1",), ["http://m/v1"] * 2), (("http://m/v1", "-"), ["http://m/v1", None])],
)
def test_moderators_share_an_address_or_have_one_each(urls: Sequence[str], expected: list[str | None]) -> None:
    undefended, *defended = plan_arms("exp", [POLICY, GUARD], urls)
    assert undefended.base_url is None
    assert [arm.base_url for arm in defended] == expected


def test_addresses_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="given 2 times for 3 moderators"):
        plan_arms("exp", [POLICY, GUARD, "moderation:openai"], ["http://a/v1", "http://b/v1"])


def test_an_arm_differs_in_its_moderator_alone_and_plays_both_kinds() -> None:
    settings = EvalSettings(model="m", run="exp", kinds=("harmful",), moderator="policy:x:y", max_usd=3.0)
    changed = arm_settings(settings, Arm("exp-none"))
    assert (changed.run, changed.moderator, changed.moderator_base_url) == ("exp-none", None, None)
    assert set(changed.kinds) == {"harmful", "benign"}
    assert (changed.model, changed.max_usd) == ("m", 3.0)


def test_what_one_arm_has_not_spent_is_left_to_the_next() -> None:
    committed = {"none": 2.0, "policy": 0.5, "guard": 0.0}
    assert ceiling_left(committed, run="guard", max_usd=4.0) == 1.5
    # An arm that goes on keeps what it has spent, and gets what is left on top.
    assert ceiling_left(committed, run="policy", max_usd=4.0) == 2.0
    assert ceiling_left(committed, run="none", max_usd=1.0) == 2.0


async def test_money_that_is_put_aside_counts_as_spent(tmp_path: Path) -> None:
    arms = plan_arms("exp", [GUARD])
    async with (
        open_store(tmp_path / STORE_FILE) as store,
        Ledger(store, run="exp-none", ceiling_usd=9.0).reserved(key="safemt2:k", purpose="target", most_usd=0.75),
    ):
        pass  # it ends without a word: the row stays open, as it does when a process is killed
    assert await ceiling_of(arms[1], arms, results=tmp_path, max_usd=1.0) == 0.25
    assert await ceiling_of(arms[0], arms, results=tmp_path, max_usd=1.0) == 1.0
