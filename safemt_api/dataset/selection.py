"""Which dialogues of a data set a run takes: by kind, by scenario, and as a stratified sample of ids."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256

from safemt_api.dataset.elements import KINDS, shown
from safemt_api.dataset.entries import Dataset, Entry
from safemt_api.errors import UsageError, did_you_mean
from safemt_api.messages import Kind

ALL_KINDS: frozenset[Kind] = frozenset(KINDS)


def select(
    dataset: Dataset, *, sample: int | None, scenarios: Sequence[str] = (), kinds: Collection[Kind] = ALL_KINDS, seed: int
) -> Dataset:
    """The part of a data set that a run takes, in the order of the files.

    A sample takes ids, each with all lengths it has (an id that is missing in one length counts like any other). It takes ``sample`` ids
    of each chosen kind, so harmful and benign arms have the same size where there are enough ids; within a kind the scenarios get shares
    in proportion to their ids by largest remainder. The same seed gives the same ids whatever the order of the files.

    Args:
        dataset: A checked data set.
        sample: How many ids of each kind; ``None`` or more than there are: all.
        scenarios: Names to keep, in any case or as a slug (``legal_opinion``); none: all.
        kinds: Kinds to keep.
        seed: Decides which ids a sample takes.

    Raises:
        UsageError: A scenario is unknown, the sample is below 1, or nothing is left.
    """
    if sample is not None and sample < 1:
        raise UsageError(f"--sample {sample}: must be at least 1")
    there = {_slug(entry.scenario): entry.scenario for entry in dataset.entries}
    for name in scenarios:
        if _slug(name) not in there:
            names = sorted(set(there.values()))
            raise UsageError(f"--scenario {name!r}: no such scenario{did_you_mean(name, names)}; there are: {', '.join(map(shown, names))}")
    wanted = set(map(_slug, scenarios))
    entries = [entry for entry in dataset.entries if entry.kind in kinds and (not wanted or _slug(entry.scenario) in wanted)]
    if not entries:
        chosen_kinds = " or ".join(sorted(kinds)) or "any"
        raise UsageError(f"no dialogue is left: {dataset.name} has no {chosen_kinds} ones in the chosen scenarios")
    if sample is None:
        return dataset.with_entries(entries)
    # The shortest dialogue of an id decides its stratum: files that disagree about an id still count it once.
    strata: dict[Kind, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in {entry.id: entry for entry in sorted(entries, key=lambda entry: -entry.length)}.values():
        strata[entry.kind][entry.scenario].append(entry.id)
    chosen: set[str] = set()
    for by_scenario in strata.values():
        shares = largest_remainder({name: len(ids) for name, ids in by_scenario.items()}, sample, seed=seed)
        for name, ids in by_scenario.items():
            chosen.update(sorted(ids, key=lambda one: _rank(seed, one))[: shares[name]])
    return dataset.with_entries(entry for entry in entries if entry.id in chosen)


def _slug(name: str) -> str:
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", name).casefold()).strip("_")


def largest_remainder(sizes: Mapping[str, int], total: int, *, seed: int) -> dict[str, int]:
    """``total`` places shared out in proportion to ``sizes``, none above its size; equal remainders are settled by the seed."""
    whole = sum(sizes.values())
    total = min(total, whole)
    shares = {name: size * total // whole for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(sizes[name] * total % whole), _rank(seed, name)))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def _rank(seed: int, text: str) -> bytes:
    """A place in a shuffled order that depends on nothing but seed and text (Python's own hashes differ between processes)."""
    return sha256(f"{seed}\x00{text}".encode()).digest()


def part_of(entries: Sequence[Entry], *, part: int, parts: int, seed: int) -> tuple[Entry, ...]:
    """One of so many parts of the dialogues, in their order: the parts together are the whole, and no two share an id.

    All lengths and repeats of an id go together. Ids are dealt out like cards, scenario after scenario (and kind after kind), so that parts
    differ by at most one id, in each scenario and in all. The same seed gives the same parts whatever the order of the files.

    Args:
        entries: Of the whole run.
        part: Which one, from 1 on.
        parts: How many there are.
        seed: Decides which ids go together.
    """
    first = {entry.id: entry for entry in sorted(entries, key=lambda entry: -entry.length)}
    dealt = sorted(first.values(), key=lambda entry: (entry.kind, entry.scenario, _rank(seed, entry.id), entry.id))
    chosen = {entry.id for entry in dealt[part - 1 :: parts]}
    return tuple(entry for entry in entries if entry.id in chosen)
