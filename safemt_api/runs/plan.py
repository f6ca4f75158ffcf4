"""From settings to a plan: profiles, data, routes and defaults resolved, and everything refused that cannot work, before a call is sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

from safemt_api.adapters.base import unsupported_parameters
from safemt_api.dataset.entries import Dataset, Entry, load_dataset
from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.dataset.selection import part_of, select
from safemt_api.dialogues import Target
from safemt_api.errors import SettingsChangedError, UsageError
from safemt_api.judges.base import Manner
from safemt_api.judges.bench import JUDGES, Bench
from safemt_api.judges.rubric import Rubrics, load_rubrics
from safemt_api.messages import Dialogue, Kind, Parameters
from safemt_api.moderators.opening import read_moderator
from safemt_api.prices import find_price
from safemt_api.profiles import Profile, replacements
from safemt_api.routes import Destination, Router
from safemt_api.runs.folder import SUMMARY_SCHEMA, check_same_run, read_manifest
from safemt_api.runs.names import slug
from safemt_api.runs.settings import EvalSettings, free_for_judging, identity_defaults, identity_of, settings_record, tiers_of
from safemt_api.runs.shard import Shard, read_shard
from safemt_api.shown import as_shown
from safemt_api.specs import RULES, Spec

DEFAULT_PROVIDER = "simulator"
SIMULATED_MODELS = "sim-"
"""How the name of each of the simulator's models begins."""
DEFAULT_OUTPUT_TOKENS = 1024
REASONING_OUTPUT_TOKENS = 4096
"""Room for models that think before they answer; too little would end in replies without a word."""

DATA_VARIABLE = "SAFEMT_DATA"
NAME_DIGEST_CHARACTERS = 6

TARGET_FLAGS: Mapping[str, str] = {"temperature": "--temperature", "top_p": "--top-p", "seed": "--seed-sampling"}
JUDGE_IDENTITY = ("judge", "judge_endpoints", "rubric", *free_for_judging())
"""What of a run's identity new verdicts over old transcripts change."""
SELECTING = ("sample", "scenarios", "kinds", "seed")
"""What of a run's identity decides which of the data it takes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can start, or one shard of it.

    ``identity`` is what must not change when it goes on; ``resumed`` says that it exists already; ``whole`` are the dialogues of the
    whole run, of which a shard's ``entries`` are a part.
    """

    settings: EvalSettings
    run: str
    folder: Path
    dataset: Dataset
    target: Target
    profile: Profile
    bench: Bench
    moderator: Spec | None
    router: Router
    identity: Mapping[str, Any]
    whole: tuple[Entry, ...]
    remarks: tuple[str, ...] = ()
    resumed: bool = False

    @property
    def planned(self) -> int:
        """How many dialogues the whole run has."""
        return len(self.whole)

    @property
    def shard(self) -> Shard | None:
        """The part of the run that is played; ``None``: all of it."""
        return read_shard(self.settings.shard)

    @property
    def rubrics(self) -> Rubrics | None:
        """What the judges judge by; ``None`` where none of them reads a rubric."""
        return self.bench.rubrics if self.bench.reads_rubric else None

    @property
    def target_is_simulator(self) -> bool:
        """Whether the target is the simulator, built in or at an address of its own, where it goes by the names of its models."""
        return self.profile.name.startswith(DEFAULT_PROVIDER) or self.target.route.model.startswith(SIMULATED_MODELS)

    def dialogue(self, entry: Entry) -> Dialogue:
        """The dialogue as the target is shown it.

        Raises:
            DatasetError: The data have changed since they were looked through.
        """
        return as_shown(self.dataset.read(entry), self.settings.show)

    @property
    def kind_on_trial(self) -> Kind:
        """The kind of dialogue that the judges are tried on before the run: harmful ones, unless none are played."""
        return "harmful" if any(entry.kind == "harmful" for entry in self.entries) else "benign"

    @property
    def outline(self) -> dict[str, Any]:
        """What a summary says that is known before the first call; the run file holds it too, for a report of a run that has not ended."""
        return {
            "schema": SUMMARY_SCHEMA,
            "run": self.run,
            "status": "partial",
            "provider": self.target.route.profile,
            "model": self.target.route.model,
            "protocol": self.settings.protocol,
            "judge": self.bench.name,
            "baseline_judge": self.bench.is_baseline,
            "rubric": None if self.rubrics is None else self.rubrics.record,
            "moderator": self.moderator and str(self.moderator),
            "lengths": list(self.dataset.lengths),
            "seed": self.settings.seed,
            "dialogues": {"planned": len(self.entries), "finished": 0, "failed": 0},
        }

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The dialogues to play, in the data set's order."""
        return self.dataset.entries


