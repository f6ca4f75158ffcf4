"""What the simulator remembers: calls by body, faults played, and the truth behind every answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from safemt_api.messages import Outcome
from safemt_api.profiles import WireFormat
from safemt_api.simulator.answers import Words
from safemt_api.simulator.requests import Question
from safemt_api.simulator.roles import Played

BEGINNING_CHARACTERS = 80


class SimulatorStatistics(NamedTuple):
    """What went through a simulator.

    ``calls`` counts well-formed POSTs to a model, ``answered`` those that got an answer in full, ``repeated`` the answers given again to a
    body that had been answered before (bought twice), ``rate_limited`` the 429s of the quotas (not those of the fault plan), ``rejected``
    the requests that were wrong themselves. ``tiers`` holds answers and their tokens by the tier that served, which is what is billed.
    """

    calls: int
    answered: int
    repeated: int
    rate_limited: int
    rejected: int
    faults: dict[str, int]
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    in_flight: int
    peak_in_flight: int
    truth_left_out: int
    tiers: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Truth:
    """What was played for one body.

    ``user_texts`` holds the beginning of the last user message, or all of them in full where the settings say so; ``user_texts_sha`` tells
    conversations apart in any case. ``unsafe`` is ``None`` where nothing was played (judges, moderators, a conversation that was too long);
    ``served_model`` and ``fingerprint`` are what the reply told of who answered.
    """

    wire_format: WireFormat
    model: str
    role: str
    first_user_sha: str
    user_texts_sha: str
    user_texts: tuple[str, ...]
    turn: int
    unsafe: bool | None
    outcome: str
    fault: str | None = None
    guided: bool = False
    served_model: str = ""
    fingerprint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self) | {"user_texts": list(self.user_texts)}


def digest_of(text: str) -> str:
    """SHA-256 of a text without the white space around it, as the truth holds it."""
    return sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()


def digest_of_texts(texts: tuple[str, ...]) -> str:
    """SHA-256 of several texts in their order."""
    return sha256("\x00".join(text.strip() for text in texts).encode("utf-8", "surrogatepass")).hexdigest()


def truth_of(
    question: Question, played: Played, words: Words, *, outcome: Outcome, unsafe: bool | None, fault: str | None, keep_texts: bool
) -> Truth:
    """The truth behind an answer."""
    texts = played.user_texts
    shown = texts if keep_texts else tuple(text.strip()[:BEGINNING_CHARACTERS] for text in texts[-1:])
    return Truth(
        question.wire_format,
        question.model,
        played.role,
        digest_of(texts[0]) if texts else "",
        digest_of_texts(texts),
        shown,
        len(texts),
        unsafe,
        outcome.value,
        fault,
        question.guided,
        words.model,
        words.fingerprint,
    )


@dataclass(slots=True)
class Books:
    """The running account of one simulator; the truth is kept once per body."""

    truth_limit: int
    calls: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    truths: dict[str, Truth] = field(default_factory=dict)
    rate_limited: int = 0
    rejected: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    truth_left_out: int = 0
    tiers: dict[str, Counter[str]] = field(default_factory=dict)

    def call_came(self, body_digest: str) -> int:
        """Count a call; returns which attempt of this body it is, from 1."""
        self.calls[body_digest] += 1
        return self.calls[body_digest]

    def call_in_flight(self, change: int) -> None:
        """One more or one less call being answered."""
        self.in_flight += change
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def call_answered(self, body_digest: str, truth: Truth | None, *, tokens: tuple[int, int, int], tier: str = "standard") -> None:
        """Note an answer that was handed to the network in full; ``tokens`` are input, output and cached."""
        self.answers[body_digest] += 1
        names = ("answers", "input_tokens", "output_tokens", "cached_input_tokens")
        self.tiers.setdefault(tier, Counter()).update(dict(zip(names, (1, *tokens), strict=True)))
        self.input_tokens += tokens[0]
        self.output_tokens += tokens[1]
        self.cached_input_tokens += tokens[2]
        if truth is None:
            return
        if body_digest in self.truths or len(self.truths) < self.truth_limit:
            self.truths[body_digest] = truth
        else:
            self.truth_left_out += 1

    def statistics(self) -> SimulatorStatistics:
        """The account as of now."""
        answered = self.answers.total()
        return SimulatorStatistics(
            calls=self.calls.total(),
            answered=answered,
            repeated=answered - len(self.answers),
            rate_limited=self.rate_limited,
            rejected=self.rejected,
            faults=dict(self.faults),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            truth_left_out=self.truth_left_out,
            tiers={tier: dict(counts) for tier, counts in self.tiers.items()},
        )
