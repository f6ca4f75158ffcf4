"""What a plan will send and cost, before anything is sent: expected, and at most.

The run is rehearsed: the same code plays and judges every dialogue, and whoever it asks answers from the store, or with so many words as
a reply usually has, and counts what the call would cost. So a call that two dialogues share is counted once, as it is bought once, and
what is paid for already costs nothing. Retries are left out: a call that fails is mostly not billed, and ``--max-usd`` covers those that
are. Pictures are read by their head, and whole only where the store may hold replies about them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from safemt_api.adapters.base import marked_beginnings
from safemt_api.asking.question import N_TRIES, answer_parameters
from safemt_api.dataset.entries import Entry
from safemt_api.dataset.images import fitted, fitting_size, open_source
from safemt_api.dataset.picture_files import ImageError, inspect_image
from safemt_api.dialogues import converse
from safemt_api.errors import DialogueError, StoreError
from safemt_api.judges.preflight import EXAMPLES
from safemt_api.messages import PURPOSES, Answer, Asker, Call, Image, Message, Outcome, Purpose, Reply, Usage, with_images
from safemt_api.moderators.opening import MODERATORS, open_moderator
from safemt_api.prices import Price, find_price
from safemt_api.profiles import ImageRules
from safemt_api.runs.connections import judges_of
from safemt_api.runs.folder import SUMMARY_FILE
from safemt_api.runs.plan import Plan
from safemt_api.runs.play import judge_transcript
from safemt_api.runs.settings import tiers_of
from safemt_api.runs.summary import read_summary
from safemt_api.store.keys import call_key
from safemt_api.store.turns import TurnStore, open_store
from safemt_api.tokens import BYTES_PER_TOKEN, MOST_TOKENS_PER_MESSAGE, input_tokens_estimate, input_tokens_most

EXPECTED_REPLY_TOKENS = 350
"""A typical reply to a question of the data set where neither the profile nor the store knows better: a few paragraphs (an assumption)."""

EXPECTED_THINKING_TOKENS = 800
"""On top of it for a model that thinks before it answers (an assumption)."""

EXPECTED_VERDICT_TOKENS = 100
GUIDANCE_TOKENS = 500
"""Allowance for what a moderator puts before the target."""

ENOUGH_REPLIES = 20
"""So many stored replies of the target tell how long its replies are."""

REHEARSED = "[rehearsed]"
"""Begins every reply that is only expected, so that a question which holds some is known by them."""

PICTURES_KEPT = 64


@dataclass(frozen=True, slots=True)
class Share:
    """What one model takes part with; ``paid_calls`` are in the store already and in no other figure.

    Dollars are ``None`` where no price is known; ``list_usd`` are the expected ones in the usual tier, with nothing in a cache;
    ``most_calls`` counts a judge's repeated questions.
    """

    purpose: Purpose
    model: str
    calls: int
    paid_calls: int
    most_calls: int
    input_tokens: int
    most_input_tokens: int
    output_tokens: int
    most_output_tokens: int
    expected_usd: float | None
    list_usd: float | None
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
    def list_usd(self) -> float:
        """What that is at list price: in the usual tier, with nothing in a cache."""
        return sum(share.list_usd or 0.0 for share in self.shares)

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
            "list_usd": round(self.list_usd, 6),
            "most_usd": round(self.most_usd, 6),
            "unpriced": list(self.unpriced),
            "shares": [asdict(share) for share in self.shares],
        }


async def estimate(plan: Plan) -> Estimate:
    """Calls, tokens and dollars of what a plan has still to buy, by purpose and model.

    Raises:
        DatasetError: A data file changed since it was checked.
        StoreError: The store cannot be read.
    """
    async with _store_of(plan) as store:
        rehearsal = _Rehearsal(plan, store)
        judges = judges_of(plan, rehearsal)
        for judge in judges:
            for example in EXAMPLES[plan.kind_on_trial]:
                await judge.judge(example.exhibit)
        # A fall-back is asked where a judge fails, which is not expected; and a moderator that fails here must not end the dialogue.
        judging = [judge for judge, spec in zip(judges, plan.bench.everyone, strict=True) if spec != plan.bench.fallback]
        moderator = open_moderator(
            plan.moderator,
            asker=rehearsal,
            resolve=plan.router.resolver("moderator"),
            policies=plan.settings.policies,
            failure="open",
        )
        for entry in _entries(plan):
            dialogue = with_images(plan.dialogue(entry), rehearsal.picture)
            transcript = await converse(dialogue, protocol=plan.settings.protocol, asker=rehearsal, target=plan.target, moderator=moderator)
            for judge in judging:
                await judge_transcript(transcript, judge, plan.settings.judge_turns)
    return Estimate(plan.run, len(plan.entries), rehearsal.shares())


@asynccontextmanager
async def _store_of(plan: Plan) -> AsyncIterator[TurnStore | None]:
    """The run's store, or ``None`` where there is none yet: looking must not create one."""
    place = plan.settings.store_place
    if isinstance(place, Path) and not place.is_file():
        yield None
        return
    async with open_store(place) as store:
        yield store