ChosenData = tuple[Dataset, tuple[str, ...]]
"""The selected dialogues, and what the user should be told about the choice."""


def make_plan(
    settings: EvalSettings,
    *,
    router: Router,
    environ: Mapping[str, str] | None = None,
    judging_only: bool = False,
    dry_run: bool = False,
    data: ChosenData | None = None,
) -> Plan:
    """Resolve the settings.

    Args:
        settings: What to run.
        router: Finds profiles and addresses.
        environ: Stands in for the environment.
        judging_only: The target will not be called: its key and price are not needed, and the run's judge may be another than before.
        dry_run: Nobody will be called: no key is needed.
        data: The dialogues, where they were chosen already by the same settings.

    Raises:
        SetupError: Anything that keeps the run from starting, as one sentence.
    """
    environ = os.environ if environ is None else environ
    provider = settings.provider or DEFAULT_PROVIDER
    profile = router.profile(provider)
    model = settings.model or profile.default_model
    if model is None:
        raise UsageError(f"{provider} has no default model: give --model (`safemt-api providers show {provider}` names some)")
    bench = Bench.of(
        settings.judges or (profile.default_judge or RULES,),
        settings.judge_fallback,
        escalate=settings.escalate,
        when=settings.escalate_when,
        rubric=settings.rubric,
        manner=Manner(settings.judge_temperature, settings.judge_sees),
    )
    moderator = read_moderator(settings.moderator)
    destination = router.destination(provider, model)
    judging = tuple(map(router.resolver("judge"), (spec for spec in bench.everyone if spec.provider)))
    moderating = () if moderator is None else (router.resolver("moderator")(moderator),)
    _check_judges(bench, router)
    used = judging if judging_only else (destination, *judging, *moderating)
    _check_prices(used, settings)
    _check_tier(used, settings, judging_only=judging_only)
    if not dry_run:
        for one in used:
            one.profile.api_key(environ)
    dataset, remarks = choose_data(settings, environ) if data is None else data
    usual = None if dataset.layout is None else dataset.layout.rubric
    if settings.rubric is None and usual is not None and bench.reads_rubric:
        bench = replace(bench, rubrics=load_rubrics(usual))
    target = Target(destination.route, _parameters(settings, profile, model), settings.system)
    identity = {
        **_identity(settings, target, dataset, bench, moderator),
        "rubric": bench.rubrics.digest if bench.reads_rubric else None,
        "judge_endpoints": [one.route.endpoint for one in judging],
        "moderator_endpoint": [one.route.endpoint for one in moderating],
    }
    run = settings.run or default_name(provider, model, settings, identity)
    shard, whole = read_shard(settings.shard), dataset.entries
    folder = settings.results / run if shard is None else settings.results / run / shard.folder_name
    before = read_manifest(folder)
    plan = Plan(
        settings=settings,
        run=run,
        folder=folder,
        dataset=dataset if shard is None else _part(dataset, shard, settings.seed),
        target=target,
        profile=profile,
        bench=bench,
        moderator=moderator,
        router=router,
        identity=identity,
        whole=whole,
        remarks=(
            *replacements(settings.providers),
            *remarks,
            *_more_than_a_day(settings, profile, dataset),
            *(_without_store(settings, before) if judging_only else ()),
        ),
        resumed=before is not None,
    )
    check_still_same(plan, before or {}, judging_only=judging_only)
    return plan


def resolved_record(plan: Plan) -> dict[str, Any]:
    """The settings with every default settled, so that a run goes on as it began even when a default changes."""
    data = None if plan.dataset.folder == demonstration_folder() else plan.dataset.folder
    route = plan.target.route
    return settings_record(
        replace(plan.settings, provider=route.profile, model=route.model, judges=tuple(map(str, plan.bench.judges)), data=data)
    )


def _part(dataset: Dataset, shard: Shard, seed: int) -> Dataset:
    """The data set with the shard's dialogues alone; lengths and fingerprint are the whole run's."""
    ids = len(dataset.ids)
    if shard.parts > ids:
        raise UsageError(f"--shard {shard}: the run has {ids:,} ids, so there can be {ids:,} parts at most")
    return replace(dataset, entries=part_of(dataset.entries, part=shard.part, parts=shard.parts, seed=seed))


