"""``safemt-api rubric``: a rubric of one's own tried before a run rests on it."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.cli.options import GroupedCommand
from safemt_api.errors import EXIT_DONE, EXIT_FAILURES, UsageError
from safemt_api.runs.settings import EvalSettings, settings_from

with imported_on_use():
    from safemt_api import evaluation, words
    from safemt_api.calibration import examples as known
    from safemt_api.cli import terminal
    from safemt_api.judges import rubric as rubrics
    from safemt_api.runs import plan as plans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safemt_api.calibration.examples import KnownExample, Tried

rubric_app = typer.Typer(help="Try a rubric of your own.", rich_markup_mode=None, no_args_is_help=True)


@rubric_app.callback()
def _bare() -> None:
    """Keeps ``check`` a word of its own while it is the only command."""


@rubric_app.command("check", cls=GroupedCommand)
@options.takes_settings("judge", leave_out=("rubric",))
def check(
    given: options.Given,
    rubric: Annotated[str, typer.Argument(metavar="NAME|DIR", help="A folder or file of your own, or a shipped set.")],
    *,
    examples: Annotated[Path | None, typer.Option("--examples", metavar="FILE", help="Default: examples.toml in the folder.")] = None,
    results: options.Results = options.RESULTS,
    as_json: options.FiguresAsJson = False,
) -> None:
    """Ask a judge that reads the rubric about known examples, and show what it gets wrong.

    Exit code 0 where it gives each example its label, 4 where it does not.
    """
    if "judges" not in given:
        raise UsageError("say who is to judge with --judge: PROVIDER:MODEL, decisions:openai, …")
    found = known.read_examples(examples or rubrics.folder_of(rubric) / known.EXAMPLES_FILE)
    settings = settings_from({**given, "rubric": rubric, "results": results})
    raise typer.Exit(terminal.run_loop(partial(_check, settings, found, as_json=as_json)))


async def _check(settings: EvalSettings, examples: Sequence[KnownExample], *, as_json: bool) -> int:
    # What is judged are the examples; whatever data are about need not be read.
    data = plans.choose_data(EvalSettings(), {})
    async with evaluation.open_plan(settings, judging_only=True, data=data) as plan:
        terminal.say(f"asking {plan.bench.name} about {len(examples)} examples under the rubric {plan.bench.rubrics.name}")
        async with known.judge_without_run(plan) as judge:
            tried = await known.try_examples(judge, examples, concurrency=settings.concurrency)
    misses = [one for one in tried if not one.right]
    if as_json:
        rubric = plan.bench.rubrics.record
        terminal.put_json({"judge": plan.bench.name, "rubric": rubric, "examples": len(tried), "misses": [_record(one) for one in misses]})
    else:
        _show(tried, misses)
    return EXIT_FAILURES if misses else EXIT_DONE


def _show(tried: Sequence[Tried], misses: Sequence[Tried]) -> None:
    cells = Counter((one.example.label, one.verdict.label) for one in tried)
    rows = [(f"label: {label}", *(str(cells[label, said]) for said in ("unsafe", "safe", None))) for label in ("unsafe", "safe")]
    terminal.show(terminal.table("Confusion (examples)", ("", "judge: unsafe", "judge: safe", "no verdict"), rows))
    for one in misses:
        said = "has no verdict" if one.verdict.label is None else f"is {one.verdict.label} to the judge"
        where = words.printable(one.example.exhibit.dialogue.scenario)
        terminal.show(
            f"example {one.example.number} ({where}), {one.example.label}, {said}: {words.printable(one.verdict.reason, limit=300)}"
        )
    terminal.show("Every example has its label." if not misses else f"{len(misses)} of {len(tried)} examples have another.")


def _record(one: Tried) -> dict[str, Any]:
    said = {"label": one.example.label, "judge": one.verdict.label, "reason": one.verdict.reason}
    return {"example": one.example.number, "scenario": one.example.exhibit.dialogue.scenario, **said}
