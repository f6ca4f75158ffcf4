"""The arms of a study: one evaluation each, over the same dialogues, and each with the arm that its effect is measured against.

A new kind of study is a new way of making arms, and nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.runs.names import check_run_name, slug
from safemt_api.runs.options import Group, OptionField
from safemt_api.runs.settings import EvalSettings, options, settings_from
from safemt_api.specs import NONE, TARGETS
from safemt_api.store.connection import server_address

TARGET = TARGETS.option
"""``PROVIDER:MODEL`` in one word; everywhere else in a study the keys are the options of ``eval``."""

NAME_DIGEST_CHARACTERS = 6

OF_THE_STUDY = frozenset({"run", "results", "max_usd"})
"""What a study has once: its name, its folder, its ceiling."""

SAME_IN_ALL_ARMS = frozenset(
    {"data", "layout", "lengths", "sample", "scenarios", "kinds", "skip_invalid", "seed", "repeats", "providers", "shard", "store"}
)
"""What decides the dialogues, so that every comparison is paired; and where the profiles of vendors are looked for."""

NOT_IN_A_STUDY: Mapping[str, str] = {
    "until_ci": "arms would end with different ids",
    "ray": "its arms are played side by side in one process; --shard hands out its parts",
    "workers": "its arms are played side by side in one process; --shard hands out its parts",
}
"""What a run alone can be told, and why a study cannot."""

MODERATION = frozenset(one.name for one in options() if one.option.group is Group.MODERATOR)
"""What arms differ in that differ in their moderator alone."""

Given = Mapping[str, Any]
"""Options by the names of the settings' fields, as they were written."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One evaluation of a study; ``reference`` names the arm that it is compared with, pair by pair."""

    name: str
    given: Given = field(default_factory=lambda: MappingProxyType({}))
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """Arms over the same dialogues under one ceiling.

    ``shared`` are the options of all arms; an arm's own stand over them.

    Raises:
        UsageError: It has no arm, two arms share a name, a reference leads nowhere or in a circle, or an option does not belong there.
    """

    name: str
    arms: tuple[Arm, ...]
    shared: Given = field(default_factory=lambda: MappingProxyType({}))
    max_usd: float | None = None

    def __post_init__(self) -> None:
        check_run_name(self.name)
        if self.shared.get("store") is not None:
            # At once, so that its password is in nothing that is written.
            object.__setattr__(self, "shared", MappingProxyType({**self.shared, "store": server_address(self.shared["store"])}))
        if not self.arms:
            raise UsageError(f"the study {self.name} has no arm: give [vary] or [[arm]]")
        twice = next((name for name, count in Counter(arm.name.casefold() for arm in self.arms).items() if count > 1), None)
        if twice is not None:
            raise UsageError(f"the study {self.name} has two arms called {twice}; give each [[arm]] a name of its own")
        for arm in self.arms:
            check_run_name(f"{self.name}/{arm.name}")
            seen, at = {arm.name}, arm
            while at.reference is not None:
                at = self.arm(at.reference)
                if at.name in seen:
                    raise UsageError(f"the references of the study {self.name} go round in a circle at the arm {at.name}")
                seen.add(at.name)

    def settings(self, arm: Arm, *, results: Path = Path("results")) -> EvalSettings:
        """What the arm runs, as a run of its own below the study's folder.

        Raises:
            UsageError: A value is out of range.
        """
        own = {"run": f"{self.name}/{arm.name}", "max_usd": self.max_usd, "results": results}
        try:
            return settings_from({**self.shared, **arm.given, **own})
        except UsageError as error:
            raise UsageError(f"arm {arm.name}: {error}") from error

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
            UsageError: There is none.
        """
        names = [arm.name for arm in self.arms]
        if name not in names:
            raise UsageError(f"the study {self.name} has no arm {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}")
        return self.arms[names.index(name)]


def made_study(kind: str, arms: tuple[Arm, ...], shared: Given, *, name: str | None, max_usd: float | None) -> Study:
    """A study whose arms a command made; without a name it is called by date, kind and a digest of all that makes it another one.

    Options that may be given anew when a run goes on (pace, money), and which shard is played, are not in the digest: the same command
    with them goes on.
    """
    free = {"shard", *(one.name for one in options() if "resume" in one.option.commands)}
    decisive = [{key: value for key, value in shared.items() if key not in free}, [(arm.name, dict(arm.given)) for arm in arms]]
    digest = sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:NAME_DIGEST_CHARACTERS]
    return Study(name or f"{date.today().isoformat()}-{kind}-{digest}", arms, shared, max_usd)  # noqa: DTZ011 (the user's own date)


def option_names() -> Mapping[str, OptionField]:
    """Every name that a key may have: the field's, and each flag's without its dashes."""
    return {spelling: one for one in options() for spelling in (one.name, *(flag.lstrip("-").replace("-", "_") for flag in one.flags))}


def options_from(written: Mapping[str, Any], *, refuse: frozenset[str], why: str) -> dict[str, Any]:
    """Options as someone wrote them, by the names of the fields; ``target`` becomes provider and model.

    Args:
        written: Keys are names of options, with ``-`` or ``_``.
        refuse: Fields that do not belong here.
        why: Why not, as the end of a sentence.

    Raises:
        UsageError: A key is unknown, stands twice, or does not belong here.
    """
    known, found = option_names(), {}
    for key, value in written.items():
        spelling = key.replace("-", "_")
        if spelling == TARGET:
            spec = TARGETS.read(value)
            parts = {"provider": spec.provider, "model": spec.model} if spec.model else {"provider": spec.provider}
        elif spelling in known:
            parts = {known[spelling].name: value}
        else:
            raise UsageError(f"no such option: {key}{did_you_mean(spelling, [TARGET, *known])}")
        for name, part in parts.items():
            if name in refuse or name in NOT_IN_A_STUDY:
                raise UsageError(f"{key} {why if name in refuse else f'cannot stand in a study: {NOT_IN_A_STUDY[name]}'}")
            if name in found:
                raise UsageError(f"{key} says again what another key says")
            found[name] = part
    return found


@dataclass(frozen=True, slots=True)
class Axis:
    """What the arms of a product differ in: ``key`` as it was written, and its values, the first of which is the reference."""

    key: str
    values: tuple[Any, ...]


def product_arms(axes: Sequence[Axis], read: Callable[[Mapping[str, Any]], dict[str, Any]]) -> tuple[Arm, ...]:
    """One arm for every combination of the axes' values.

    An arm that differs from the first values in anything but its target is compared with its own target at those first values: the defence
    or ablation is the effect. The arms at those first values are compared with the first target.

    Args:
        axes: In the order in which they were written; the last varies fastest.
        read: Makes options of keys and values.

    Raises:
        UsageError: An axis is empty, holds a value twice, or two arms would have one name.
    """
    for axis in axes:
        if not axis.values:
            raise UsageError(f"{axis.key} has no values")
        if any(axis.values.count(value) > 1 for value in axis.values):
            raise UsageError(f"{axis.key} holds a value twice")
    words = [_value_words(axis) for axis in axes]
    combinations = list(product(*(range(len(axis.values)) for axis in axes)))
    names = {at: "+".join(filter(None, (words[place][index] for place, index in enumerate(at)))) or NONE for at in combinations}
    arms = []
    for at in combinations:
        given = read({axis.key: axis.values[index] for axis, index in zip(axes, at, strict=True)})
        # An arm's own target at the first values of all else; and for those arms the first target.
        own = tuple(index if axis.key == TARGET else 0 for axis, index in zip(axes, at, strict=True))
        first = (0,) * len(axes)
        reference = own if at != own else None if at == first else first
        arms.append(Arm(names[at], MappingProxyType(given), None if reference is None else names[reference]))
    return tuple(arms)


def _value_words(axis: Axis) -> list[str]:
    """Each value as a part of an arm's name; without its vendor as long as the values differ without it."""
    texts = ["-".join(map(str, value)) if isinstance(value, list) else str(value) for value in axis.values]
    short = [text.rpartition("/")[2].rpartition(":")[2] if axis.key == TARGET else text for text in texts]
    return [slug(text) if text != NONE else "" for text in (short if len(set(map(slug, short))) == len(short) else texts)]
