"""From specs to moderators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.moderators.opening import open_moderator


@pytest.mark.parametrize("spec", [None, "none", " none ", ""])
def test_none_opens_nothing(scripted: Any, resolve: Any, spec: str | None) -> None:
    assert open_moderator(spec, asker=scripted(["x"]), resolve=resolve) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gpt", "raw:PROVIDER:MODEL"),
        ("policy:openai", "raw:PROVIDER:MODEL"),
        ("raw:", "raw:PROVIDER:MODEL"),
        ("guard:openai:gpt-6", "of no known kind"),
        ("moderation:", "name the model too"),
        ("nobody:m", "no provider called 'nobody'"),
    ],
)
def test_a_bad_spec_says_what_would_be_right(scripted: Any, resolve: Any, spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_moderator(spec, asker=scripted(["x"]), resolve=resolve)


def test_an_unknown_failure_policy_lists_the_known_ones_even_without_a_moderator(scripted: Any, resolve: Any) -> None:
    with pytest.raises(UsageError, match="fail, open, closed"):
        open_moderator("none", asker=scripted(["x"]), resolve=resolve, failure="ignore")


def test_the_digest_follows_spec_library_and_failure_policy(scripted: Any, resolve: Any, policies: Path) -> None:
    def digest(spec: str = "openai:any", folder: Path | None = policies, failure: str = "fail") -> str:
        moderator = open_moderator(spec, asker=scripted(["x"]), resolve=resolve, policies=folder, failure=failure)
        assert moderator is not None
        return moderator.digest

    assert digest() == digest()
    kinds = [
        digest(),
        digest("openai:other"),
        digest("raw:openai:any"),
        digest("guard:openai:llama-guard-4"),
        digest("moderation:openai"),
        digest(folder=None),
        digest(failure="open"),
        digest(failure="closed"),
    ]
    (policies / "fraud.md").write_text("Another.", encoding="utf-8")
    kinds.append(digest())
    assert len(set(kinds)) == len(kinds)
