"""Faults on demand: which call or attempt goes wrong, and how; drawn from the seed, so that the same run fails the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.simulator.personas import draw

TRANSIENT_FAULTS: tuple[str, ...] = (
    "rate_limit",
    "rate_limit_retry_after",
    "error_500",
    "error_503",
    "overloaded_529",
    "reset",
    "stall",
    "malformed",
    "truncated_body",
    "error_in_200",
    "html",
    "empty",
    "daily_quota",
    "account_hold",
)
"""Drawn anew for every attempt: sending the same call again may succeed (the last two end a run, as an account's state does)."""

OUTCOME_FAULTS: tuple[str, ...] = (
    "content_filter",
    "prompt_blocked",
    "refusal",
    "filtered_reply",
    "refusal_beside_words",
    "truncated_reply",
    "too_long",
    "firewall",
    "unreadable_usage",
)
"""Drawn once for a conversation: the word on it, the same on every attempt and in every wire format. ``filtered_reply`` is cut off half-way
by the filter, ``refusal_beside_words`` leaves the whole reply beside the vendor's refusal, ``firewall`` is a 403 of something before it,
``unreadable_usage`` is a whole reply that tells its tokens in no way that can be read."""

FAULTS = TRANSIENT_FAULTS + OUTCOME_FAULTS


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault: a ``share`` of calls at random, or the ``first`` so many attempts of every call; on the models that match."""

    kind: str
    share: float = 0.0
    first: int = 0
    model: str = "*"

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise UsageError(f"no fault called {self.kind!r}{did_you_mean(self.kind, FAULTS)}; there are: {', '.join(FAULTS)}")
        if not 0.0 <= self.share <= 1.0:
            raise UsageError(f"the share of {self.kind} must lie between 0 and 1, not {self.share:g}")
        if self.first < 0:
            raise UsageError(f"the number of first attempts that fail with {self.kind} must not be negative")

    def __str__(self) -> str:
        where = "" if self.model == "*" else f"@{self.model}"
        return f"{self.kind}{where}:first={self.first}" if self.first else f"{self.kind}{where}:{self.share!r}"


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All faults of a simulator.

    ``retry_after_seconds`` is the wait that ``rate_limit_retry_after`` names; ``stall_seconds`` ends a stalled connection.
    Shares of one family (transient, outcome) exclude each other on one attempt and must not add up to more than 1 for a model.
    """

    faults: tuple[Fault, ...] = ()
    retry_after_seconds: float = 1.0
    stall_seconds: float = 60.0

    def __post_init__(self) -> None:
        for family in (TRANSIENT_FAULTS, OUTCOME_FAULTS):
            if sum(fault.share for fault in self.faults if fault.kind in family and fault.model == "*") > 1.0 + 1e-9:
                raise UsageError("the shares of the faults add up to more than 1; lower some of them")

    @classmethod
    def parse(cls, text: str, *, retry_after_seconds: float = 1.0, stall_seconds: float = 60.0) -> FaultPlan:
        """The plan written as ``KIND[@MODEL]:SHARE`` or ``KIND[@MODEL]:first=N``, separated by commas.

        Raises:
            UsageError: A kind is unknown or a number is no share.
        """
        faults = tuple(_parse_fault(item.strip()) for item in text.split(",") if item.strip())
        return cls(faults, retry_after_seconds=retry_after_seconds, stall_seconds=stall_seconds)

    def __str__(self) -> str:
        return ",".join(str(fault) for fault in self.faults)

    def scripted(self, *, model: str, attempt: int) -> str | None:
        """The fault that the script puts on this attempt (counted from 1), if any; scripts follow one another in the order given."""
        passed = 0
        for fault in self.faults:
            if fault.first and fnmatchcase(model, fault.model):
                passed += fault.first
                if attempt <= passed:
                    return fault.kind
        return None

    def transient(self, *, seed: int, model: str, body_digest: str, attempt: int) -> str | None:
        """The random fault of this attempt, if any."""
        return self._drawn(TRANSIENT_FAULTS, seed=seed, model=model, key=(body_digest, str(attempt)))

    def outcome(self, *, seed: int, model: str, user_texts: Sequence[str]) -> str | None:
        """The vendor's word on this conversation, if it is drawn; knows neither wire format nor attempt."""
        return self._drawn(OUTCOME_FAULTS, seed=seed, model=model, key=(model, *user_texts))

    def _drawn(self, family: tuple[str, ...], *, seed: int, model: str, key: tuple[str, ...]) -> str | None:
        candidates = [fault for fault in self.faults if fault.share and fault.kind in family and fnmatchcase(model, fault.model)]
        if not candidates:
            return None
        left = draw(seed, "fault", family[0], *key)
        for fault in candidates:
            left -= fault.share
            if left < 0.0:
                return fault.kind
        return None


NO_FAULTS = FaultPlan()


def _parse_fault(item: str) -> Fault:
    name, colon, amount = item.rpartition(":")
    kind, _, model = name.partition("@")
    try:
        if not colon:
            raise ValueError
        if amount.startswith("first="):
            return Fault(kind.strip(), first=int(amount.removeprefix("first=")), model=model or "*")
        return Fault(kind.strip(), share=float(amount), model=model or "*")
    except ValueError:
        raise UsageError(f"cannot read the fault {item!r}; write KIND:SHARE (error_500:0.1) or KIND:first=N (reset:first=2)") from None
