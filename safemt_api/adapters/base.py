"""What every wire format offers: one call in, one reply out, with the vendor's pace hints beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from safemt_api.messages import Call, Parameters, Reply
from safemt_api.profiles import ParameterName, Profile

DEFAULT_MAX_OUTPUT_TOKENS = 1024
"""Sent where a wire format insists on a limit (anthropic_messages) and the call names none."""

SAMPLING: tuple[ParameterName, ...] = ("temperature", "top_p", "seed")

QuotaKind = Literal["requests", "tokens", "input_tokens", "output_tokens"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one call may take. Connect and idle belong to the HTTP layer; ``total_seconds`` is a scope of the gateway's.

    No wire format here streams, so ``idle_seconds`` bounds the wait for the whole reply, a reasoning model's thinking included.
    """

    connect_seconds: float = 10.0
    idle_seconds: float = 120.0
    total_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class QuotaHint:
    """One quota as a vendor's response header told it.

    ``window_seconds`` is the period that ``limit`` counts over (60 for a minute's quota, 86400 for a day's);
    ``reset_seconds`` is relative to now. Fields the vendor did not send are ``None``.
    """

    kind: QuotaKind
    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None
    window_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Received:
    """A reply with the quota hints of its headers (hints steer the pace; they are never stored)."""

    reply: Reply
    quotas: tuple[QuotaHint, ...] = field(default=())


class Adapter(Protocol):
    """One wire format bound to one address and key. Pure translation: no retry, no sleep, no cache."""

    async def send(self, call: Call) -> Received:
        """Send the call once.

        Raises:
            CallError: A ``TransientError`` or ``DialogueError``, translated from the SDK's exception.
            StopRunError: The account or the address as a whole is unusable.
        """
        ...


def requested_sampling(parameters: Parameters) -> dict[str, float]:
    """The sampling parameters that were asked for, by name (``None`` means: not asked for)."""
    return {name: value for name in SAMPLING if (value := getattr(parameters, name)) is not None}


def sent_sampling(profile: Profile, model: str, parameters: Parameters) -> dict[str, float]:
    """The sampling parameters that go out: asked for, and known to be taken by the model."""
    takes = profile.facts(model).takes
    return {name: value for name, value in requested_sampling(parameters).items() if name in takes}


def unsupported_parameters(profile: Profile, model: str, parameters: Parameters) -> tuple[str, ...]:
    """The parameters that were asked for and would not be sent; whoever starts a run refuses or announces them."""
    takes = profile.facts(model).takes
    return tuple(name for name in requested_sampling(parameters) if name not in takes)
