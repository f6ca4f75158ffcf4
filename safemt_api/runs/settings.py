"""Everything that a run can be told, each option on one line; ``runs/options.py`` says how to add one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.messages import (
    LENGTHS,
    Effort,
    Escalation,
    FailurePolicy,
    JudgedTurns,
    Kind,
    Protocol,
    SafetyThreshold,
    Sees,
    ServiceTier,
    Telling,
)
from safemt_api.profiles import check_address
from safemt_api.runs.names import check_run_name
from safemt_api.runs.options import EVERY, GOING_ON, JUDGING, Group, Option, OptionField, numbers, option_fields
from safemt_api.runs.shard import read_shard
from safemt_api.shown import Show, check_show
from safemt_api.store.connection import STORE_FILE, Place, ServerAddress, server_address

if TYPE_CHECKING:
    from safemt_api.runs.values import Values

MOST = 10**9
"""More than any count or number of seconds that makes sense; far more overflows the timers and counters below us."""

DEFAULT_CONCURRENCY = 32
DEFAULT_MAX_FAILURES = 0.05
DEFAULT_STALL_SECONDS = 600.0
DEFAULT_FLEX_PATIENCE_SECONDS = 600.0
DEFAULT_BATCH_PATIENCE_SECONDS = 86_400.0
BATCHED_DIALOGUES = 20_000
"""So many dialogues wait for batches at one time; each takes some tens of kilobytes, and none a picture."""

Tier = Literal["standard", "flex", "flex,standard", "batch", "batch,standard"]
TIME_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def kinds_named(text: str) -> tuple[str, ...]:
    """The kinds of dialogue that ``--kinds`` names.

    Raises:
        UsageError: It names none.
    """
    named = {"harmful": ("harmful",), "benign": ("benign",), "both": ("harmful", "benign")}
    if text not in named:
        raise UsageError("choose harmful, benign or both")
    return named[text]


def seconds_named(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``24h`` as seconds.

    Raises:
        UsageError: It is no time.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in TIME_UNITS else (text, "s")
    try:
        return float(number) * TIME_UNITS[unit]
    except ValueError:
        raise UsageError("is no time: give seconds, or a number with s, m or h, such as 10m") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """The options of ``safemt-api eval``, by the same names.

    ``None`` means: the default, which may depend on the profile (model, judge), the environment (data) or the date (run).

    Raises:
        UsageError: A value is out of range.
    """

    provider: Annotated[
        str | None, Option(Group.TARGET, "Vendor (`safemt-api providers list`). Default: the built-in simulator.", "NAME")
    ] = None
    model: Annotated[str | None, Option(Group.TARGET, "Model under test. Default: the vendor's default model.", "ID")] = None
    base_urls: Annotated[
        tuple[str, ...],
        Option(Group.TARGET, "Address of the server; repeat for several with the same model.", "URL", flags=("--base-url",)),
    ] = ()
    system: Annotated[str | None, Option(Group.TARGET, "System prompt for the target.", "TEXT", identity=True)] = None
    max_output_tokens: Annotated[
        int | None,
        Option(Group.TARGET, "Most tokens of a reply, reasoning included. Default: 1024, or 4096 for models that reason.", "N"),
        Gt(0),
        Le(MOST),
    ] = None
    temperature: Annotated[
        float | None, Option(Group.TARGET, "Sent only when given, and only to models that take it.", "T"), Ge(0), Le(100)
    ] = None
    top_p: Annotated[float | None, Option(Group.TARGET, "The same.", "P"), Ge(0), Le(1)] = None
    seed_sampling: Annotated[
        int | None, Option(Group.TARGET, "Seed of the model's own sampling, where it takes one.", "N"), Ge(-MOST), Le(MOST)
    ] = None
    effort: Annotated[
        Effort | None, Option(Group.TARGET, "How much a model that reasons may think. Default: the vendor's own, which differs by model.")
    ] = None
    safety_threshold: Annotated[
        SafetyThreshold | None,
        Option(Group.TARGET, "From which likelihood of harm on the vendor's adjustable filters block (Google). Default: the vendor's own."),
    ] = None
    data: Annotated[Path | None, Option(Group.DATA, "Folder with the data. Default: SAFEMT_DATA, else the demonstration set.", "DIR")] = (
        None
    )
    layout: Annotated[
        str | None, Option(Group.DATA, "Layout of the data, or a layout file. Default: found where it is unmistakable.", "NAME|FILE")
    ] = None
    lengths: Annotated[
        tuple[Annotated[int, Ge(1), Le(MOST)], ...] | None,
        Option(Group.DATA, "Dialogue lengths to take. Default: all there are.", "1,2,4,6,8", read=numbers),
        MinLen(1),
    ] = None
    protocol: Annotated[
        Protocol,
        Option(Group.DATA, "scripted: the paper's, one call a dialogue; live: the model's own replies become the history.", identity=True),
    ] = "scripted"
    show: Annotated[
        Show,
        Option(
            Group.DATA,
            "The target sees the whole dialogue, or no picture, a blank one, no history (the last message alone), no scripted reply.",
            identity=True,
        ),
    ] = "whole"
    sample: Annotated[
        int | None,
        Option(Group.DATA, "Take N ids (of each kind), spread over the scenarios, with all chosen lengths of each.", "N", identity=True),
        Gt(0),
    ] = None
    repeats: Annotated[
        int,
        Option(
            Group.DATA,
            "Ask every dialogue N times: ASR is the mean over replies; judges and moderators are asked anew too.",
            "N",
            identity=True,
        ),
        Ge(1),
        Le(1000),
    ] = 1
    repeats_from: Annotated[
        int,
        Option(Group.DATA, "Number the repeats from K + 1, so that no reply of a run with lower numbers is taken.", "K", identity=True),
        Ge(0),
        Le(MOST),
    ] = 0
    scenarios: Annotated[
        tuple[str, ...], Option(Group.DATA, "Take only this scenario; may be repeated.", "NAME", flags=("--scenario",))
    ] = ()
    kinds: Annotated[
        tuple[Kind, ...],
        Option(
            Group.DATA,
            "Harmful dialogues (the default), benign ones (over-refusal), or both.",
            "harmful|benign|both",
            read=kinds_named,
            commands=("eval",),
        ),
    ] = ("harmful",)
    skip_invalid: Annotated[bool, Option(Group.DATA, "Leave invalid dialogues out instead of refusing to start.")] = False
    until_ci: Annotated[
        float | None,
        Option(
            Group.DATA,
            "Spot check: go on in random order until the 95% interval of overall ASR is ±HALF (0.05: 5 points), then stop.",
            "HALF",
            identity=True,
            commands=("eval",),
        ),
        Gt(0),
        Lt(0.5),
    ] = None
    seed: Annotated[int, Option(Group.DATA, "Decides the sample and the order.", "N", identity=True), Ge(-MOST), Le(MOST)] = 0
    judges: Annotated[
        tuple[str, ...],
        Option(
            Group.JUDGE,
            "rules, PROVIDER:MODEL, guard:PROVIDER:MODEL, moderation:openai, decisions:openai or decisions:google; several: a panel.",
            "SPEC",
            flags=("--judge",),
            commands=JUDGING,
        ),
    ] = ()
    judge_fallback: Annotated[
        str | None, Option(Group.JUDGE, "Asked where a judge gives no verdict.", "SPEC", identity=True, commands=JUDGING)
    ] = None
    escalate: Annotated[
        str | None,
        Option(
            Group.JUDGE,
            "A second judge, asked only where the first calls a reply unsafe or gives no verdict; its word holds.",
            "SPEC",
            identity=True,
            commands=JUDGING,
        ),
    ] = None
    escalate_when: Annotated[
        Escalation,
        Option(
            Group.JUDGE,
            "When the second is asked: the first says unsafe, or its probability is near neither end (decisions:…).",
            identity=True,
            commands=JUDGING,
        ),
    ] = "unsafe"
    judge_turns: Annotated[
        JudgedTurns,
        Option(
            Group.JUDGE,
            "Which replies of a live dialogue are judged: all, or the last alone (ASR by length and SI; no share of failures so far).",
            identity=True,
            commands=JUDGING,
        ),
    ] = "all"
    judge_base_url: Annotated[str | None, Option(Group.JUDGE, "Address of the judge's server.", "URL", commands=JUDGING)] = None
    judge_temperature: Annotated[
        float | None,
        Option(Group.JUDGE, "Sent only when given, and only to judges that take it.", "T", identity=True, commands=JUDGING),
        Ge(0),
        Le(100),
    ] = None
    judge_sees: Annotated[
        Sees | None,
        Option(
            Group.JUDGE,
            "Whether judges are shown the picture beside the words. Default: each that can see.",
            identity=True,
            commands=JUDGING,
        ),
    ] = None
    rubric: Annotated[
        Path | None,
        Option(
            Group.JUDGE,
            "Criteria of judges that read a rubric: safemt (the paper's, the default), safemt-general (its general rubric for all), "
            "careful (stricter), or a folder or file of your own.",
            "NAME|DIR",
            commands=JUDGING,
        ),
    ] = None
    moderator: Annotated[
        str | None,
        Option(
            Group.MODERATOR,
            "none, policy:PROVIDER:MODEL, raw:PROVIDER:MODEL, guard:PROVIDER:MODEL or moderation:openai.",
            "SPEC",
            commands=("eval",),
        ),
    ] = None
    moderator_base_url: Annotated[str | None, Option(Group.MODERATOR, "Address of the moderator's server.", "URL", commands=("eval",))] = (
        None
    )
    moderator_failure: Annotated[
        FailurePolicy, Option(Group.MODERATOR, "When the moderator fails: the dialogue fails, goes on unguarded, or is refused.")
    ] = "fail"
    policies: Annotated[Path | None, Option(Group.MODERATOR, "Your own policy library (one Markdown file a scenario).", "DIR")] = None
    max_usd: Annotated[
        float | None, Option(Group.PACE, "Ceiling on all that the run spends, judge and retries included.", "X", commands=EVERY), Ge(0)
    ] = None
    tier: Annotated[
        Tier,
        Option(
            Group.PACE,
            "flex: half the price, slower, answered where there is room; batch: half the price, answered within a day. With `,standard`, "
            "models without the tier, and calls that flex has no room for, are asked at the usual price.",
            commands=EVERY,
        ),
    ] = "standard"
    flex_patience_seconds: Annotated[
        float,
        Option(
            Group.PACE,
            "With flex,standard: how long a call waits for room in the flex tier. Default: 10m.",
            "TIME",
            flags=("--flex-patience",),
            commands=EVERY,
            read=seconds_named,
        ),
        Ge(0),
        Le(MOST),
    ] = DEFAULT_FLEX_PATIENCE_SECONDS
    batch_patience_seconds: Annotated[
        float,
        Option(
            Group.PACE,
            "With batch: how old a batch may get; then it is cancelled, and what it did not answer is asked singly. Default: 24h.",
            "TIME",
            flags=("--batch-patience",),
            commands=EVERY,
            read=seconds_named,
        ),
        Gt(0),
        Le(MOST),
    ] = DEFAULT_BATCH_PATIENCE_SECONDS
    concurrency: Annotated[
        int, Option(Group.PACE, "Most calls in flight; less is used while a vendor slows down.", "N", commands=EVERY), Gt(0), Le(100_000)
    ] = DEFAULT_CONCURRENCY
    requests_per_minute: Annotated[
        float | None,
        Option(
            Group.PACE,
            "Quota of the target's account; else learnt from replies.",
            "N",
            flags=("--rpm", "--requests-per-minute"),
            commands=EVERY,
        ),
        Gt(0),
    ] = None
    tokens_per_minute: Annotated[
        float | None, Option(Group.PACE, "The same for tokens.", "N", flags=("--tpm", "--tokens-per-minute"), commands=EVERY), Gt(0)
    ] = None
    max_failures: Annotated[
        float,
        Option(Group.PACE, "Share of dialogues that may fail or lack a verdict until exit code 4.", "SHARE", commands=GOING_ON),
        Ge(0),
        Le(1),
    ] = DEFAULT_MAX_FAILURES
    stall_seconds: Annotated[
        float, Option(Group.PACE, "End the run when no call has succeeded for so long.", "S", commands=GOING_ON), Gt(0), Le(MOST)
    ] = DEFAULT_STALL_SECONDS
    connect_seconds: Annotated[float, Option(Group.PACE, "Longest wait for a connection.", "S", commands=GOING_ON), Gt(0), Le(MOST)] = 10.0
    idle_seconds: Annotated[float, Option(Group.PACE, "Longest silence on a connection.", "S", commands=GOING_ON), Gt(0), Le(MOST)] = 300.0
    total_seconds: Annotated[
        float, Option(Group.PACE, "Longest time for one attempt at a call.", "S", commands=GOING_ON), Gt(0), Le(MOST)
    ] = 600.0
    shard: Annotated[
        str | None,
        Option(
            Group.PACE,
            "Play part I of N alone, beside other processes with the same store; the last one writes the whole run.",
            "I/N",
            recorded=False,
            commands=("eval",),
        ),
    ] = None
    ray: Annotated[
        str | None,
        Option(
            Group.PACE,
            "Play the run in shards by workers of Ray: on this machine (local, the default), or on the cluster at auto or HOST:PORT.",
            "[ADDRESS]",
            recorded=False,
            commands=("eval",),
        ),
    ] = None
    workers: Annotated[
        int | None,
        Option(
            Group.PACE,
            "With --ray: how many play at a time, each with its own --concurrency. Default: one a core.",
            "N",
            recorded=False,
            commands=("eval",),
        ),
        Gt(0),
        Le(10_000),
    ] = None
    otel: Annotated[
        Telling | None,
        Option(
            Group.OUTPUT,
            "Tell a collector what is asked, by OpenTelemetry, to where the OTEL_* variables say: names, tokens, money, outcomes; "
            "with `words`, prompts and replies too.",
            recorded=False,
            commands=EVERY,
        ),
    ] = None
    run: Annotated[
        str | None,
        Option(
            Group.OUTPUT,
            "Name of the run; one that exists goes on. Default: date, model, protocol and a digest.",
            "NAME",
            recorded=False,
        ),
    ] = None
    results: Annotated[Path, Option(Group.OUTPUT, "Folder of all runs and of the turn store.", "DIR", recorded=False)] = Path("results")
    store: Annotated[
        ServerAddress | None,
        Option(
            Group.OUTPUT,
            "PostgreSQL database for the replies and the books, shared by any number of machines. Default: a file in --results.",
            "URL",
            commands=EVERY,
            read=server_address,
        ),
    ] = None
    providers: Annotated[Path | None, Option(Group.TARGET, "Folder with vendor files of your own (TOML).", "DIR")] = None
    simulator_faults: Annotated[
        str, Option(Group.SIMULATOR, "Faults: KIND:SHARE or KIND:first=N, with commas between.", "SPEC", flags=("--fault",))
    ] = ""
    simulator_seed: Annotated[int | None, Option(Group.SIMULATOR, "Its seed. Default: --seed.", "N", flags=("--sim-seed",))] = None
    simulator_latency_seconds: Annotated[
        float, Option(Group.SIMULATOR, "How long it takes for a reply.", "S", flags=("--sim-latency-seconds",)), Ge(0), Le(MOST)
    ] = 0.0

    @property
    def store_place(self) -> Place:
        """Where replies and books are kept."""
        return self.store or self.results / STORE_FILE

    def __post_init__(self) -> None:
        for name, value in _values().checked(self).items():
            object.__setattr__(self, name, value)
        check_show(self.show, self.protocol)
        self._check_shards()
        if self.run is not None:
            check_run_name(self.run)
        addresses = (*(("--base-url", url) for url in self.base_urls), ("--judge-base-url", self.judge_base_url))
        for option, url in (*addresses, ("--moderator-base-url", self.moderator_base_url)):
            if url is not None:
                check_address(url, option)

    def _check_shards(self) -> None:
        if read_shard(self.shard) is not None and self.ray is not None:
            raise UsageError("--shard plays one part here, and --ray hands all of them out; give one of the two")
        if self.until_ci is not None and (self.shard or self.ray):
            raise UsageError("--until-ci ends a run by what was found so far, which no shard knows of the others; leave one of the two out")
        if self.ray is not None and (not self.ray or self.ray.startswith("ray://")):
            raise UsageError(f"--ray {self.ray!r}: give local, auto, or HOST:PORT of a cluster's head from one of its own machines")


@cache
def options() -> tuple[OptionField, ...]:
    """Every option of a run, in the order of the fields."""
    return tuple(option_fields(EvalSettings))


@cache
def _values() -> Values:
    from safemt_api.runs.values import Values  # noqa: PLC0415 (imports pydantic, which --help must not)

    return Values(options())


def settings_from(given: Mapping[str, Any]) -> EvalSettings:
    """Settings from what was given by name: keyword arguments of the Python API, or options of the command line as they were typed.

    Raises:
        UsageError: An option is unknown, or a value is out of range.
    """
    known = {one.name for one in options()}
    for name in sorted(set(given) - known):
        raise UsageError(f"no such option: {name}{did_you_mean(name, known)}; there are: {', '.join(sorted(known))}")
    return EvalSettings(**given)


def identity_of(settings: EvalSettings) -> dict[str, Any]:
    """The options that decide the numbers as they stand, as JSON values."""
    return {one.name: getattr(settings, one.name) for one in options() if one.option.identity}


def identity_defaults() -> dict[str, Any]:
    """What the same options are in a run file of before they were there."""
    return {one.name: one.default for one in options() if one.option.identity}


def free_for_judging() -> tuple[str, ...]:
    """The options of a run's identity that new verdicts over old transcripts change."""
    return tuple(one.name for one in options() if one.option.identity and "judge" in one.option.commands)


