"""``safemt-api runs``, ``rm`` and ``gc``: what stands in a results folder, under way or not, and what it can do without."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use

with imported_on_use():
    from safemt_api import errors, words
    from safemt_api.cli import terminal
    from safemt_api.report import views
    from safemt_api.runs import overview, removal

if TYPE_CHECKING:
    from safemt_api.store.connection import ServerAddress

MOST_NAMED = 5
AgreedTo = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def runs(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking until Ctrl-C; runs of other terminals show too.")] = False,
    results: options.Results = options.RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """List the runs of a results folder: state, progress, ASR so far, missing verdicts, spend, age."""
    if as_json:
        terminal.put_json(overview.overview(results))
    elif watch:
        views.watch_runs(results, terminal.output_console())
    else:
        terminal.show(views.run_list(overview.overview(results), results))


def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Runs or studies under the results folder, or their paths.")],
    *,
    results: options.Results = options.RESULTS,
    yes: AgreedTo = False,
) -> None:
    """Remove runs or studies: say what would go, and ask. Their replies stay in the store until `gc`, what they spent in its books."""
    found = [removal.look_at(name, results) for name in names]
    for one in found:
        arms = f", a study with {len(one.arms)} arms" if one.arms else ""
        terminal.say(f"{one.name}{arms}: {one.files:,} files, {words.size(one.size_bytes)} in {one.folder}")
        if one.study is not None:
            terminal.say(f"  it is an arm of the study {one.study}, which loses it")
        if one.foreign:
            terminal.say(f"  among them are files that no run writes by itself: {words.first_few(one.foreign, MOST_NAMED)}")
    if not _agreed(f"Remove {', '.join(one.name for one in found)}?", yes=yes):
        raise typer.Exit(errors.EXIT_SETUP)
    for one in found:
        terminal.run_loop(partial(removal.forget, one))
        removal.remove(one)
        terminal.say(f"removed {one.name}")


def gc(*, results: options.Results = options.RESULTS, store: options.Store = None, yes: AgreedTo = False) -> None:
    """Free the stored replies that no run of the results folder uses: say how many and what they cost, and ask.

    With --store, those that no run uses which any machine has played with it, and nobody has removed.
    """
    raise typer.Exit(terminal.run_loop(partial(_free, results, options.address(store), yes=yes)))


async def _free(results: Path, store: ServerAddress | None, *, yes: bool) -> int:
    found = await removal.find_garbage(results, store)
    unused = found.unused
    if not unused.replies:
        terminal.say(f"every reply is used, or may be, by the {found.runs:,} runs here; nothing to free", *found.undecided)
        return errors.EXIT_DONE
    of = f" (of {', '.join(unused.users[:MOST_NAMED])}{' and others' if len(unused.users) > MOST_NAMED else ''})" if unused.users else ""
    terminal.say(
        f"{unused.replies:,} replies, {words.size(unused.size_bytes)}, are used by none of the {found.runs:,} runs here{of}; "
        f"they cost {words.dollars(unused.cost_usd)}",
        *found.undecided,
    )
    if not _agreed(f"Free {found.unused.replies:,} replies for good?", yes=yes):
        return errors.EXIT_SETUP
    terminal.say(f"freed {await removal.collect_garbage(results, store):,} replies")
    return errors.EXIT_DONE


def _agreed(question: str, *, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        terminal.say("nothing was done: there is no terminal to ask on; --yes does it")
        return False
    return terminal.agrees(question)
