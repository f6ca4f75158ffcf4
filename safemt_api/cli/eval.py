"""``safemt-api eval``: evaluate a model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.runs.settings import settings_from


class ProtocolName(StrEnum):
    """The two protocols."""

    SCRIPTED = "scripted"
    LIVE = "live"


class Kinds(StrEnum):
    """Which dialogues to take."""

    HARMFUL = "harmful"
    BENIGN = "benign"
    BOTH = "both"


class ModeratorFailureName(StrEnum):
    """What a failing moderator means."""

    FAIL = "fail"
    OPEN = "open"
    CLOSED = "closed"


TAKEN = {Kinds.HARMFUL: ("harmful",), Kinds.BENIGN: ("benign",), Kinds.BOTH: ("harmful", "benign")}


def evaluate(
    *,
    provider: options.Provider = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="Model under test. Default: the vendor's default model.")
    ] = None,
    base_url: options.BaseUrl = None,
    data: options.Data = None,
    lengths: options.Lengths = None,
    protocol: Annotated[
        ProtocolName,
        typer.Option("--protocol", help="scripted: the paper's, one call a dialogue; live: the model's own replies become the history."),
    ] = ProtocolName.SCRIPTED,
    concurrency: options.Concurrency = None,
    sample: Annotated[
        int | None, typer.Option("--sample", metavar="N", help="Take N ids, spread over the scenarios, with all chosen lengths of each.")
    ] = None,
    scenario: options.Scenario = None,
    kinds: Annotated[Kinds, typer.Option("--kinds", help="Harmful dialogues, benign ones (over-refusal), or both.")] = Kinds.HARMFUL,
    skip_invalid: options.SkipInvalid = False,
    until_ci: Annotated[
        float | None,
        typer.Option(
            "--until-ci",
            metavar="HALF",
            help="Spot check: go on in random order until the 95% interval of overall ASR is ±HALF (0.05: 5 points), then stop.",
        ),
    ] = None,
    seed: options.Seed = 0,
    max_usd: options.MaxUsd = None,
    max_output_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-output-tokens",
            metavar="N",
            help="Most tokens of a reply, reasoning included. Default: 1024, or 4096 for models that reason.",
        ),
    ] = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    system: options.System = None,
    judge: options.Judges = None,
    judge_fallback: options.JudgeFallback = None,
    judge_base_url: options.JudgeBaseUrl = None,
    rubric: options.Rubric = None,
    moderator: Annotated[
        str | None,
        typer.Option(
            "--moderator",
            metavar="SPEC",
            help="none, policy:PROVIDER:MODEL, raw:PROVIDER:MODEL, guard:PROVIDER:MODEL or moderation:openai.",
        ),
    ] = None,
    moderator_base_url: Annotated[
        str | None, typer.Option("--moderator-base-url", metavar="URL", help="Address of the moderator's server.")
    ] = None,
    moderator_failure: Annotated[
        ModeratorFailureName,
        typer.Option("--moderator-failure", help="When the moderator fails: the dialogue fails, goes on unguarded, or is refused."),
    ] = ModeratorFailureName.FAIL,
    policies: options.Policies = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Name of the run; one that exists goes on. Default: date, model, protocol.")
    ] = None,
    results: options.Results = options.RESULTS,
    providers: options.Providers = None,
    rpm: options.Rpm = None,
    tpm: options.Tpm = None,
    max_failures: options.MaxFailures = None,
    stall_seconds: options.StallSeconds = None,
    connect_seconds: options.ConnectSeconds = None,
    idle_seconds: options.IdleSeconds = None,
    total_seconds: options.TotalSeconds = None,
    fault: options.Fault = None,
    sim_seed: options.SimSeed = None,
    sim_latency_seconds: options.SimLatencySeconds = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Evaluate a model: play the dialogues, judge the replies, print and write the scores.

    Without any option the demonstration set runs against the built-in simulator: no key, no network, no bill.
    """
    given = options.given(
        provider=provider,
        model=model,
        base_urls=options.many(base_url),
        data=data,
        lengths=options.numbers(lengths, "--lengths"),
        protocol=protocol.value,
        concurrency=concurrency,
        sample=sample,
        scenarios=options.many(scenario),
        kinds=TAKEN[kinds],
        skip_invalid=skip_invalid,
        until_ci=until_ci,
        seed=seed,
        max_usd=max_usd,
        max_output_tokens=max_output_tokens,
        temperature=temperature,
        top_p=top_p,
        system=system,
        judges=options.many(judge),
        judge_fallback=judge_fallback,
        judge_base_url=judge_base_url,
        rubric=rubric,
        moderator=moderator,
        moderator_base_url=moderator_base_url,
        moderator_failure=moderator_failure.value,
        policies=policies,
        run=run,
        results=results,
        providers=providers,
        rpm=rpm,
        tpm=tpm,
        max_failures=max_failures,
        stall_seconds=stall_seconds,
        connect_seconds=connect_seconds,
        idle_seconds=idle_seconds,
        total_seconds=total_seconds,
        simulator_faults=fault,
        simulator_seed=sim_seed,
        simulator_latency_seconds=sim_latency_seconds,
    )
    settings = settings_from(given)
    from safemt_api.cli.running import run_evaluation  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    raise typer.Exit(run_evaluation(settings, dry_run=dry_run, as_json=as_json, yes=yes))