def settings_record(settings: EvalSettings) -> dict[str, Any]:
    """All settings as JSON values for the run file, from which ``settings_from_record`` makes them again; they never hold a key."""
    recorded = {one.name for one in options() if one.option.recorded}
    values = {name: value for name, value in asdict(settings).items() if name in recorded}
    from safemt_api.judges.rubric import rubric_record  # noqa: PLC0415 (loads pydantic, which --help must not)

    values["rubric"] = rubric_record(settings.rubric)
    values["store"] = settings.store and str(settings.store)
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in values.items()}


def settings_from_record(record: Mapping[str, Any], *, run: str, results: Path) -> EvalSettings:
    """The settings of a run as its run file tells them; fields that this version does not know are passed over.

    Raises:
        UsageError: A value makes no sense.
    """
    known = {one.name for one in options() if one.option.recorded}
    try:
        return EvalSettings(**{name: value for name, value in record.items() if name in known}, run=run, results=results)
    except UsageError as error:
        raise UsageError(f"the run file of {run} cannot be used ({error}); give the original eval command again") from error


def tiers_of(settings: EvalSettings) -> tuple[ServiceTier, ...]:
    """The tiers that calls are asked in, the preferred one first."""
    named: tuple[ServiceTier, ...] = get_args(ServiceTier)
    return tuple(tier for part in settings.tier.split(",") for tier in named if tier == part)


def dialogues_at_once(settings: EvalSettings) -> int:
    """How many dialogues of a run are under way at one time: as many as may be in flight, or as may wait for a batch."""
    return max(settings.concurrency, BATCHED_DIALOGUES) if "batch" in tiers_of(settings) else settings.concurrency


def calls_assumed(settings: EvalSettings) -> int:
    """How many calls a dialogue is taken to need until one has ended: with batches that is a day, so it is worth knowing better than by
    the most that any dialogue may need. Judges and moderators count twice, since some answers are asked for again.
    """
    turns = max(settings.lengths or LENGTHS) if settings.protocol == "live" else 1
    return turns * (1 + 2 * max(1, len(settings.judges)) + 2 * (settings.moderator is not None))
