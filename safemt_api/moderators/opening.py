"""From what ``--moderator`` was given to a moderator."""

from __future__ import annotations

from pathlib import Path

from safemt_api.errors import UsageError
from safemt_api.judges.endpoints import MODERATION_MODELS, moderation_route
from safemt_api.judges.guards import format_of
from safemt_api.judges.opening import Resolve, split_model, with_default_model
from safemt_api.messages import Asker
from safemt_api.moderators.base import FAILURE_POLICIES, FailurePolicy, Moderator, Reviewer, WithFailurePolicy
from safemt_api.moderators.chat import PolicyModerator, RawModerator
from safemt_api.moderators.gates import GuardModerator, ModerationModerator
from safemt_api.moderators.library import load_policies

NO_MODERATOR = "none"
MODERATOR_FORMS = "none, policy:PROVIDER:MODEL (or PROVIDER:MODEL), raw:PROVIDER:MODEL, guard:PROVIDER:MODEL, moderation:openai"
OPTION = "--moderator"


def open_moderator(
    spec: str | None,
    *,
    asker: Asker,
    resolve: Resolve,
    policies: Path | None = None,
    failure: str = "fail",
) -> Moderator | None:
    """The moderator, or ``None`` for ``none``.

    Args:
        spec: What ``--moderator`` was given.
        asker: The gateway.
        resolve: Finds route and profile of ``PROVIDER:MODEL``.
        policies: A folder that replaces the shipped policy library.
        failure: What ``--moderator-failure`` was given.

    Raises:
        UsageError: The spec is of no known form or names what does not exist, the failure policy is unknown, or the library is unusable.
    """
    given = (spec or NO_MODERATOR).strip()
    on_failure = _failure_policy(failure)
    if given == NO_MODERATOR:
        return None
    return WithFailurePolicy(_reviewer(given, asker, resolve, policies), on_failure)


def _failure_policy(failure: str) -> FailurePolicy:
    for known in FAILURE_POLICIES:
        if failure == known:
            return known
    raise UsageError(f"--moderator-failure {failure!r}: it takes one of: {', '.join(FAILURE_POLICIES)}")


def _reviewer(spec: str, asker: Asker, resolve: Resolve, policies: Path | None) -> Reviewer:
    kind, _, rest = spec.partition(":")
    if kind == "moderation":
        route, _ = resolve(with_default_model(rest, MODERATION_MODELS, OPTION, spec))
        return ModerationModerator(spec, moderation_route(route), asker)
    named = rest if kind in {"policy", "raw", "guard"} else spec
    split_model(named, OPTION, MODERATOR_FORMS)
    route, profile = resolve(named)
    if kind == "guard":
        format_of(route.model)
        return GuardModerator(spec, route, profile, asker)
    if kind == "raw":
        return RawModerator(spec, route, profile, asker)
    return PolicyModerator(spec, route, profile, asker, load_policies(policies))
