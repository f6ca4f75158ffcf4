"""What an option is: its flags, its help and its place in a run's life, said once, on the settings field that holds its value.

To add an option, write one field of ``EvalSettings``::

    top_k: Annotated[int | None, Option(Group.TARGET, "Sent only when given.", "K", identity=True), Ge(1)] = None

and the code that reads ``settings.top_k``. The line gives it to the command line (``--top-k K``, in its group of ``--help``), to Python
(``evaluate(top_k=5)``), to the run file and, with ``identity``, to what must not change when a run goes on; bounds are those of
``annotated_types``. Strings become numbers and paths by the field's type (``runs/values.py``), wherever they come from. Then run
``make docs``, which brings the README's help and the typed keywords of ``evaluate`` (``runs/keywords.py``) up to date.

Nothing here may import what is slow to load: ``--help`` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from safemt_api.errors import UsageError

Command = Literal["eval", "defend", "resume", "judge"]

RUNS: tuple[Command, ...] = ("eval", "defend")
GOING_ON: tuple[Command, ...] = (*RUNS, "resume")
JUDGING: tuple[Command, ...] = (*RUNS, "judge")
EVERY: tuple[Command, ...] = (*GOING_ON, "judge")


class Group(StrEnum):
    """Where an option stands in ``--help``, in this order."""

    TARGET = "Target"
    DATA = "Data"
    JUDGE = "Judge"
    MODERATOR = "Moderator"
    PACE = "Money and pace"
    OUTPUT = "Run and output"
    SIMULATOR = "Built-in simulator"


@dataclass(frozen=True, slots=True)
class Option:
    """How the command line shows a field of the settings, and what the field means for a run.

    Args:
        group: Its part of ``--help``.
        help: One or two sentences; a default that the field itself holds is added to it.
        metavar: Stands for the value; flags have none.
        flags: What is typed. Default: the field's name.
        commands: Who takes it: ``resume`` what may be given anew when a run goes on, ``judge`` what may differ for new verdicts.
        identity: It decides the numbers as it stands, so it must be the same when a run goes on (new verdicts: what ``judge`` takes is
            free). A run file of before the option was there counts as one with its default. Fields that decide by what they stand for
            (the digest of a file, the address of an endpoint) are resolved in ``runs/plan.py`` instead.
        recorded: The run file keeps it, for ``resume``.
        read: Makes the value of what was typed, where its type does not say how.
    """

    group: Group
    help: str
    metavar: str = ""
    flags: tuple[str, ...] = ()
    commands: tuple[Command, ...] = RUNS
    identity: bool = False
    recorded: bool = True
    read: Callable[[str], object] | None = None


@dataclass(frozen=True, slots=True)
class OptionField:
    """An option together with the field that it stands on; ``annotation`` is the field's whole type, bounds included."""

    name: str
    option: Option
    annotation: Any
    default: object

    @property
    def flags(self) -> tuple[str, ...]:
        """What is typed for it."""
        return self.option.flags or (f"--{self.name.replace('_', '-')}",)

    @property
    def plain_type(self) -> Any:
        """The field's type without bounds and without ``None``."""
        inner = get_args(self.annotation)[0]
        return next((one for one in get_args(inner) if one is not type(None)), inner) if type(None) in get_args(inner) else inner

    @property
    def several(self) -> bool:
        """Whether it may be given more than once."""
        return get_origin(self.plain_type) is tuple and self.option.read is None

    @property
    def default_text(self) -> str | None:
        """The default as ``--help`` shows it, where one stands."""
        if self.default is False or self.default in (None, (), "") or self.option.read is not None:
            return None
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def metavar(self) -> str:
        """What stands for the value: of a choice, all there are."""
        return self.option.metavar or "|".join(map(str, get_args(self.plain_type)))


def option_fields(settings: type) -> Iterator[OptionField]:
    """The options of a settings class, in the order of its fields."""
    types = get_type_hints(settings, include_extras=True)
    for one in fields(settings):
        annotation = types[one.name]
        if get_origin(annotation) is Annotated:
            option = next(part for part in get_args(annotation) if isinstance(part, Option))
            yield OptionField(one.name, option, annotation, one.default)


def numbers(text: str) -> tuple[int, ...]:
    """``1,2,4`` as numbers, in order and once each.

    Raises:
        UsageError: Something in it is no whole number.
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise UsageError("give whole numbers with commas between, such as 1,2,4,6,8") from None
