"""The commands put together."""

from __future__ import annotations

from typing import Annotated

import typer

import safemt_api
from safemt_api.cli.canary import canary
from safemt_api.cli.data import data_app
from safemt_api.cli.eval import evaluate, resume
from safemt_api.cli.judge import judge_app
from safemt_api.cli.options import GroupedCommand
from safemt_api.cli.providers import providers_app
from safemt_api.cli.report import compare, export, paper, report
from safemt_api.cli.rubric import rubric_app
from safemt_api.cli.runs import gc, rm, runs
from safemt_api.cli.simulate import simulate
from safemt_api.cli.study import ablate, defend, study, sweep
from safemt_api.cli.view import view

EPILOGUE = (
    "Keys come from the environment or from .env in the working directory. "
    "Exit codes: 0 done, 2 usage or setup, 3 budget, 4 failures, 130 interrupted."
)

app = typer.Typer(
    name="safemt-api",
    help="Evaluate the safety of multimodal models over multi-turn dialogues (SafeMT): durable, paced, within budget.",
    epilog=EPILOGUE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"safemt-api {safemt_api.__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error (may stand anywhere).")] = False,
) -> None:
    """Options of every command; ``--debug`` is taken out before typer sees the line."""


app.command("eval", cls=GroupedCommand)(evaluate)
app.command("resume", cls=GroupedCommand)(resume)
app.add_typer(judge_app, name="judge")
app.add_typer(rubric_app, name="rubric")
app.command("report", cls=GroupedCommand)(report)
app.command("compare", cls=GroupedCommand)(compare)
app.command("canary", cls=GroupedCommand)(canary)
app.command("study", cls=GroupedCommand)(study)
app.command("sweep", cls=GroupedCommand)(sweep)
app.command("defend", cls=GroupedCommand)(defend)
app.command("ablate", cls=GroupedCommand)(ablate)
app.add_typer(data_app, name="data")
app.add_typer(providers_app, name="providers")
app.command("simulate", cls=GroupedCommand)(simulate)
app.command("export", cls=GroupedCommand)(export)
app.command("tables", cls=GroupedCommand)(paper)
app.command("runs", cls=GroupedCommand)(runs)
app.command("view", cls=GroupedCommand)(view)
app.command("rm", cls=GroupedCommand)(rm)
app.command("gc", cls=GroupedCommand)(gc)
