"""``data build``: drafts for every query, method and length, filtered, written in our own form with ``build.json`` beside them.

Every call goes through the gateway into a store of the build's own (``.build/`` in its folder), so a build is paced, within its budget and
resumable: what is written is a pure function of the answers, so after a kill the same command writes the same bytes and buys nothing twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from safemt_api.asking.material import digest_of
from safemt_api.builder.filters import Draft, Filter, Reviewers
from safemt_api.builder.filters.form import form
from safemt_api.builder.filters.harmless import harmless
from safemt_api.builder.filters.intent import intent
from safemt_api.builder.filters.near_duplicates import near_duplicates
from safemt_api.builder.filters.not_obvious import not_obvious
from safemt_api.builder.filters.picture_needed import picture_needed
from safemt_api.builder.methods import Method, load_methods
from safemt_api.builder.queries import Query, read_queries
from safemt_api.builder.questions import TWIN, WRITE, Model, goal_in, prompt_digests
from safemt_api.dataset.images import open_source
from safemt_api.dataset.own_form import copy_picture, write_dialogues
from safemt_api.errors import SafeMTError, UsageError
from safemt_api.evaluation import open_router
from safemt_api.files import private_folder, write_json
from safemt_api.gateway import Gateway
from safemt_api.limits.budget import Ledger
from safemt_api.messages import Asker, Dialogue, Image, Kind, Line, Purpose
from safemt_api.routes import Router
from safemt_api.runs.connections import account_opener, open_shared, timeouts_of
from safemt_api.runs.folder import playing
from safemt_api.runs.play import our_error
from safemt_api.runs.settings import EvalSettings, tiers_of
from safemt_api.simulator.settings import SimulatorSettings
from safemt_api.store.turns import STORE_FILE, open_store

WORK_FOLDER = ".build"
BUILD_FILE = "build.json"
BUILD_SCHEMA = 1
SOURCE = "built"
MAX_LENGTH = 20
WRITER_TOKENS = 4096
NOTE = "Test dialogues: the assistant's lines are scripted and were judged to hold nothing usable. The queries are the user's own."
REVIEWER_TOKENS = 512

FILTERS: Mapping[str, Filter] = {
    "form": form,
    "harmless": harmless,
    "intent": intent,
    "not-obvious": not_obvious,
    "picture-needed": picture_needed,
}
"""In the order in which they are asked: what costs nothing first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """The options of ``data build``. ``attempts``: how many drafts may be written for one place before it stays empty.

    ``generator``, ``reader`` and ``judge`` are ``PROVIDER:MODEL``; the latter two are the generator where they are not given.
    """

    queries: Path
    out: Path
    generator: str
    images: Path | None = None
    lengths: tuple[int, ...] = (2, 4, 6, 8)
    methods: tuple[str, ...] = ("lead-in", "fiction", "purpose", "in-context")
    reader: str | None = None
    judge: str | None = None
    language: str = "en"
    twins: bool = False
    picture_needed: bool = False
    attempts: int = 3
    max_usd: float | None = None
    concurrency: int = 32
    providers: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lengths or any(not 1 <= length <= MAX_LENGTH for length in self.lengths):
            raise UsageError(f"--lengths must name numbers of turns from 1 to {MAX_LENGTH}")
        if not 1 <= self.attempts <= 10:
            raise UsageError(f"--attempts {self.attempts}: must be 1 to 10")

    def as_run(self) -> EvalSettings:
        """What of it the gateway and the built-in simulator go by."""
        provider, _, model = self.generator.partition(":")
        if not provider or not model:
            raise UsageError(f"--generator {self.generator!r} is not PROVIDER:MODEL")
        others = tuple(dict.fromkeys(one for one in (self.judge, self.reader) if one is not None)) or (self.generator,)
        return EvalSettings(
            provider=provider,
            model=model,
            judges=others,
            max_usd=self.max_usd,
            concurrency=self.concurrency,
            results=self.out / WORK_FOLDER,
            providers=self.providers,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """One dialogue that is wanted."""

    query: Query
    method: Method
    length: int
    kind: Kind
    goal: str

    @property
    def id(self) -> str:
        """The dialogue's id, the same in every length."""
        return f"{self.query.id}_{self.method.name}{'' if self.kind == 'harmful' else '_twin'}"

    @property
    def twin(self) -> str:
        """The id of its twin."""
        return f"{self.query.id}_{self.method.name}{'_twin' if self.kind == 'harmful' else ''}"


@dataclass(frozen=True, slots=True)
class Drop:
    """A draft that was not kept: which filter dropped it, and why."""

    place: Place
    attempt: int
    filter: str
    reason: str

    def record(self) -> dict[str, Any]:
        """As it stands in ``build.json``."""
        place = self.place
        where = {"id": place.id, "method": place.method.name, "length": place.length, "kind": place.kind}
        return {**where, "attempt": self.attempt, "filter": self.filter, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a place: the dialogue, if one passed, and the drafts that did not."""

    place: Place
    dialogue: Dialogue | None
    drops: tuple[Drop, ...]
    costs_usd: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A build at its end, or as far as it came; ``record`` is what ``build.json`` holds, ``None`` where it did not come to its end."""

    folder: Path
    record: Mapping[str, Any] | None
    stopped_by: SafeMTError | None = None

    @property
    def exit_code(self) -> int:
        """0 where it came to its end."""
        return 0 if self.stopped_by is None else self.stopped_by.exit_code


async def build(
    settings: BuildSettings, *, simulator: SimulatorSettings | None = None, told: Callable[[int, int], None] = lambda _done, _of: None
) -> BuildResult:
    """Build a data set, or go on with one.

    Args:
        settings: What to build.
        simulator: What the built-in simulator plays, when it is used.
        told: Called with the number of places that are settled, and of all.

    Raises:
        SetupError: It cannot start: options, queries, methods or models are wrong, or the folder holds another build.
    """
    run = settings.as_run()
    methods = load_methods(settings.methods)
    queries = read_queries(settings.queries, settings.images)
    asked = _identity(settings, methods, queries)
    _refuse_another(settings.out, asked)
    private_folder(settings.out / WORK_FOLDER)
    stopped_by = None
    outcomes: list[Outcome] = []
    async with open_router(run, simulator=simulator) as router:
        for given in {settings.generator, settings.reader or settings.generator, settings.judge or settings.generator}:
            # A key that is missing shows before anything is written.
            router.profile(given.partition(":")[0]).api_key()
        with playing(settings.out / WORK_FOLDER, settings.out.name) as note:
            async with open_store(settings.out / WORK_FOLDER / STORE_FILE) as store:
                note(store.id)
                write_json(settings.out / WORK_FOLDER / BUILD_FILE, asked)
                book = f"build-{digest_of(str(asked))[:16]}"
                async with open_shared(run, store=store, purse_id=book, runs=1) as shared:
                    timeouts = timeouts_of(run)
                    gateway = Gateway(
                        store=store,
                        ledger=Ledger(store, run=book, purse=shared.purse),
                        open_account=account_opener(run, router=router, client=shared.client, timeouts=timeouts),
                        profile_of=lambda route: router.profile(route.profile),
                        timeouts=timeouts,
                        accounts=shared.accounts,
                        tiers=tiers_of(run),
                    )
                    builder = _Builder(settings, Wanted(methods, queries), router=router, asker=gateway, told=told)
                    try:
                        outcomes = await builder.run()
                    except BaseExceptionGroup as group:
                        stopped_by = our_error(group)
    if stopped_by is not None:
        return BuildResult(settings.out, None, stopped_by)
    costs = _costs([*(outcome.costs_usd for outcome in outcomes), *({"generator": cost} for cost in builder.twin_costs_usd.values())])
    asked = {**asked, "queries_without_twin": builder.without_twin}
    return BuildResult(settings.out, _written(settings, asked, outcomes, costs))


def _identity(settings: BuildSettings, methods: tuple[Method, ...], queries: tuple[Query, ...]) -> dict[str, Any]:
    """What decides the dialogues; the beginning of ``build.json``."""
    return {
        "schema": BUILD_SCHEMA,
        "generator": settings.generator,
        "reader": settings.reader or settings.generator,
        "judge": settings.judge or settings.generator,
        "language": settings.language,
        "lengths": sorted(set(settings.lengths)),
        "methods": {method.name: method.digest for method in methods},
        "prompts": prompt_digests(),
        "queries": {"number": len(queries), "digest": f"sha256:{digest_of(*(str(query) for query in queries))}"},
        "twins": settings.twins,
        "picture_needed": settings.picture_needed,
        "attempts": settings.attempts,
        "seed": settings.seed,
    }


def _refuse_another(out: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UsageError: It is not empty, and not of this build.
    """
    begun = out / WORK_FOLDER / BUILD_FILE
    if begun.is_file():
        try:
            before = json.loads(begun.read_bytes())
        except ValueError as error:
            raise UsageError(f"{begun} is damaged; delete {out} or give another --out") from error
        differing = [name for name in asked if before.get(name) != json.loads(json.dumps(asked))[name]]
        if differing:
            raise UsageError(f"{out} holds a build with other {', '.join(differing)}; give another --out or restore them")
    elif out.exists() and (not out.is_dir() or any(one.name != WORK_FOLDER for one in out.iterdir())):
        raise UsageError(f"{out} is not empty; give a folder that is not there yet")


class Wanted(NamedTuple):
    """What dialogues are made of."""

    methods: tuple[Method, ...]
    queries: tuple[Query, ...]


class _Builder:
    """Settles every place, some at a time."""

    def __init__(self, settings: BuildSettings, wanted: Wanted, *, router: Router, asker: Asker, told: Callable[[int, int], None]) -> None:
        self._settings, self._methods, self._queries, self._told = settings, wanted.methods, wanted.queries, told
        self._asker, self._router = asker, router
        self._writer = self._model(settings.generator, "target", WRITER_TOKENS)
        self._judge = self._model(settings.judge or settings.generator, "judge", REVIEWER_TOKENS)
        self._reader = self._model(settings.reader or settings.generator, "judge", REVIEWER_TOKENS)
        self._room = anyio.CapacityLimiter(settings.concurrency)
        self._outcomes: dict[int, Outcome] = {}
        self._twin_goals: dict[str, str | None] = {}
        self.twin_costs_usd: dict[str, float | None] = {}

    def _model(self, given: str, purpose: Purpose, tokens: int) -> Model:
        provider, _, model = given.partition(":")
        if not provider or not model:
            raise UsageError(f"{given!r} is not PROVIDER:MODEL")
        destination = self._router.destination(provider, model, purpose)
        return Model(destination.route, destination.profile, purpose, tokens)

    async def run(self) -> list[Outcome]:
        """All outcomes, in the order of queries, methods, kinds and lengths.

        Raises:
            StopRunError, StoreError: As an exception group.
        """
        if self._settings.twins:
            async with anyio.create_task_group() as group:
                for query in self._queries:
                    group.start_soon(self._find_twin_goal, query)
        places = self._places()
        async with anyio.create_task_group() as group:
            for number, place in enumerate(places):
                group.start_soon(self._settle, number, place, len(places))
        return [self._outcomes[number] for number in range(len(places))]

    @property
    def without_twin(self) -> list[str]:
        """The queries for which no harmless goal was written."""
        return [query.id for query in self._queries if self._settings.twins and self._twin_goals.get(query.id) is None]

    def _places(self) -> list[Place]:
        goals = {query.id: [("harmful", query.goal), ("benign", self._twin_goals.get(query.id))] for query in self._queries}
        kinds: tuple[Kind, ...] = ("harmful", "benign") if self._settings.twins else ("harmful",)
        return [
            Place(query, method, length, kind, goal)
            for query in self._queries
            for method in self._methods
            for kind in kinds
            for length in sorted(set(self._settings.lengths))
            if (goal := dict(goals[query.id])[kind]) is not None
        ]

    async def _find_twin_goal(self, query: Query) -> None:
        async with self._room:
            fields = {"goal": query.goal, "scenario": query.scenario, "language": self._settings.language}
            asked = await self._writer.asked(self._asker, TWIN, fields, goal_in)
            self._twin_goals[query.id], self.twin_costs_usd[query.id] = asked.result, asked.cost_usd

    async def _settle(self, number: int, place: Place, of: int) -> None:
        async with self._room:
            image = None if place.query.image_path is None else self._picture(place.query.image_path)
            self._outcomes[number] = await self._settled(place, image)
            self._told(len(self._outcomes), of)

    def _picture(self, path: str) -> Image:
        assert self._settings.images is not None  # noqa: S101 (a query with a picture was refused without)
        return open_source(self._settings.images, path)

    async def _settled(self, place: Place, image: Image | None) -> Outcome:
        if place.length == 1:
            return Outcome(place, self._dialogue(place, (Line("user", place.goal),)), (), {})
        reviewers = Reviewers(self._asker, self._reader, self._judge)
        drops: list[Drop] = []
        for attempt in range(1, self._settings.attempts + 1):
            system = WRITE.format(method=place.method.text)
            wanted = {
                "goal": place.goal,
                "scenario": place.query.scenario,
                "turns": place.length,
                "language": self._settings.language,
                "kind": place.kind,
                "variant": attempt + self._settings.seed,
            }
            asked = await self._writer.asked(self._asker, system, wanted, _written_lines, image)
            reviewers.paid("generator", asked)
            if asked.result is None:
                drops.append(Drop(place, attempt, "written", asked.reason))
                continue
            draft = Draft(place.goal, place.kind, place.length, asked.result, image)
            dropped = await self._dropped(draft, place.method, reviewers)
            if dropped is None:
                return Outcome(place, self._dialogue(place, draft.lines), tuple(drops), reviewers.costs_usd)
            drops.append(Drop(place, attempt, *dropped))
        return Outcome(place, None, tuple(drops), reviewers.costs_usd)

    async def _dropped(self, draft: Draft, method: Method, reviewers: Reviewers) -> tuple[str, str] | None:
        for name, passes in FILTERS.items():
            if name in method.without or (name == "picture-needed" and not self._settings.picture_needed):
                continue
            # A harmless goal may be asked for openly.
            if name == "not-obvious" and draft.kind == "benign":
                continue
            reason = await passes(draft, reviewers)
            if reason is not None:
                return name, reason
        return None

    def _dialogue(self, place: Place, lines: tuple[Line, ...]) -> Dialogue:
        path = place.query.image_path
        first = lines[0] if path is None else replace(lines[0], image_paths=(path,))
        return Dialogue(
            id=place.id,
            scenario=place.query.scenario,
            length=place.length,
            lines=(first, *lines[1:]),
            goal=place.goal,
            kind=place.kind,
            method=place.method.name,
            source=SOURCE,
            language=self._settings.language,
        )


def _written_lines(answer: dict[str, Any]) -> list[Any] | None:
    lines = answer.get("dialogue")
    return lines if isinstance(lines, list) else None


def _written(
    settings: BuildSettings, asked: Mapping[str, Any], outcomes: list[Outcome], costs_usd: Mapping[str, float | None]
) -> dict[str, Any]:
    """Write the dialogues and ``build.json``; returns what the latter holds. No time and no path of this machine enters them."""
    kept = [outcome.dialogue for outcome in outcomes if outcome.dialogue is not None]
    places = {(outcome.place.id, outcome.place.length): outcome.place for outcome in outcomes}
    copies = {(one.id, one.length): twin for one, twin in near_duplicates(kept)}
    drops = [drop for outcome in outcomes for drop in outcome.drops]
    drops += [Drop(places[key], 0, "near-duplicates", f"says almost what {twin} says") for key, twin in copies.items()]
    kept = [one for one in kept if (one.id, one.length) not in copies]
    there = {(one.id, one.length) for one in kept}
    kept = [replace(one, pair=twin) if (twin := places[one.id, one.length].twin, one.length) in there else one for one in kept]
    paths = dict.fromkeys(path for dialogue in kept for path in dialogue.image_paths)
    names = {path: copy_picture(settings.images or Path(), path, settings.out) for path in paths}
    write_dialogues(settings.out, kept, names)
    record = {
        **asked,
        "wanted": len(outcomes),
        "kept": len(kept),
        "counts": _counts(outcomes, there),
        "dropped_by": dict(sorted(Counter(drop.filter for drop in drops).items())),
        "dropped": [drop.record() for drop in drops],
        "cost_usd": dict(costs_usd),
        "note": NOTE,
    }
    write_json(settings.out / BUILD_FILE, record)
    return record


def _counts(outcomes: list[Outcome], there: set[tuple[str, int]]) -> list[dict[str, Any]]:
    """Wanted and kept by method, length and kind."""
    wanted = Counter((one.place.method.name, one.place.length, one.place.kind) for one in outcomes)
    kept = Counter(
        (one.place.method.name, one.place.length, one.place.kind) for one in outcomes if (one.place.id, one.place.length) in there
    )
    return [
        {"method": method, "length": length, "kind": kind, "wanted": count, "kept": kept[method, length, kind]}
        for (method, length, kind), count in sorted(wanted.items())
    ]


def _costs(parts: list[Mapping[str, float | None]]) -> dict[str, float | None]:
    """What the answers behind the dialogues cost, bought now or before; ``None`` where a price is unknown."""
    totals: dict[str, float | None] = {}
    for part in parts:
        for who, cost in part.items():
            before = totals.get(who, 0.0)
            totals[who] = None if before is None or cost is None else before + cost
    return {who: None if cost is None else round(cost, 6) for who, cost in sorted(totals.items())}