def _without_store(settings: EvalSettings, before: Mapping[str, Any] | None) -> Iterator[str]:
    place = settings.store_place
    if before is not None and isinstance(place, Path) and not place.is_file():
        yield f"{place} is gone: verdicts that were bought before are bought anew; the replies are those of the run's own files"


def check_still_same(plan: Plan, before: Mapping[str, Any], *, judging_only: bool = False) -> None:
    """Refuse a plan that is not the run in its folder, if there is one there.

    Raises:
        SettingsChangedError: Lists each difference.
    """
    if before:
        free = JUDGE_IDENTITY if judging_only else ()
        was, now = (
            {name: one[name] for name in one if name not in free} for one in ({**identity_defaults(), **before["identity"]}, plan.identity)
        )
        try:
            check_same_run(plan.run, was, now)
        except SettingsChangedError as error:
            if was["dataset"] == now["dataset"] or any(was.get(name) != now.get(name) for name in SELECTING):
                raise
            from safemt_api.runs.provenance import word_changes  # noqa: PLC0415 (imports polars, which a good start must not)

            changes = word_changes(plan.dataset, plan.folder, plan.settings.protocol)
            raise SettingsChangedError(plan.run, [*error.differences, *changes]) from None


def _more_than_a_day(settings: EvalSettings, profile: Profile, dataset: Dataset) -> Iterator[str]:
    """What to expect of a run that is larger than the vendor's published quota for a day."""
    daily = profile.limits.requests_per_day
    calls = sum(entry.length for entry in dataset.entries) if settings.protocol == "live" else len(dataset.entries)
    if daily is not None and calls > daily:
        yield f"{profile.name} publishes {daily:,} requests a day and the target alone needs {calls:,}: resume it the next day"


def choose_data(settings: EvalSettings, environ: Mapping[str, str]) -> ChosenData:
    """The selected dialogues, and what the user should be told about the choice.

    Raises:
        DatasetError: The data are bad, and ``skip_invalid`` is not set.
        UsageError: No such folder, length or scenario.
    """
    folder = settings.data or (Path(environ[DATA_VARIABLE]) if environ.get(DATA_VARIABLE) else None)
    remarks = []
    if folder is None:
        folder = demonstration_folder()
        remarks.append(f"no --data and no {DATA_VARIABLE}: using the demonstration set (mild; its scores say nothing about a model)")
    dataset = load_dataset(folder, lengths=settings.lengths, skip_invalid=settings.skip_invalid, layout=settings.layout)
    if dataset.problems:
        remarks.append(f"left out {len(dataset.problems)} invalid entries of {folder} (`safemt-api data check` lists them)")
    chosen = select(dataset, sample=settings.sample, scenarios=settings.scenarios, kinds=set(settings.kinds), seed=settings.seed)
    if not chosen.entries:
        raise UsageError(f"no dialogues are left in {folder} after --lengths, --scenario and the kinds {', '.join(settings.kinds)}")
    user_only = sum(entry.user_only for entry in chosen.entries)
    if user_only and settings.protocol == "scripted":
        raise UsageError(
            f"{user_only:,} of the {len(chosen.entries):,} dialogues hold the user's messages alone, and the scripted protocol needs what "
            "the assistant said between them: give --protocol live, in which the model's own replies stand there"
        )
    return chosen.repeated(settings.repeats, after=settings.repeats_from), tuple(remarks)


def default_name(provider: str, model: str, settings: EvalSettings, identity: Mapping[str, Any]) -> str:
    """A run's name where none is given: date, model, protocol, and a digest of all that makes it another run than one of other settings."""
    digest = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:NAME_DIGEST_CHARACTERS]
    return f"{date.today().isoformat()}-{slug(f'{provider}-{model}')}-{settings.protocol}-{digest}"  # noqa: DTZ011 (the user's own date)


def _check_prices(destinations: tuple[Destination, ...], settings: EvalSettings) -> None:
    for route, profile in destinations:
        if settings.max_usd is not None and find_price(profile, route.model) is None:
            raise UsageError(
                f"no price is known for {profile.name}:{route.model}, so --max-usd cannot be held; "
                "add [models.price] to its profile (safemt-api providers show) or leave --max-usd out"
            )


