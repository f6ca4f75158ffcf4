"""What a plan will send and cost, before anything is sent: expected, and at most.

Dialogues are read one at a time, pictures by their head only. Replies that are in the store already are counted as if they were not, and
retries are left out: a call that fails is mostly not billed, and ``--max-usd`` covers those that are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from safemt_api.dataset.images import fitting_size
from safemt_api.dataset.inspection import ImageError, inspect_image
from safemt_api.judges.base import N_TRIES, verdict_tokens
from safemt_api.judges.preflight import EXAMPLES
from safemt_api.judges.rules import RULES_NAME
from safemt_api.messages import Call, Dialogue, Image, Message, Purpose, Route, Usage, user
from safemt_api.prices import Price, find_price
from safemt_api.profiles import ImageRules, Profile
from safemt_api.runs.planning import Plan, spec_of
from safemt_api.tokens import MOST_TOKENS_PER_MESSAGE, input_tokens_estimate, input_tokens_most

EXPECTED_REPLY_TOKENS = 350
"""A typical reply to a question of the data set: a few paragraphs (an assumption; refusals are shorter)."""

EXPECTED_THINKING_TOKENS = 800
"""On top of it for a model that thinks before it answers (an assumption)."""

EXPECTED_VERDICT_TOKENS = 100
MODERATOR_PROMPT_TOKENS = 1500
"""Allowance for a moderator's instructions (an assumption on the upper side)."""

GUIDANCE_TOKENS = 500
"""Allowance for the policies that a moderator puts before the target."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one model takes part with. Dollars are ``None`` where no price is known; ``most_calls`` counts a judge's repeated questions."""

    purpose: Purpose
    model: str
    calls: int
    most_calls: int
    input_tokens: int
    most_input_tokens: int
    output_tokens: int
    most_output_tokens: int
    expected_usd: float | None
    most_usd: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What to expect of a plan, one share a model."""

    run: str
    dialogues: int
    shares: tuple[Share, ...]

    @property
    def expected_usd(self) -> float:
        """What it is expected to cost, as far as prices are known."""
        return sum(share.expected_usd or 0.0 for share in self.shares)

    @property
    def most_usd(self) -> float:
        """The most it can cost without retries, as far as prices are known."""
        return sum(share.most_usd or 0.0 for share in self.shares)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Models whose price is not known."""
        return tuple(share.model for share in self.shares if share.expected_usd is None)

    def record(self) -> dict[str, Any]:
        """The estimate as JSON values."""
        return {
            "run": self.run,
            "dialogues": self.dialogues,
            "expected_usd": round(self.expected_usd, 6),
            "most_usd": round(self.most_usd, 6),
            "unpriced": list(self.unpriced),
            "shares": [asdict(share) for share in self.shares],
        }


def estimate(plan: Plan) -> Estimate:
    """Calls, tokens and dollars of a plan, by purpose.

    Raises:
        DatasetError: A data file changed since it was checked.
    """
    tallies = list(_tallies(plan))
    for tally in tallies:
        tally.add_trial(plan)
    pictures: dict[str, tuple[int, int] | None] = {}
    for entry in plan.entries:
        dialogue = plan.dialogue(entry)
        path = dialogue.image_path
        if path is not None and path not in pictures:
            pictures[path] = _size(plan, path)
        size = None if path is None else pictures[path]
        for tally in tallies:
            for position in _positions(plan, dialogue):
                tally.add(dialogue, position, size)
    return Estimate(plan.run, len(plan.entries), tuple(tally.share() for tally in tallies))


def remaining_share(plan: Plan) -> float:
    """The share of a run that is still to be played, by its last summary; 1 for a new one."""
    try:
        summary = json.loads((plan.folder / "summary.json").read_bytes())
        counts, not_needed = summary["dialogues"], (summary.get("stopping") or {}).get("dialogues_saved", 0)
        return 1.0 - min(1.0, float(counts["finished"] + not_needed) / float(counts["planned"]))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return 1.0


def _positions(plan: Plan, dialogue: Dialogue) -> range:
    first = 1 if plan.settings.protocol == "live" else dialogue.length
    return range(first, dialogue.length + 1)


def _size(plan: Plan, image_path: str) -> tuple[int, int] | None:
    try:
        found = inspect_image(plan.dataset.folder, image_path)
    except ImageError:
        return None
    return found.width_pixels, found.height_pixels


def _tallies(plan: Plan) -> Iterator[_Tally]:
    """One for each model of the plan."""
    route, reply = plan.target.route, _reply_tokens(plan)
    live = plan.settings.protocol == "live"
    guidance = GUIDANCE_TOKENS if plan.moderator else 0
    cap = plan.target.parameters.max_output_tokens or reply
    own = min(reply + (EXPECTED_THINKING_TOKENS if plan.profile.facts(route.model).reasons else 0), cap)
    yield _Tally(
        "target",
        route,
        plan.profile,
        live=live,
        replies=(reply, cap),
        system=plan.target.system or "",
        extra_tokens=guidance,
        output=(own, cap),
    )
    rubric = "" if plan.rubrics is None else max((rubric.system for rubric in plan.rubrics.by_name.values()), key=len)
    for spec in plan.judges:
        if spec != RULES_NAME:
            yield _asked(plan, "judge", spec, system=rubric, replies=(reply, cap))
    if plan.moderator is not None:
        yield _asked(plan, "moderator", plan.moderator, system="", replies=(reply, cap))


