"""From specs to moderators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.messages import FailurePolicy
from safemt_api.moderators.opening import open_moderator, read_moderator


@pytest.mark.parametrize("spec", [None, "none", " none ", ""])
def test_none_opens_nothing(scripted: Any, resolve: Any, spec: str | None) -> None:
    assert read_moderator(spec) is None
    assert open_moderator(None, asker=scripted(["x"]), resolve=resolve) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gpt", "raw:PROVIDER:MODEL"),
        ("policy:openai", "write it as policy:PROVIDER:MODEL"),
        ("raw:", "write it as raw:PROVIDER:MODEL"),
        ("guard:openai:gpt-6", "of no known kind"),
        ("moderation:", "write it as moderation:openai"),
        ("moderation:vllm", "names no model: write it as moderation:PROVIDER:MODEL; models are known for: openai"),
        ("nobody:m", "no provider called 'nobody'"),
    ],
)
def test_a_bad_spec_says_what_would_be_right(scripted: Any, resolve: Any, spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_moderator(read_moderator(spec), asker=scripted(["x"]), resolve=resolve)


def test_the_digest_follows_spec_library_and_failure_policy(scripted: Any, resolve: Any, policies: Path) -> None:
    def digest(spec: str = "openai:any", folder: Path | None = policies, failure: FailurePolicy = "fail") -> str:
        moderator = open_moderator(read_moderator(spec), asker=scripted(["x"]), resolve=resolve, policies=folder, failure=failure)
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
