"""From what ``--moderator`` was given to a moderator. A new kind is a file of its own and a word in ``MODERATORS``."""

from __future__ import annotations

from pathlib import Path

from safemt_api.messages import Asker, FailurePolicy
from safemt_api.moderators.base import Means, Moderator, ModeratorKind
from safemt_api.moderators.chat import POLICY, RAW
from safemt_api.moderators.gates import GUARD, MODERATION
from safemt_api.routes import Resolve
from safemt_api.specs import NONE, Grammar, Spec

NOBODY = ModeratorKind(name=NONE, form=NONE, alone=True, open=None)
MODERATORS = Grammar("--moderator", {kind.name: kind for kind in (NOBODY, POLICY, RAW, GUARD, MODERATION)}, POLICY.name)


def read_moderator(given: str | None) -> Spec | None:
    """The spec of what ``--moderator`` was given; ``None`` for ``none`` and nothing.

    Raises:
        UsageError: It is of no known form.
    """
    if given is None or not given.strip():
        return None
    spec = MODERATORS.read(given)
    return None if spec.kind == NONE else spec


def open_moderator(
    spec: Spec | None, *, asker: Asker, resolve: Resolve, policies: Path | None = None, failure: FailurePolicy = "fail"
) -> Moderator | None:
    """The moderator, or ``None`` where there is to be none.

    Args:
        spec: Who moderates.
        asker: The gateway.
        resolve: Finds route and profile of its model.
        policies: A folder that replaces the shipped policy library.
        failure: What its failure means for a dialogue.

    Raises:
        UsageError: Its model cannot moderate, its provider does not exist, or the library is unusable.
    """
    opener = None if spec is None else MODERATORS.kind(spec).open
    if spec is None or opener is None:
        return None
    return opener(spec, Means(asker, resolve, policies, failure))
