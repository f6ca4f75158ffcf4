"""What commands are made of: options derived from the settings' fields or shared by several, ``--help`` in groups, ``safemt.toml``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Concatenate, get_args, get_type_hints

import typer
from typer._click.core import Context  # typer's own base of its Context; the signature must match
from typer._click.formatting import HelpFormatter  # the same
from typer.core import TyperCommand, TyperOption

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.files import read_toml
from safemt_api.foreign_text import printable
from safemt_api.runs.options import RUNS, Command, Group, OptionField
from safemt_api.runs.settings import options
from safemt_api.store.connection import ServerAddress, server_address

Given = dict[str, Any]
"""The options of the settings that were really given, by the names of the fields: as they were typed, or a list of that."""


def takes_settings(
    command: Command, *, helps: Mapping[str, str] | None = None, leave_out: tuple[str, ...] = ()
) -> Callable[[Callable[Concatenate[Given, ...], None]], Callable[..., None]]:
    """A command that takes the options of the settings which are meant for it, and gets the given ones as its first argument.

    What the command takes as ``**shared: Unpack[...]`` becomes an option for each key: those that several commands have.

    Args:
        command: Whose options to take.
        helps: What some options mean here, by the names of their fields.
        leave_out: Fields that this command says in its own way, or not at all.
    """
    taken = [one for one in options() if command in one.option.commands and one.name not in leave_out]

    def decorate(function: Callable[Concatenate[Given, ...], None]) -> Callable[..., None]:
        @wraps(function)
        def run(**values: Any) -> None:
            given = {one.name: values.pop(one.name) for one in taken}
            if "store" in given:
                given["store"] = address(given["store"])  # at once: what was typed may hold a password
            function({name: value for name, value in given.items() if value not in (None, [])}, **values)

        own = list(signature(function, eval_str=True).parameters.values())[1:]
        if own[-1].kind is Parameter.VAR_KEYWORD:
            own[-1:] = _shared(own[-1])
        derived = []
        for one in taken:
            # A string, a list of strings or a flag: what a string means is settled in one place for the command line and for Python.
            kind: Any = bool if one.plain_type is bool else list[str] if one.several else str
            # Where a run goes on, what is not given stays as it was.
            default = f"  [default: {one.default_text}]" if one.default_text and command in RUNS else ""
            text = (helps or {}).get(one.name) or one.option.help + default
            option = typer.Option(*one.flags, help=text, metavar=one.metavar or None, rich_help_panel=one.option.group)
            derived.append(Parameter(one.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]))
        parameters = sorted([*derived, *own], key=lambda one: one.kind)
        # Typer asks for both: the signature, and the annotations.
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # any callable may carry one (PEP 362)
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def address(given: str | None) -> ServerAddress | None:
    """The server that ``--store`` names.

    Raises:
        UsageError: It names none.
    """
    try:
        return None if given is None else server_address(given)
    except UsageError as error:
        raise UsageError(f"--store {error}") from None


def _shared(unpacked: Parameter) -> list[Parameter]:
    """One option a key of an unpacked ``TypedDict``: a flag is off, a value absent, and results lie in ``RESULTS`` unless it is given."""
    hints = get_type_hints(get_args(unpacked.annotation)[0], include_extras=True)
    defaults: dict[Any, object] = {bool: False, Path: RESULTS}
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=defaults.get(get_args(hint)[0]), annotation=hint) for name, hint in hints.items()
    ]


def _like(name: str) -> Any:
    """The option of a field, for a command that has it without being told the rest of the settings."""
    one = next(one for one in options() if one.name == name)
    return typer.Option(*one.flags, help=one.option.help, metavar=one.metavar, rich_help_panel=one.option.group)


Anyway = Annotated[
    bool,
    typer.Option("--anyway", help="Show scores side by side although dialogues, sampling or judges differ; the differences are marked."),
]

RESULTS = Path("results")
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run under the results folder, or its path.")]
Results = Annotated[Path, _like("results")]
Shard = Annotated[str | None, _like("shard")]
Store = Annotated[str | None, _like("store")]
Providers = Annotated[Path | None, _like("providers")]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly the summary as JSON on standard output.", rich_help_panel=Group.OUTPUT)]
FiguresAsJson = Annotated[
    bool, typer.Option("--json", help="Print exactly the figures as JSON on standard output.", rich_help_panel=Group.OUTPUT)
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Do not ask before a run that is expected to cost more than 5 USD.", rich_help_panel=Group.PACE),
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save", metavar="FILE", help="Keep the study as a TOML file for `safemt-api study`, and end.", rich_help_panel=Group.OUTPUT
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the calls, tokens and cost to expect, and send nothing.", rich_help_panel=Group.PACE)
]

OTHERS = "Options"
VALUE_LEFT_OUT = {"--ray": "local"}


class GroupedCommand(TyperCommand):
    """A command whose options stand in their groups (``rich_help_panel``, which typer itself heeds only when it paints with rich)."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Refuse an option that takes one value and stands there twice: click would take the last and say nothing.

        ``--ray`` may stand without its value, which click would take for a mistake.
        """
        typed, args = args, []
        for word, after in zip_longest(typed, typed[1:]):
            left_out = word in VALUE_LEFT_OUT and (after is None or after.startswith("-"))
            args += (word, VALUE_LEFT_OUT[word]) if left_out else (word,)
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(order).items():
            single = isinstance(parameter, TyperOption) and not parameter.multiple and not parameter.is_flag
            if single and count > 1:
                raise UsageError(f"{parameter.opts[-1]} was given {count} times, and takes one value")
        given = {parameter.name for parameter in order}
        if "help" not in given:
            ctx.default_map = defaults_for(
                self.name, frozenset(one.name for one in self.get_params(ctx) if one.name and one.name not in given)
            )
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write arguments, then each group in the order of ``Group``, then what belongs to none."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{group: [] for group in Group}, OTHERS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                here = "Arguments" if parameter.param_type_name == "argument" else getattr(parameter, "rich_help_panel", None) or OTHERS
                sections[here].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


DEFAULTS_FILE = Path("safemt.toml")
"""Defaults of one's own, in the working folder."""

