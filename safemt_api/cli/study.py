"""``safemt-api study``, ``sweep``, ``defend``, ``ablate``: evaluations over the same dialogues, under one ceiling, in one report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypedDict, Unpack

import anyio
import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.errors import UsageError
from safemt_api.foreign_text import printable
from safemt_api.runs.options import Group

with imported_on_use():
    from safemt_api import errors, files, words
    from safemt_api.cli import progress, terminal
    from safemt_api.report import page as pages
    from safemt_api.report import views
    from safemt_api.runs import estimate
    from safemt_api.runs import folder as run_folder
    from safemt_api.studies import ablate as ablations
    from safemt_api.studies import defend as defences
    from safemt_api.studies import file as study_file
    from safemt_api.studies import play as studying
    from safemt_api.studies import sweep as sweeps

if TYPE_CHECKING:
    from rich.table import Table

    from safemt_api.runs.estimate import Estimate
    from safemt_api.runs.plan import Plan
    from safemt_api.runs.play import RunStatistics
    from safemt_api.studies.arms import Study
    from safemt_api.studies.play import StudyExecution, StudyResult

REFRESH_SECONDS = 0.5
LINE_SECONDS = 10.0
EXIT_DECLINED = 2

MaxUsd = Annotated[
    float | None,
    typer.Option(
        "--max-usd",
        metavar="X",
        help="One ceiling over all arms, judges and moderators included; stands over the file's.",
        rich_help_panel=Group.PACE,
    ),
]


class Playing(TypedDict):
    """The options of every command that makes a study: what it is called, what it may cost, and what is done with it."""

    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "--run",
            metavar="NAME",
            help="Of the study; one that exists goes on. Default: date, command and a digest.",
            rich_help_panel=Group.OUTPUT,
        ),
    ]
    save: options.Save
    max_usd: MaxUsd
    results: options.Results
    dry_run: options.DryRun
    as_json: options.AsJson
    yes: options.Yes


def study(
    name: Annotated[str | None, typer.Argument(metavar="FILE", help="A TOML file, or the name of a study that ships.")] = None,
    *,
    show: Annotated[str | None, typer.Option("--show", metavar="NAME", help="Print a study that ships, and end.")] = None,
    max_usd: MaxUsd = None,
    shard: options.Shard = None,
    results: options.Results = options.RESULTS,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Play a study, or go on with it: arms over the same dialogues at the same time, one ceiling, one report.

    The same command goes on where it stopped; an arm that was added to the file later starts where it stands.
    """
    if show is not None:
        typer.echo(printable(study_file.find_study(show).read_text(encoding="utf-8")), nl=False)
        return
    if name is None:
        raise UsageError(f"which study? Give a file, or one that ships: {', '.join(study_file.shipped_names())}")
    made = study_file.read_study(study_file.find_study(name))
    made = made if shard is None else replace(made, shared={**made.shared, "shard": shard})
    _play(made, max_usd=max_usd, results=results, dry_run=dry_run, as_json=as_json, yes=yes)


@options.takes_settings("eval", leave_out=("provider", "model", "run", "results", "max_usd", "until_ci", "show", "ray", "workers"))
def sweep(
    given: options.Given,
    *,
    target: Annotated[
        list[str], typer.Option("--target", metavar="SPEC", help="PROVIDER:MODEL; several times, the first is the reference.")
    ],
    **how: Unpack[Playing],
) -> None:
    """Evaluate several models over the same dialogues at the same time: a ranking with the range that the data leave open."""
    _keep_or_play(sweeps.sweep(target, given, name=how["name"], max_usd=how["max_usd"]), how)


@options.takes_settings("eval", leave_out=("run", "results", "max_usd", "until_ci", "show", "ray", "workers"))
def ablate(
    given: options.Given,
    *,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="PART", help="no-picture, blank-picture, no-history or no-replies; default: all of them."),
    ] = None,
    **how: Unpack[Playing],
) -> None:
    """Say what picture and history do: the same model shown the whole dialogue, and all but one part of it."""
    _keep_or_play(ablations.ablate(given, without=without or (), name=how["name"], max_usd=how["max_usd"]), how)


