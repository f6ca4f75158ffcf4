"""Whom to ask, taken apart once: what ``--target``, ``--judge`` and ``--moderator`` were given.

    openai:gpt-6-luna               a model
    guard:vllm:llama-guard-4        a kind, and the model it asks
    moderation:openai               a kind that knows the provider's model
    rules                           a kind that asks nobody
    openai:gpt-6-luna,effort=high   options for this one alone, after commas

Which kinds there are stands where they are made (``judges.bench.JUDGES``, ``moderators.opening.MODERATORS``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from safemt_api.errors import UsageError, did_you_mean

RULES: Final = "rules"
"""The baseline judge, which asks nobody."""

NONE: Final = "none"
"""No moderator."""

MAX_CHARACTERS = 300
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Spec:
    """Whom to ask: ``provider`` is empty where nobody is asked, ``model`` where the provider's default is meant.

    Two are equal that ask the same in the same way, however they were written; ``text`` is what was written, and the name in files and
    reports.
    """

    text: str = field(compare=False)
    kind: str
    provider: str = ""
    model: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of target, judge or moderator, and how it is written.

    Args:
        name: What stands before the first colon; the plain kind of a grammar needs no name.
        form: The whole, as help and errors show it.
        alone: The name is all: nobody is asked.
        models: The model of each provider that needs none to be named.
        needs_model: Whether a model must be named where ``models`` has none.
        options: The names of what may follow after a comma.
    """

    name: str
    form: str
    alone: bool = False
    models: Mapping[str, str] = field(default_factory=dict)
    needs_model: bool = True
    options: tuple[str, ...] = ()


K = TypeVar("K", bound=Kind)


@dataclass(frozen=True, slots=True)
class Grammar(Generic[K]):
    """The specs that an option takes: its kinds by name, and the kind of ``PROVIDER:MODEL`` where none is named."""

    option: str
    kinds: Mapping[str, K]
    plain: str

    @property
    def forms(self) -> str:
        """All forms, for help and errors."""
        return ", ".join(kind.form for kind in self.kinds.values())

    def kind(self, spec: Spec) -> K:
        """What is known of the spec's kind."""
        return self.kinds[spec.kind]

    def read(self, given: object, option: str | None = None) -> Spec:
        """The spec that was given.

        Args:
            given: From the command line, a file or Python: anything.
            option: Where it was given, if not to the grammar's own option.

        Raises:
            UsageError: It is of no form that the option takes.
        """
        option = option or self.option
        if not isinstance(given, str) or not given.strip():
            raise UsageError(f"{option} {given!r:.{SHOWN_CHARACTERS}} is empty or no text; it takes one of: {self.forms}")
        text = given.strip()
        if len(text) > MAX_CHARACTERS or not text.isprintable():
            flaw = "is too long" if len(text) > MAX_CHARACTERS else "holds characters that cannot be printed"
            raise UsageError(f"{option} {text[:SHOWN_CHARACTERS]!r} {flaw}; it takes one of: {self.forms}")
        head, *written = text.split(",")
        named, _, rest = head.partition(":")
        kind = self.kinds.get(named.strip())
        provider, _, model = (head if kind is None else rest).partition(":")
        kind, provider, model = kind or self.kinds[self.plain], provider.strip(), model.strip()
        model = model or kind.models.get(provider, "")
        complete = kind.alone or (provider and (model or not kind.needs_model))
        if not complete or kind.alone != (head.strip() == kind.name):
            raise UsageError(f"{option} {text!r} {self._flaw(kind, provider, named)}")
        return Spec(text, kind.name, provider, model, self._options(f"{option} {text!r}", kind, written))

    def _flaw(self, kind: K, provider: str, named: str) -> str:
        if kind.models and provider:
            return f"names no model: write it as {kind.name}:PROVIDER:MODEL; models are known for: {', '.join(sorted(kind.models))}"
        if named.strip() == kind.name:
            return f"is not complete or too much: write it as {kind.form}"
        return f"is of no known form{did_you_mean(named, self.kinds)}; it takes one of: {self.forms}"

    def _options(self, place: str, kind: K, written: list[str]) -> tuple[tuple[str, str], ...]:
        """The options in the order of their names.

        Raises:
            UsageError: One is unknown, has no value or stands twice.
        """
        found: dict[str, str] = {}
        for one in written:
            name, _, value = (part.strip() for part in one.partition("="))
            if name not in kind.options or not value or name in found:
                known = f"each of these may stand once, as NAME=VALUE: {', '.join(kind.options)}" if kind.options else "nothing may stand"
                raise UsageError(f"{place}: {one.strip()!r} is no option{did_you_mean(name, kind.options)}; after a comma {known}")
            found[name] = value
        return tuple(sorted(found.items()))


MODEL = Kind(name="model", form="PROVIDER:MODEL (or PROVIDER, for its default model)", needs_model=False)
TARGETS = Grammar("target", {MODEL.name: MODEL}, MODEL.name)
"""A target: ``PROVIDER:MODEL``, or ``PROVIDER`` for its default model. Its options are those of the run."""
