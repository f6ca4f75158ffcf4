"""A sample is stratified exactly, and the same for the same seed whatever the order of the files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.dataset.entries import Dataset, Entry
from safemt_api.dataset.selection import largest_remainder, part_of, select
from safemt_api.errors import UsageError
from safemt_api.messages import Kind

Make = Callable[..., Any]


def dataset_of(sizes: dict[str, int], *, benign: dict[str, int] | None = None, lengths: tuple[int, ...] = (1, 2)) -> Dataset:
    """A data set of light rows: so many ids a scenario, each in every length."""

    def rows(kind: Kind, counts: dict[str, int]) -> list[Entry]:
        return [
            Entry(
                f"{kind}_{scenario}_{number}",
                scenario,
                kind,
                length,
                ("images/a.png",),
                f"{length}_turn.json",
                number,
                0,
                0,
                f"{kind} {scenario} {number} {length}".encode(),
            )
            for length in lengths
            for scenario, count in counts.items()
            for number in range(count)
        ]

    empty = Dataset(Path("nowhere"), "made up", (), (), (), "")
    return empty.with_entries([*rows("harmful", sizes), *rows("benign", benign or {})])


SIZES = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 12), min_size=1, max_size=6)


@given(sizes=SIZES, sample=st.integers(1, 80), seed=st.integers())
def test_each_scenario_gets_its_share_to_the_nearest_id(sizes: dict[str, int], sample: int, seed: int) -> None:
    chosen = select(dataset_of(sizes), sample=sample, seed=seed)
    whole = sum(sizes.values())
    taken = min(sample, whole)
    per_scenario = Counter(dict.fromkeys(sizes, 0))
    per_scenario.update({entry.id: entry.scenario for entry in chosen.entries}.values())
    assert len(chosen.ids) == taken
    assert all(abs(per_scenario[name] - size * taken / whole) < 1 for name, size in sizes.items())
    assert all(count == 2 for count in Counter(entry.id for entry in chosen.entries).values())


@given(sizes=SIZES, sample=st.integers(1, 30), seed=st.integers(), shuffle=st.randoms(use_true_random=False))
def test_the_same_seed_gives_the_same_ids_in_any_order_of_the_files(sizes: dict[str, int], sample: int, seed: int, shuffle: Any) -> None:
    dataset = dataset_of(sizes)
    mixed = list(dataset.entries)
    shuffle.shuffle(mixed)
    one = select(dataset, sample=sample, seed=seed)
    other = select(dataset.with_entries(mixed), sample=sample, seed=seed)
    assert set(one.ids) == set(other.ids)
    assert one.fingerprint == other.fingerprint


def test_the_sample_does_not_hang_on_pythons_hash_seed(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from safemt_api.dataset.entries import Dataset, Entry; from safemt_api.dataset.selection import select;"
        "rows = [Entry(f'i{n}', f's{n % 5}', 'harmful', 1, '', '', n, 0, 0, b'%d' % n) for n in range(40)];"
        "print(select(Dataset(Path(), '', (), (), (), '').with_entries(rows), sample=7, seed=3).ids)"
    )
    root = str(Path(__file__).resolve().parents[2])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_another_seed_gives_other_ids() -> None:
    dataset = dataset_of({"a": 50, "b": 50})
    assert len({select(dataset, sample=5, seed=seed).ids for seed in range(10)}) > 5


def test_equal_scenarios_take_turns_over_seeds_when_there_are_too_few_places() -> None:
    wins = Counter(
        name for seed in range(400) for name, share in largest_remainder({"a": 5, "b": 5, "c": 5}, 1, seed=seed).items() if share
    )
    assert all(100 < wins[name] < 170 for name in "abc")


def test_a_sample_takes_as_many_benign_ids_as_harmful_ones_where_there_are() -> None:
    dataset = dataset_of({"a": 20}, benign={"a": 10, "b": 10})
    kinds = Counter({entry.id: entry.kind for entry in select(dataset, sample=6, seed=0).entries}.values())
    assert kinds == {"harmful": 6, "benign": 6}
    few = Counter({entry.id: entry.kind for entry in select(dataset, sample=20, seed=0).entries}.values())
    assert few == {"harmful": 20, "benign": 20}
    only = select(dataset, sample=6, seed=0, kinds={"benign"})
    assert {entry.kind for entry in only.entries} == {"benign"}
    assert set(only.ids) < set(select(dataset, sample=6, seed=0).ids)


def test_more_than_there_are_means_all() -> None:
    dataset = dataset_of({"a": 3})
    assert select(dataset, sample=99, seed=0).entries == select(dataset, sample=None, seed=0).entries == dataset.entries
    assert select(dataset, sample=None, seed=0).fingerprint == dataset.fingerprint


def test_an_id_missing_in_one_length_can_be_chosen_with_what_it_has() -> None:
    dataset = dataset_of({"a": 2})
    partial = dataset.with_entries(entry for entry in dataset.entries if (entry.id, entry.length) != ("harmful_a_0", 2))
    assert len(select(partial, sample=2, seed=0).entries) == 3


@pytest.mark.parametrize("name", ["Legal Opinion", "legal opinion", "legal_opinion", "LEGAL-OPINION"])
def test_scenarios_match_in_any_case_and_as_slugs(name: str) -> None:
    chosen = select(dataset_of({"Legal Opinion": 2, "Fraud": 2}), sample=None, scenarios=[name], seed=0)
    assert {entry.scenario for entry in chosen.entries} == {"Legal Opinion"}


def test_unknown_scenarios_and_empty_choices_are_usage_errors() -> None:
    dataset = dataset_of({"Legal Opinion": 2, "Fraud": 2})
    with pytest.raises(
        UsageError, match=r"--scenario 'Frod': no such scenario \(did you mean 'Fraud'\?\); there are: Fraud, Legal Opinion"
    ):
        select(dataset, sample=None, scenarios=["Fraud", "Frod"], seed=0)
    with pytest.raises(UsageError, match="has no benign ones"):
        select(dataset, sample=None, kinds={"benign"}, seed=0)
    with pytest.raises(UsageError, match="must be at least 1"):
        select(dataset, sample=0, seed=0)


def test_the_lengths_that_are_left_are_those_of_the_entries() -> None:
    dataset = dataset_of({"a": 2}, benign={"b": 1})
    only_first = dataset.with_entries(entry for entry in dataset.entries if entry.kind == "harmful" or entry.length == 1)
    assert select(only_first, sample=None, kinds={"benign"}, seed=0).lengths == (1,)


@given(sizes=SIZES, benign=SIZES, parts=st.integers(1, 12), repeats=st.integers(1, 2), seed=st.integers())
def test_parts_are_the_whole_share_no_id_and_are_balanced_over_scenarios(
    sizes: dict[str, int], benign: dict[str, int], parts: int, repeats: int, seed: int
) -> None:
    whole = dataset_of(sizes, benign=benign).repeated(repeats).entries
    dealt = [part_of(whole, part=part, parts=parts, seed=seed) for part in range(1, parts + 1)]
    assert sorted((entry for part in dealt for entry in part), key=whole.index) == list(whole)
    ids = [{entry.id: entry for entry in part} for part in dealt]
    assert sum(map(len, ids)) == len({entry.id for entry in whole})
    for stratum in {(entry.kind, entry.scenario) for entry in whole}:
        counts = [sum((entry.kind, entry.scenario) == stratum for entry in part.values()) for part in ids]
        assert max(counts) - min(counts) <= 1
    assert max(map(len, ids)) - min(map(len, ids)) <= 1
    assert part_of(whole[::-1], part=1, parts=parts, seed=seed)[::-1] == dealt[0]