def _reply_tokens(plan: Plan) -> int:
    return min(EXPECTED_REPLY_TOKENS, plan.target.parameters.max_output_tokens or EXPECTED_REPLY_TOKENS)


def _asked(plan: Plan, purpose: Purpose, spec: str, *, system: str, replies: tuple[int, int]) -> _Tally:
    inner = spec_of(spec)
    route, profile = plan.router.resolve(inner, purpose) if inner else (Route(spec, "", (), spec), None)
    output = (EXPECTED_VERDICT_TOKENS, EXPECTED_VERDICT_TOKENS)
    if profile is not None:
        thinking = EXPECTED_THINKING_TOKENS if profile.facts(route.model).reasons else 0
        output = (EXPECTED_VERDICT_TOKENS + thinking, verdict_tokens(profile, route.model))
    extra = MODERATOR_PROMPT_TOKENS if purpose == "moderator" else 0
    live = plan.settings.protocol == "live"
    return _Tally(purpose, route, profile, live=live, replies=replies, system=system, extra_tokens=extra, output=output, tries=N_TRIES)


class _Tally:
    """Adds up the calls of one model. A judge also reads the reply; histories of live dialogues hold the target's own words."""

    def __init__(
        self,
        purpose: Purpose,
        route: Route,
        profile: Profile | None,
        *,
        live: bool,
        replies: tuple[int, int],
        system: str,
        extra_tokens: int,
        output: tuple[int, int],
        tries: int = 1,
    ) -> None:
        self._purpose, self._route, self._live = purpose, route, live
        self._replies, self._system, self._extra, self._output, self._tries = replies, system, extra_tokens, output, tries
        self._rules = None if profile is None else profile.image_rules(route.model)
        self._price: Price | None = None if profile is None else find_price(profile, route.model)
        self._calls = self._input = self._most_input = 0
        self._usd = self._most_usd = 0.0

    def add(self, dialogue: Dialogue, position: int, size: tuple[int, int] | None) -> None:
        """Count the call about the user message at ``position``."""
        call = Call(self._route, self._messages(dialogue, position, size), system=self._system)
        likely, most = (words + self._extra for words in self._words(call))
        spoken = (position - 1 if self._live else 0) + (self._purpose == "judge")
        likely += spoken * self._replies[0]
        most += spoken * (self._replies[1] + MOST_TOKENS_PER_MESSAGE)
        self._calls += 1
        self._input += likely
        self._most_input += most * self._tries
        if self._price is not None:
            self._usd += self._price.cost_usd(Usage(input_tokens=likely, output_tokens=self._output[0]))
            self._most_usd += self._price.most_usd(most, self._output[1]) * self._tries

    def add_trial(self, plan: Plan) -> None:
        """Count the calls by which a judge is tried before a run."""
        if self._purpose == "judge":
            for example in EXAMPLES[plan.kind_on_trial]:
                self.add(example.exhibit.dialogue, 1, None)

    def share(self) -> Share:
        """The sum."""
        known = self._price is not None
        return Share(
            purpose=self._purpose,
            model=f"{self._route.profile}:{self._route.model}" if self._rules is not None else self._route.model,
            calls=self._calls,
            most_calls=self._calls * self._tries,
            input_tokens=self._input,
            most_input_tokens=self._most_input,
            output_tokens=self._calls * self._output[0],
            most_output_tokens=self._calls * self._output[1] * self._tries,
            expected_usd=self._usd if known else None,
            most_usd=self._most_usd if known else None,
        )

    def _words(self, call: Call) -> tuple[int, int]:
        rules = self._rules or _UNKNOWN_RULES
        return input_tokens_estimate(call, rules), input_tokens_most(call, rules)

    def _messages(self, dialogue: Dialogue, position: int, size: tuple[int, int] | None) -> tuple[Message, ...]:
        image = None if size is None else self._image(*size)
        texts = dialogue.user_texts[:position] if self._live else tuple(line.text for line in dialogue.lines)
        return tuple(user(text, image if index == 0 else None) for index, text in enumerate(texts))

    def _image(self, width_pixels: int, height_pixels: int) -> Image:
        """A picture of the size that it has for this receiver."""
        width, height = fitting_size(width_pixels, height_pixels, self._rules or _UNKNOWN_RULES)
        return Image(b"", digest="", media_type="image/png", width_pixels=width, height_pixels=height)


_UNKNOWN_RULES = ImageRules(source="assumed by safemt-api", checked=date(2026, 11, 21))
"""For endpoints that are no chat models, whose prices are not known here."""
