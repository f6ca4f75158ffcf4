"""All that shapes a simulator; the same settings play the same truth.

Faults come on demand: which call or attempt goes wrong, and how, is drawn from the seed, so that the same run fails the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

from pydantic import TypeAdapter, ValidationError

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.simulator.personas import PERSONAS, demonstration_benign_texts, draw

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

FLEX_FAULTS: tuple[str, ...] = ("flex_refusal", "flex_served_standard")
"""Drawn for every attempt that asks for the flex tier: there is no room (unbilled), or the standard tier serves it, at its price."""

BATCH_FAULTS: tuple[str, ...] = (
    "batch_stuck",
    "batch_expired",
    "batch_rejected",
    "file_rejected",
    "batch_hidden",
    "create_lost",
    "rows_twice",
    "rows_unknown",
    "results_cut",
    "results_gone",
)
"""Drawn once for a batch. ``batch_stuck`` gets half-way and then nowhere until it expires, ``batch_expired`` ends half-way,
``batch_rejected`` fails after it was created because too much is queued, ``file_rejected`` because a row is wrong, ``batch_hidden`` is
answered with 404 at first, ``create_lost`` breaks the connection after it was created; results come twice, hold an unknown id, break off at
the first reading, or were deleted."""

FAULTS = TRANSIENT_FAULTS + OUTCOME_FAULTS + FLEX_FAULTS + BATCH_FAULTS


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
        for family in (TRANSIENT_FAULTS, OUTCOME_FAULTS, FLEX_FAULTS, BATCH_FAULTS):
            if sum(fault.share for fault in self.faults if fault.kind in family and fault.model == "*") > 1.0 + 1e-9:
                raise UsageError("the shares of the faults add up to more than 1; lower some of them")

    @classmethod
    def parse(cls, text: str, *, retry_after_seconds: float = 1.0, stall_seconds: float = 60.0) -> FaultPlan:
        """The plan written as ``KIND[@MODEL]:SHARE`` or ``KIND[@MODEL]:first=N``, separated by commas.

        Raises:
            UsageError: A kind is unknown or a number is no share.
        """
        faults = []
        for item in filter(None, map(str.strip, text.split(","))):
            name, colon, amount = item.rpartition(":")
            kind, _, model = name.partition("@")
            try:
                if not colon:
                    raise ValueError
                if amount.startswith("first="):
                    fault = Fault(kind.strip(), first=int(amount.removeprefix("first=")), model=model or "*")
                else:
                    fault = Fault(kind.strip(), share=float(amount), model=model or "*")
            except ValueError:
                cure = "write KIND:SHARE (error_500:0.1) or KIND:first=N (reset:first=2)"
                raise UsageError(f"cannot read the fault {item!r}; {cure}") from None
            faults.append(fault)
        return cls(tuple(faults), retry_after_seconds=retry_after_seconds, stall_seconds=stall_seconds)

    def __str__(self) -> str:
        return ",".join(str(fault) for fault in self.faults)

    def scripted(self, *, model: str, attempt: int, family: tuple[str, ...] = TRANSIENT_FAULTS + OUTCOME_FAULTS) -> str | None:
        """The fault that the script puts on this attempt (counted from 1), if any; scripts follow one another in the order given."""
        passed = 0
        for fault in self.faults:
            if fault.first and fault.kind in family and fnmatchcase(model, fault.model):
                passed += fault.first
                if attempt <= passed:
                    return fault.kind
        return None

    def transient(self, *, seed: int, model: str, body_digest: str, attempt: int) -> str | None:
        """The random fault of this attempt, if any."""
        return self._drawn(TRANSIENT_FAULTS, seed=seed, model=model, key=(body_digest, str(attempt)))

    def flex(self, *, seed: int, model: str, body_digest: str, attempt: int) -> str | None:
        """What happens to an attempt for being asked in the flex tier, if anything."""
        scripted = self.scripted(model=model, attempt=attempt, family=FLEX_FAULTS)
        return scripted or self._drawn(FLEX_FAULTS, seed=seed, model=model, key=(body_digest, str(attempt)))

    def batch(self, *, seed: int, model: str, number: int) -> str | None:
        """What goes wrong with the batch of this number (counted from 1), if anything."""
        scripted = self.scripted(model=model, attempt=number, family=BATCH_FAULTS)
        return scripted or self._drawn(BATCH_FAULTS, seed=seed, model=model, key=(str(number),))

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


@dataclass(frozen=True, slots=True)
class Change:
    """What a vendor changes behind a model's name: from the call of that number on (counted from 1 for each model, answered ones alone).

    ``served_model`` is the name in its replies, ``fingerprints`` those of the back ends behind a load balancer, dealt out reply by reply
    (only OpenAI's wire format tells them), ``persona`` the target that plays; what a change leaves out stays as it was.
    """

    call: int
    model: str = "*"
    served_model: str | None = None
    fingerprints: tuple[str, ...] = ()
    persona: str | None = None

    def __post_init__(self) -> None:
        if self.call < 1:
            raise UsageError(f"a change comes at a call from 1 on, not at {self.call}")
        if self.persona is not None and self.persona not in PERSONAS:
            raise UsageError(f"no persona called {self.persona!r}{did_you_mean(self.persona, PERSONAS)}; there are: {', '.join(PERSONAS)}")

    @classmethod
    def parse(cls, text: str) -> Change:
        """The change written as ``CALL[@MODEL]:served=NAME,fingerprint=NAME/NAME,persona=NAME``.

        Raises:
            UsageError: It cannot be read.
        """
        place, _, rest = text.partition(":")
        call, _, model = place.partition("@")
        given = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        if not call.strip().isdecimal() or not given.keys() <= {"served", "fingerprint", "persona"} or not all(given.values()):
            wanted = (
                "write CALL[@MODEL]:served=NAME,fingerprint=NAME,persona=NAME (200@sim-average:served=sim-average-2,persona=sim-brittle)"
            )
            raise UsageError(f"cannot read the change {text!r}; {wanted}")
        fingerprints = tuple(given["fingerprint"].split("/")) if "fingerprint" in given else ()
        return cls(int(call), model.strip() or "*", given.get("served"), fingerprints, given.get("persona"))


_SHARES = (
    "moderator_hit_rate",
    "moderator_false_alarm_rate",
    "guard_hit_rate",
    "guard_false_alarm_rate",
    "judge_sensitivity",
    "judge_specificity",
    "policy_effect",
    "batch_cache_share",
    "over_refusal_rate",
    "guided_over_refusal_rate",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """What the simulator plays.

    Attributes:
        seed: Decides every draw.
        latency_seconds: Wait before every reply.
        batch_seconds: How long a batch is worked on.
        slots: Calls that are worked on at the same time; others wait for their turn, as on a server of one's own. ``None``: no limit.
        faults: What goes wrong, and how often.
        requests_per_minute: The account's quota; ``None`` means no limit. Above it calls get 429.
        tokens_per_minute: The same for tokens (input and output).
        burst_seconds: How many seconds' worth of a quota may be used at once (60: a whole minute's quota).
        announce_limits: Whether replies carry the vendor's rate-limit headers and 429s name a wait.
        prompt_cache: Whether repeated prefixes are reported as cached input tokens.
        prompt_cache_minimum_tokens: Prefixes shorter than this are not cached.
        batch_cache_share: How many rows of a batch, of those that could, find what other rows of it wrote.
        check_images: Whether pictures that are none, or not of the type they claim, are rejected as vendors do.
        moderator_hit_rate: Share of harmful dialogues that the moderators flag.
        moderator_false_alarm_rate: Share of benign dialogues that the moderators flag.
        guard_hit_rate: The same for guards and the moderation endpoint.
        guard_false_alarm_rate: The same for guards and the moderation endpoint.
        judge_sensitivity: Share of unsafe replies that ``sim-judge-noisy`` calls unsafe.
        judge_specificity: Share of safe replies that ``sim-judge-noisy`` calls safe.
        policy_effect: Share of unsafe turns that guidance turns safe.
        over_refusal_rate: Share of benign turns that are refused; ``None`` means the persona's own.
        guided_over_refusal_rate: Share of benign turns that are refused on top of that when guidance is present.
        benign_texts: First user messages of benign dialogues; ``None`` means those of the demonstration set.
        changes: What changes behind the models' names, and when.
        keep_texts: Whether the truth keeps whole user texts (else digests and the beginning of the last one).
        truth_limit: How many calls the truth keeps at most.
    """

    seed: int = 0
    latency_seconds: float = 0.0
    batch_seconds: float = 0.2
    slots: int | None = None
    faults: FaultPlan = NO_FAULTS
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    burst_seconds: float = 60.0
    announce_limits: bool = True
    prompt_cache: bool = False
    prompt_cache_minimum_tokens: int = 1024
    batch_cache_share: float = 1.0
    check_images: bool = True
    moderator_hit_rate: float = 0.8
    moderator_false_alarm_rate: float = 0.1
    guard_hit_rate: float = 0.6
    guard_false_alarm_rate: float = 0.05
    judge_sensitivity: float = 1.0
    judge_specificity: float = 1.0
    policy_effect: float = 0.7
    over_refusal_rate: float | None = None
    guided_over_refusal_rate: float = 0.15
    benign_texts: frozenset[str] | None = None
    changes: tuple[Change, ...] = ()
    keep_texts: bool = False
    truth_limit: int = 200_000

    def __post_init__(self) -> None:
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise UsageError(f"simulator setting {name} must lie between 0 and 1, not {value}")
        for name in ("latency_seconds", "batch_seconds"):
            if getattr(self, name) < 0:
                raise UsageError(f"simulator setting {name} must not be negative, but is {getattr(self, name)}")
        for name in ("requests_per_minute", "tokens_per_minute", "burst_seconds", "slots"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"simulator setting {name} must be above 0, not {value}")

    def changed(self, model: str, call: int) -> Change:
        """All that has changed behind a model's name by its call of that number."""
        now = Change(call, model)
        for change in self.changes:
            if change.call <= call and fnmatchcase(model, change.model):
                told = {name: value for name in ("served_model", "fingerprints", "persona") if (value := getattr(change, name))}
                now = replace(now, **told)
        return now

    @property
    def known_benign(self) -> frozenset[str]:
        """First user messages of benign dialogues, as given or those of the demonstration set."""
        return demonstration_benign_texts() if self.benign_texts is None else self.benign_texts

    def to_json(self) -> str:
        """The settings on one line, for another process."""
        return _JSON.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> SimulatorSettings:
        """What ``to_json`` wrote.

        Raises:
            UsageError: Not JSON, an unknown field, or a value that makes no sense.
        """
        try:
            return _JSON.validate_json(text, extra="forbid")
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            known = ", ".join(field.name for field in fields(cls))
            where = ".".join(map(str, problem["loc"]))
            raise UsageError(f"the simulator's settings cannot be read ({where}: {problem['msg']}); known: {known}") from error


_JSON = TypeAdapter(SimulatorSettings)
