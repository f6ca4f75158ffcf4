"""``safemt-api defend``: what moderators do to a model's safety, and what they cost."""

from __future__ import annotations

from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.eval import ModeratorFailureName, ProtocolName
from safemt_api.runs.settings import settings_from


def defend(
    *,
    moderator: Annotated[
        list[str],
        typer.Option(
            "--moderator",
            metavar="SPEC",
            help="policy:PROVIDER:MODEL, raw:PROVIDER:MODEL, guard:PROVIDER:MODEL or moderation:openai; repeat it to compare several.",
        ),
    ],
    provider: options.Provider = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="Model to defend. Default: the vendor's default model.")
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
        int | None,
        typer.Option("--sample", metavar="N", help="Take N ids of each kind, spread over the scenarios, with all chosen lengths of each."),
    ] = None,
    scenario: options.Scenario = None,
    skip_invalid: options.SkipInvalid = False,
    seed: options.Seed = 0,
    max_usd: Annotated[
        float | None,
        typer.Option("--max-usd", metavar="X", help="Ceiling on all that all arms spend together, judge and retries included."),
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option("--max-output-tokens", metavar="N", help="Most tokens of a reply, reasoning included.")
    ] = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    system: options.System = None,
    judge: options.Judges = None,
    judge_fallback: options.JudgeFallback = None,
    judge_base_url: options.JudgeBaseUrl = None,
    rubric: options.Rubric = None,
    moderator_base_url: Annotated[
        list[str] | None,
        typer.Option(
            "--moderator-base-url",
            metavar="URL",
            help="Address of the moderators' server; or one for each --moderator, in their order (- for the provider's own).",
        ),
    ] = None,
    moderator_failure: Annotated[
        ModeratorFailureName,
        typer.Option("--moderator-failure", help="When a moderator fails: the dialogue fails, goes on unguarded, or is refused."),
    ] = ModeratorFailureName.FAIL,
    policies: options.Policies = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="What the arms' names begin with (NAME-none, NAME-SPEC); arms that exist go on."),
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
    as_json: Annotated[bool, typer.Option("--json", help="Print exactly the record (defence.json) on standard output.")] = False,
    yes: options.Yes = False,
) -> None:
    """Measure moderators: the same dialogues, harmful and benign, without any and with each, compared pair by pair.

    Every arm is a run of its own, so the same command goes on where it stopped, and target calls that are the same in two arms are
    bought once.
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
        skip_invalid=skip_invalid,
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
    from safemt_api.cli.defending import run_defence  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    urls = tuple(moderator_base_url or ())
    raise typer.Exit(run_defence(settings, tuple(moderator), urls, dry_run=dry_run, as_json=as_json, yes=yes))