def _entries(plan: Plan) -> tuple[Entry, ...]:
    """The dialogues that may still be played: none of a spot check that has reached its goal."""
    if plan.settings.until_ci is None:
        return plan.entries
    try:
        summary = read_summary(plan.folder / SUMMARY_FILE)
    except (OSError, StoreError):
        return plan.entries
    saved = 0 if summary.stopping is None else summary.stopping.dialogues_saved
    return () if summary.dialogues.finished + saved >= summary.dialogues.planned else plan.entries


@dataclass(slots=True)
class _Tally:
    """The calls of one purpose to one model."""

    price: Price | None
    tier_price: Price | None
    calls: int = 0
    paid: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    usd: float = 0.0
    list_usd: float = 0.0
    most_usd: float = 0.0


class _Rehearsal(Asker):
    """Stands in for the gateway: what is stored is answered, everything else is counted and answered as expected."""

    def __init__(self, plan: Plan, store: TurnStore | None) -> None:
        self._plan, self._store = plan, store
        self._answers: dict[str, Answer | None] = {}
        self._tallies: dict[tuple[Purpose, str], _Tally] = {}
        self._stored_tokens: list[int] = []
        self._written: set[str] = set()
        self.picture = lru_cache(PICTURES_KEPT)(self._picture)
        facts = plan.profile.facts(plan.target.route.model)
        self._cap = plan.target.parameters.max_output_tokens or EXPECTED_REPLY_TOKENS
        self._usual = facts.reply_tokens or EXPECTED_REPLY_TOKENS
        self._thinking = EXPECTED_THINKING_TOKENS if facts.reasons else 0
        self._guidance = GUIDANCE_TOKENS if plan.moderator and MODERATORS.kind(plan.moderator).writes_guidance else 0

    async def ask(self, call: Call) -> Answer:
        """The stored answer, or the expected one; of judges and moderators none is expected that could be read."""
        profile = self._plan.router.profile(call.route.profile)
        rules = profile.image_rules(call.route.model)
        shown = replace(call, messages=tuple(_fitted(message, call.purpose, rules) for message in call.messages))
        key = call_key(shown)
        if key not in self._answers:
            self._answers[key] = await self._stored(shown, key) or self._expected(shown, rules)
        answer = self._answers[key]
        if answer is None:
            raise DialogueError("this answer is not bought yet")
        return answer

    def shares(self) -> tuple[Share, ...]:
        """What was counted."""
        counted = sorted(self._tallies.items(), key=lambda one: PURPOSES.index(one[0][0]))
        return tuple(self._share(purpose, model, tally) for (purpose, model), tally in counted)

    def _tally(self, call: Call) -> _Tally:
        name = call.purpose, f"{call.route.profile}:{call.route.model}"
        if name not in self._tallies:
            profile, model = self._plan.router.profile(call.route.profile), call.route.model
            self._tallies[name] = _Tally(find_price(profile, model), find_price(profile, model, tiers_of(self._plan.settings)[0]))
        return self._tallies[name]

    async def _stored(self, call: Call, key: str) -> Answer | None:
        found = None if self._store is None else await self._store.get(key)
        if found is None:
            return None
        self._tally(call).paid += 1
        if call.purpose == "target" and found.reply.usage is not None:
            self._stored_tokens.append(found.reply.usage.output_tokens)
        return Answer(found.reply, from_store=True, cost_usd=found.cost_usd)

    def _expected(self, call: Call, rules: ImageRules) -> Answer | None:
        target = call.purpose == "target"
        unknown = sum(message.text.count(REHEARSED) for message in call.messages)
        guidance = self._guidance if target else 0
        likely = input_tokens_estimate(call, rules) + guidance
        most = input_tokens_most(call, rules) + guidance + unknown * (self._cap + MOST_TOKENS_PER_MESSAGE)
        out, most_out = self._output_tokens(call)
        tally = self._tally(call)
        tally.calls += 1
        tally.tokens.update(likely=likely, most=most, out=out, most_out=most_out)
        if tally.price is not None:
            plain = Usage(input_tokens=likely, output_tokens=out)
            tally.list_usd += tally.price.cost_usd(plain)
            tally.usd += (tally.tier_price or tally.price).cost_usd(self._with_caches(call, plain, rules))
            # At the usual price: what the cheaper tier does not serve may be asked in that.
            tally.most_usd += tally.price.most_usd(most, most_out)
        if not target:
            return None
        # Another one for each call, so that what is asked about it is another question.
        text = f"{REHEARSED} {tally.calls} ".ljust(int(self._reply_tokens() * BYTES_PER_TOKEN), ".")
        return Answer(Reply(Outcome.ANSWERED, text))

    def _with_caches(self, call: Call, plain: Usage, rules: ImageRules) -> Usage:
        """What of the input is expected to be read from a cache, and written to one, where beginnings are marked.

        Caches that vendors keep by themselves promise nothing, and neither do the rows of a batch: these are not counted on.
        """
        if tiers_of(self._plan.settings)[0] == "batch":
            return plain
        beginnings = marked_beginnings(call, self._plan.router.profile(call.route.profile))
        tokens = {call_key(one): min(input_tokens_estimate(one, rules), plain.input_tokens) for one in beginnings}
        read = max((tokens[key] for key in tokens.keys() & self._written), default=0)
        self._written |= tokens.keys()
        return replace(plain, cached_input_tokens=read, cache_write_tokens=max(0, max(tokens.values(), default=0) - read))

    def _reply_tokens(self) -> int:
        known = self._stored_tokens
        usual = round(sum(known) / len(known)) if len(known) >= ENOUGH_REPLIES else self._usual + self._thinking
        return min(usual, self._cap)

    def _output_tokens(self, call: Call) -> tuple[int, int]:
        """Expected, and at most."""
        if call.purpose == "target":
            return self._reply_tokens(), self._cap
        profile = self._plan.router.profile(call.route.profile)
        thinking = EXPECTED_THINKING_TOKENS if profile.facts(call.route.model).reasons else 0
        most = call.parameters.max_output_tokens or answer_parameters(profile, call.route.model).max_output_tokens or 0
        return min(EXPECTED_VERDICT_TOKENS + thinking, most), most

    def _share(self, purpose: Purpose, model: str, tally: _Tally) -> Share:
        tries = 1 if purpose == "target" else N_TRIES
        known = tally.price is not None
        return Share(
            purpose=purpose,
            model=model,
            calls=tally.calls,
            paid_calls=tally.paid,
            most_calls=tally.calls * tries,
            input_tokens=tally.tokens["likely"],
            most_input_tokens=tally.tokens["most"] * tries,
            output_tokens=tally.tokens["out"],
            most_output_tokens=tally.tokens["most_out"] * tries,
            expected_usd=tally.usd if known else None,
            list_usd=tally.list_usd if known else None,
            most_usd=tally.most_usd * tries if known else None,
        )

    def _picture(self, path: str) -> Image | None:
        """The picture; only its size where no store could know an answer about it."""
        folder = self._plan.dataset.folder
        try:
            if self._store is not None:
                return open_source(folder, path)
            found = inspect_image(folder, path)
        except (ImageError, DialogueError):
            return None
        return Image(b"", digest=path, media_type="image/png", width_pixels=found.width_pixels, height_pixels=found.height_pixels)


def _fitted(message: Message, receiver: Purpose, rules: ImageRules) -> Message:
    """The message with its picture in the size that it has for this receiver."""
    parts = tuple(_sized(fitted(part, receiver, rules), rules) if isinstance(part, Image) else part for part in message.parts)
    return replace(message, parts=parts)


def _sized(image: Image, rules: ImageRules) -> Image:
    width, height = fitting_size(image.width_pixels, image.height_pixels, rules)
    if (width, height) == (image.width_pixels, image.height_pixels):
        return image
    return Image(b"", digest=image.digest, media_type=image.media_type, width_pixels=width, height_pixels=height)