@options.takes_settings("defend", leave_out=("run", "results", "max_usd"))
def defend(
    given: options.Given,
    *,
    moderator: Annotated[
        list[str],
        typer.Option(
            "--moderator",
            metavar="SPEC",
            help="policy:PROVIDER:MODEL, raw:PROVIDER:MODEL, guard:PROVIDER:MODEL or moderation:openai; repeat it to compare several.",
            rich_help_panel=Group.MODERATOR,
        ),
    ],
    moderator_base_url: Annotated[
        list[str] | None,
        typer.Option(
            "--moderator-base-url",
            metavar="URL",
            help="Address of the moderators' server; or one for each --moderator, in their order (- for the provider's own).",
            rich_help_panel=Group.MODERATOR,
        ),
    ] = None,
    **how: Unpack[Playing],
) -> None:
    """Measure moderators: the same dialogues, harmful and benign, without any and with each, compared pair by pair.

    A study whose arms differ in the moderator: the same command goes on where it stopped, and target calls that are the same in two arms
    are bought once.
    """
    made = defences.defend(moderator, given, base_urls=moderator_base_url or (), name=how["name"], max_usd=how["max_usd"])
    _keep_or_play(made, how)


def _keep_or_play(made: Study, how: Playing) -> None:
    if how["save"] is None:
        _play(made, results=how["results"], dry_run=how["dry_run"], as_json=how["as_json"], yes=how["yes"])
    keep(made, how["save"])


def keep(made: Study, file: Path) -> None:
    """Write the study to a file that `safemt-api study` plays, after each arm's options were looked at."""
    for arm in made.arms:
        made.settings(arm)
    files.write_text(file, study_file.study_text(made))


def _play(made: Study, *, results: Path, max_usd: float | None = None, dry_run: bool, as_json: bool, yes: bool) -> NoReturn:
    whole = made if max_usd is None else replace(made, max_usd=max_usd)
    raise typer.Exit(terminal.run_loop(partial(_played, whole, results=results, dry_run=dry_run, as_json=as_json, yes=yes)))


async def _played(study: Study, *, results: Path, dry_run: bool, as_json: bool, yes: bool) -> int:
    if dry_run or terminal.should_ask(yes=yes, max_usd=study.max_usd):
        async with studying.open_study(study, results=results, dry_run=dry_run) as plans:
            found = {name: await estimate.estimate(plan) for name, plan in plans.items()}
        if dry_run:
            _show_estimates(found, as_json=as_json)
            return 0
        expected = sum(one.expected_usd for one in found.values())
        question = f"This study is expected to cost {words.dollars(expected)}; --max-usd sets a ceiling. Start?"
        if expected > terminal.ASK_ABOVE_USD and not terminal.agrees(question):
            terminal.say("not started")
            return EXIT_DECLINED
    watch = _watch_live if terminal.error_console().is_terminal else _watch_lines
    result = await studying.study(study, results=results, watch=watch, signals=terminal.ENDING_SIGNALS, opening=_say_opening)
    if result.standing is not None and not result.standing.all_over:
        over = f"{result.standing.over} of {result.standing.parts} shards are over, and the last one writes the report"
        terminal.say(*_ending(study, result, results), f"shard {study.shared['shard']} of {study.name} has ended; {over}")
        return result.exit_code
    if any(arm.state != "left out" for arm in result.record.arms):
        pages.write_study_page(result.folder, result.record)
    terminal.put_json(result.record.json_value()) if as_json else terminal.show(views.study_report(result.record))
    terminal.say(*_ending(study, result, results))
    return result.exit_code


def _say_opening(plans: Mapping[str, Plan]) -> None:
    first = next(iter(plans.values()))
    terminal.say(*dict.fromkeys(remark for plan in plans.values() for remark in plan.remarks))
    what = f"{len(first.entries):,} dialogues each, lengths {words.listed(first.dataset.lengths)}, from {first.dataset.name}"
    going_on = sum(plan.resumed for plan in plans.values())
    terminal.say(f"{len(plans)} arms ({', '.join(plans)}) over {what}" + (f"; {going_on} go on" if going_on else ""))


