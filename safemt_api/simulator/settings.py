"""All that shapes a simulator; the same settings play the same truth."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from safemt_api.errors import UsageError
from safemt_api.simulator.faults import NO_FAULTS, Fault, FaultPlan
from safemt_api.simulator.personas import demonstration_benign_texts

_SHARES = (
    "moderator_hit_rate",
    "moderator_false_alarm_rate",
    "guard_hit_rate",
    "guard_false_alarm_rate",
    "judge_sensitivity",
    "judge_specificity",
    "policy_effect",
    "over_refusal_rate",
    "guided_over_refusal_rate",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """What the simulator plays.

    Attributes:
        seed: Decides every draw.
        latency_seconds: Wait before every reply.
        slots: Calls that are worked on at the same time; others wait for their turn, as on a server of one's own. ``None``: no limit.
        faults: What goes wrong, and how often.
        requests_per_minute: The account's quota; ``None`` means no limit. Above it calls get 429.
        tokens_per_minute: The same for tokens (input and output).
        burst_seconds: How many seconds' worth of a quota may be used at once (60: a whole minute's quota).
        announce_limits: Whether replies carry the vendor's rate-limit headers and 429s name a wait.
        prompt_cache: Whether repeated prefixes are reported as cached input tokens.
        prompt_cache_minimum_tokens: Prefixes shorter than this are not cached.
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
        keep_texts: Whether the truth keeps whole user texts (else digests and the beginning of the last one).
        truth_limit: How many calls the truth keeps at most.
    """

    seed: int = 0
    latency_seconds: float = 0.0
    slots: int | None = None
    faults: FaultPlan = NO_FAULTS
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    burst_seconds: float = 60.0
    announce_limits: bool = True
    prompt_cache: bool = False
    prompt_cache_minimum_tokens: int = 1024
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
    keep_texts: bool = False
    truth_limit: int = 200_000

    def __post_init__(self) -> None:
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise UsageError(f"simulator setting {name} must lie between 0 and 1, not {value}")
        if self.latency_seconds < 0:
            raise UsageError(f"simulator setting latency_seconds must not be negative, but is {self.latency_seconds}")
        for name in ("requests_per_minute", "tokens_per_minute", "burst_seconds", "slots"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"simulator setting {name} must be above 0, not {value}")

    @property
    def known_benign(self) -> frozenset[str]:
        """First user messages of benign dialogues, as given or those of the demonstration set."""
        return demonstration_benign_texts() if self.benign_texts is None else self.benign_texts

    def to_json(self) -> str:
        """The settings on one line, for another process."""
        data = asdict(self)
        data["benign_texts"] = None if self.benign_texts is None else sorted(self.benign_texts)
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> SimulatorSettings:
        """What ``to_json`` wrote.

        Raises:
            UsageError: Not JSON, an unknown field, or a value that makes no sense.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            plan = data.pop("faults", None)
            if plan is not None:
                data["faults"] = FaultPlan(**(plan | {"faults": tuple(Fault(**fault) for fault in plan["faults"])}))
            if data.get("benign_texts") is not None:
                data["benign_texts"] = frozenset(data["benign_texts"])
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            known = ", ".join(field.name for field in fields(cls))
            raise UsageError(f"the simulator's settings cannot be read ({error}); known: {known}") from error