MOST_DEFAULTS_BYTES = 100_000
PLACES = ("results", "providers")
OF_A_RUN = ("resume", "canary", "run", "label", "calibrate")
"""Commands whose runs have their settings already."""


def defaults_for(command: str | None, wanted: frozenset[str]) -> dict[str, Any]:
    """What ``safemt.toml`` says for the parameters of a command that were not typed, as if they had been.

    One option a line, named as on the command line with ``_`` for ``-``; what is used is said on standard error. A run that goes on, and
    new verdicts over one, keep what the run was made with, so there the file only says where things are.

    Raises:
        UsageError: Names the file and the key, and says what would be right.
    """
    if not DEFAULTS_FILE.is_file():
        return {}
    written = read_toml(DEFAULTS_FILE, most_bytes=MOST_DEFAULTS_BYTES, cure="defaults are a few lines of text").tables
    known = {flag.removeprefix("--").replace("-", "_"): one for one in options() for flag in one.flags if flag.startswith("--")}
    for key in written:
        if key not in known:
            raise UsageError(f"{DEFAULTS_FILE}: no such option: {key}{did_you_mean(key, tuple(known))}")
    used = [key for key in written if known[key].name in wanted and (command not in OF_A_RUN or key in PLACES)]
    if used:
        sys.stderr.write(printable(f"from {DEFAULTS_FILE}: {', '.join(used)}") + "\n")
    return {known[key].name: _typed(key, known[key], written[key]) for key in used}


def _typed(key: str, option: OptionField, value: object) -> object:
    """The value as click would have it from the command line: text, a list of text, or a flag."""
    if option.plain_type is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{DEFAULTS_FILE}: {key} {value!r}: give true or false")
        return value
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in values):
        raise UsageError(f"{DEFAULTS_FILE}: {key} {value!r}: give text or a number{', or a list of them' if option.several else ''}")
    if option.several:
        return [str(one) for one in values]
    return ",".join(str(one) for one in values)