def _show_estimates(found: Mapping[str, Estimate], *, as_json: bool) -> None:
    if as_json:
        terminal.put_json({name: one.record() for name, one in found.items()})
        return
    amounts = {name: (one.expected_usd, one.most_usd) for name, one in found.items()}
    amounts["all"] = (sum(expected for expected, _ in amounts.values()), sum(most for _, most in amounts.values()))
    rows = [(name, *map(words.dollars, both)) for name, both in amounts.items()]
    terminal.show(terminal.table("", ("arm", "expected", "at most"), rows))
    terminal.say("each arm by itself; a call that two arms share is bought once")


async def _watch_live(playing: StudyExecution) -> None:
    news = progress.News()
    with terminal.live() as live:
        try:
            while True:
                for said in news.of(playing.statistics()):
                    live.console.print(terminal.heading(said))
                live.update(_progress(playing), refresh=True)
                await anyio.sleep(REFRESH_SECONDS)
        finally:
            live.update(_progress(playing), refresh=True)


async def _watch_lines(playing: StudyExecution) -> None:
    news, due_at = progress.News(), anyio.current_time() + LINE_SECONDS
    while True:
        await anyio.sleep(progress.LOOK_SECONDS)
        terminal.say(*news.of(playing.statistics()))
        if anyio.current_time() >= due_at:
            due_at += LINE_SECONDS
            terminal.say(_line(playing.statistics(), arms=len(playing.study.arms)))


def _line(found: Mapping[str, RunStatistics], *, arms: int) -> str:
    """How far all arms are in one line: a study of 17 of them has no room for each."""
    if not found:
        return f"{arms} arms are about to begin"
    slowest = min(found, key=lambda name: found[name].finished)
    done, planned = (sum(getattr(one, name) for one in found.values()) for name in ("finished", "planned"))
    missing = sum(one.without_verdict for one in found.values())
    parts = [f"{len(found)} of {arms} arms: {done:,} of {planned:,} dialogues", f"slowest {slowest} {_done(found[slowest])}"]
    parts += [f"{missing:,} without verdict"] if missing else []
    return " · ".join([*parts, words.dollars(sum(one.spent_usd for one in found.values()))])


def _progress(playing: StudyExecution) -> Table:
    found = playing.statistics()
    rows = []
    for arm in playing.study.arms:
        one = found.get(arm.name)
        if one is None:
            rows.append((arm.name, words.NOTHING, *[""] * 5))
            continue
        ended = " (left out)" if arm.name in playing.left_out else ""
        silent = max(0, one.without_verdict - one.failed)
        counts = (_done(one), str(one.failed), str(silent), words.percent(one.asr_so_far), str(one.gateway.in_flight))
        rows.append((arm.name + ended, *counts, words.dollars(one.spent_usd)))
    return terminal.table("", ("arm", "done", "failed", "no verdict", "ASR so far", "in flight", "cost"), rows)


def _done(one: RunStatistics) -> str:
    return f"{one.finished:,} of {one.planned:,}"


def _ending(study: Study, result: StudyResult, results: Path) -> list[str]:
    """Which arms were left out and why, where the study is, and how to go on."""
    said = [f"arm {name} was left out: {why}" for name, why in result.left_out.items()]
    page = result.folder / run_folder.REPORT_FILE
    said.append(f"study: {result.folder / run_folder.STUDY_FILE}" + (f", page: {page}" if page.is_file() else ""))
    reasons = {
        errors.EXIT_INTERRUPTED: "interrupted; everything so far is kept",
        errors.EXIT_BUDGET: f"the ceiling of {words.dollars(study.max_usd)} is reached; raise --max-usd",
        errors.EXIT_FAILURES: "more dialogues failed or lack a verdict than --max-failures allows",
    }
    if result.exit_code != errors.EXIT_DONE:
        reason = reasons.get(result.exit_code, "an arm could not go on")
        elsewhere = "" if str(results) == "results" else f" (--results {shlex.quote(str(results))})"
        said.append(f"stopped: {reason}. The same command goes on where it stopped{elsewhere}.")
    return said
