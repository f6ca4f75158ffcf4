"""A command as all of ours are: its options in groups in ``--help``, and what takes one value may be given once."""

from __future__ import annotations

from collections import Counter

from typer._click.core import Context  # typer's own base of its Context; the signature must match
from typer._click.formatting import HelpFormatter  # the same
from typer.core import TyperCommand, TyperOption

from safemt_api.cli.defaults import defaults_for
from safemt_api.errors import UsageError
from safemt_api.runs.options import Group

OTHERS = "Options"


class GroupedCommand(TyperCommand):
    """A command whose options stand in their groups (``rich_help_panel``, which typer itself heeds only when it paints with rich)."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Refuse an option that takes one value and stands there twice: click would take the last and say nothing."""
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