def _check_tier(destinations: tuple[Destination, ...], settings: EvalSettings, *, judging_only: bool) -> None:
    """Refuse a tier that a model is not offered in; what nobody bills, and what may be asked at the usual price, need not be.

    Where only judging is to be done the tier is the target's, too, whom nobody asks: that it changes nothing for a judge is no mistake.
    """
    tier, *others = tiers_of(settings)
    if tier == "standard":
        return
    offered, refused = 0, list[UsageError]()
    for route, profile in destinations:
        try:
            profile.check_tier(tier, route.model)
            offered += 1
        except UsageError as error:
            price = find_price(profile, route.model)
            if price is None or price.most_usd(1000, 1000) > 0.0:
                refused.append(error)
    if refused and not (others and offered):
        raise UsageError(f"{refused[0]}, or give --tier {tier},standard to ask it at the usual price" if offered else str(refused[0]))
    if not offered and not judging_only:
        raise UsageError(f"--tier {tier} changes nothing: no model of this run is billed; leave it out")


def _parameters(settings: EvalSettings, profile: Profile, model: str) -> Parameters:
    asked = Parameters(
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed_sampling,
        effort=settings.effort,
        safety_threshold=settings.safety_threshold,
    )
    check_taken(asked, profile, model)
    facts = profile.facts(model)
    usual = REASONING_OUTPUT_TOKENS if facts.reasons else DEFAULT_OUTPUT_TOKENS
    most = settings.max_output_tokens or min(usual, facts.max_output_tokens or usual)
    return replace(asked, max_output_tokens=most)


def check_taken(asked: Parameters, profile: Profile, model: str, *, flags: Mapping[str, str] = TARGET_FLAGS) -> None:
    """Refuse what the model is not known to take, so that nothing that was asked for is left out in silence.

    Raises:
        UsageError: Names the option, and where to say otherwise.
    """
    name, facts = f"{profile.name}:{model}", profile.facts(model)
    refused = unsupported_parameters(profile, model, asked)
    if refused:
        options = ", ".join(flags[one] for one in refused)
        raise UsageError(f"{name} does not take {options}; leave it out, or say otherwise in its profile ([[models]] takes)")
    if asked.effort is not None and asked.effort not in facts.efforts:
        known = f"takes {', '.join(facts.efforts)}" if facts.efforts else "is not known to take any"
        raise UsageError(f"{name} does not take --effort {asked.effort}: it {known}; its profile ([[models]] efforts) may say otherwise")
    if asked.safety_threshold is not None and not profile.safety_settings:
        raise UsageError(f"{profile.name} has no filters that --safety-threshold could adjust (safety_settings in its profile)")


def _check_judges(bench: Bench, router: Router) -> None:
    """Refuse what a judge cannot do: the options for all judges stand for each, but for those of its own."""
    for spec in bench.everyone:
        manner, sees = bench.manner.of(spec), JUDGES.kind(spec).sees
        if sees is not None:
            route, profile = router.resolver("judge")(spec)
            asked = Parameters(temperature=manner.temperature, effort=manner.effort)
            check_taken(asked, profile, route.model, flags={"temperature": "--judge-temperature"})
            if manner.sees == "picture" and not sees(route.model, profile):
                raise UsageError(f"--judge-sees picture: {spec} is not known to see; leave it out, or choose another judge")


def _identity(settings: EvalSettings, target: Target, dataset: Dataset, bench: Bench, moderator: Spec | None) -> Mapping[str, Any]:
    route = target.route
    return {
        **identity_of(settings),
        "provider": route.profile,
        "wire_format": route.wire_format,
        "endpoint": route.endpoint,
        "extras": route.extras,
        "model": route.model,
        "parameters": {name: value for name, value in asdict(target.parameters).items() if value is not None},
        "dataset": dataset.fingerprint,
        "lengths": list(dataset.lengths),
        "scenarios": sorted(settings.scenarios),
        "kinds": sorted(settings.kinds),
        "judge": list(map(str, bench.judges)),
        "moderator": moderator and str(moderator),
        "moderator_failure": settings.moderator_failure if moderator else None,
        "policies": _folder_digest(settings.policies) if moderator else None,
    }


def _file_digest(file: Path | None, option: str) -> str | None:
    if file is None:
        return None
    try:
        return f"sha256:{sha256(file.read_bytes()).hexdigest()}"
    except OSError as error:
        raise UsageError(f"{option} {file}: cannot be read ({error.strerror})") from error


def _folder_digest(folder: Path | None) -> str | None:
    if folder is None:
        return None
    if not folder.is_dir():
        raise UsageError(f"--policies {folder}: no such folder")
    parts = [f"{file.name}:{_file_digest(file, '--policies')}" for file in sorted(folder.glob("*.md"))]
    return f"sha256:{sha256('|'.join(parts).encode()).hexdigest()}"
