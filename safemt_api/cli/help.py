"""How ``--help`` looks: options in groups."""

from __future__ import annotations

from typer._click.core import Context  # typer's own base of its Context; the signature must match
from typer._click.formatting import HelpFormatter  # the same
from typer.core import TyperCommand

from safemt_api.runs.options import Group

OTHERS = "Options"


class GroupedCommand(TyperCommand):
    """A command whose options stand in their groups (``rich_help_panel``, which typer itself heeds only when it paints with rich)."""

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
