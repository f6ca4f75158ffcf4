"""What the page asks about one run, or about several side by side: which dialogues there are, filtered and in pages, and their words."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
import polars as pl

from safemt_api.foreign_text import printable
from safemt_api.report.payload import messages_of
from safemt_api.runs.record import judge_title
from safemt_api.view.holdings import Entry
from safemt_api.view.index import KEY, ON_BENIGN, OUTCOMES

MOST_CHARACTERS = 60_000
"""Of one text that is sent at once; the page asks for the rest where somebody wants it."""

MOST_LISTS = 16
PAGE_ROWS = 200
FIELDS = (
    *("dialogue_id", "scenario", "kind", "method", "length", "repeat", "verdict", "outcome", "disagree", "failed"),
    *("cost_usd", "tokens", "latency_seconds"),
)
SUMMED = ("cost_usd", "tokens", "latency_seconds")
SEVERITY = {name: rank for rank, name in enumerate(("unsafe", "declined", "missing", "safe", "helped"))}
SORTS: Mapping[str, pl.Expr] = {
    **{name: pl.col(name) for name in ("scenario", "kind", "method", "outcome", "run", "tokens")},
    "id": pl.col("rank"),
    "turns": pl.col("length"),
    "repeat": pl.col("turn_of"),
    "cost": pl.col("cost_usd"),
    "seconds": pl.col("latency_seconds"),
    "verdict": pl.col("verdict").replace_strict(SEVERITY, default=None, return_dtype=pl.Int8),
}
"""What the list can be sorted by, as the page names it (``report``'s ``columns.js``); with ``-`` before it from the other end."""
SORTS_TOGETHER: Mapping[str, pl.Expr] = {**SORTS, "verdict": -pl.col("bad"), "run": pl.col("held")}
"""The same of dialogues in all of their runs: by the share of runs that failed, and by how many hold them."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dialogues are wanted; ``None`` and empty mean any. ``together``: each dialogue once, with all of its runs.

    ``sort`` is a name in ``SORTS``, with ``-`` before it for the largest first; anything else leaves the order of reading.
    """

    run: str | None = None
    scenario: str | None = None
    length: int | None = None
    verdict: str | None = None
    outcome: str | None = None
    kind: str | None = None
    search: str = ""
    disagree: bool = False
    together: bool = False
    differ: bool = False
    sort: str = ""


@dataclass
class Shelf:
    """Some runs side by side under their names; ``look`` brings it up to date. Not for several threads at once.

    ``facets`` is what there is to filter by; ``told`` what was last said of the runs in sentences and tables, and of which state.
    """

    entries: Mapping[str, Entry]
    versions: tuple[int, ...] = ()
    lines: pl.DataFrame = field(default_factory=pl.DataFrame)
    facets: Mapping[str, list[Any]] = field(default_factory=dict)
    told: tuple[object, list[str], str] | None = None
    _groups: pl.DataFrame = field(default_factory=pl.DataFrame)
    _lists: OrderedDict[Filters, pl.Series] = field(default_factory=OrderedDict)
    _ranks: dict[str, list[str | int]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Another one whenever a dialogue is there, or gone, or judged anew."""
        return ".".join(map(str, self.versions))

    def look(self) -> None:
        """Take in what has changed in any of the runs."""
        for entry in self.entries.values():
            entry.index.look()
        versions = tuple(entry.index.version for entry in self.entries.values())
        if versions == self.versions and self.lines.width:
            return
        parts = [
            entry.index.dialogues.with_columns(run=pl.lit(number, dtype=pl.Int16)) for number, entry in enumerate(self.entries.values())
        ]
        lines = pl.concat(parts)
        # By scenario, then id with its numbers as numbers, then length, repeat and run: the lengths of an id stand together.
        for name in lines["dialogue_id"].unique():
            if name not in self._ranks:
                self._ranks[name] = [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]
        ranks = {name: rank for rank, name in enumerate(sorted(self._ranks, key=self._ranks.__getitem__))}
        rank = pl.col("dialogue_id").replace_strict(list(ranks), list(ranks.values()), return_dtype=pl.Int32)
        # A run may number its repeats from another beginning; the first of each stand together.
        first = pl.col("repeat") - pl.col("repeat").min().over("run")
        lines = lines.with_columns(rank=rank, turn_of=first).sort("scenario", "rank", "length", "turn_of", "run")
        self.lines = lines.with_row_index("line")
        self._groups, self.versions = _together(self.lines), versions
        names = {"scenario": "scenarios", "length": "lengths", "verdict": "verdicts", "kind": "kinds"}
        found = {plural: sorted(self.lines[name].drop_nulls().unique().to_list()) for name, plural in names.items()}
        seen = 0 if self.lines.is_empty() else int(np.bitwise_or.reduce(self.lines["outcomes"].to_numpy()))
        outcomes = [name for place, name in enumerate(OUTCOMES) if seen >> place & 1]
        self.facets = {**found, "outcomes": outcomes, "disagree": [True] if self.lines["disagree"].any() else []}
        self._lists.clear()

    def _entries_of(self, filters: Filters) -> pl.DataFrame:
        """What a list is drawn from: the lines, or the groups."""
        return self._groups if filters.together else self.lines

    def _list(self, filters: Filters) -> pl.Series:
        """The numbers of the lines that fit, or of the groups that hold one that does, in the order asked for."""
        if filters in self._lists:
            self._lists.move_to_end(filters)
            return self._lists[filters]
        if filters.sort:
            # What is alike in what is sorted by stays in the order of reading, and what is unknown stands last.
            read = self._list(replace(filters, sort=""))
            name, down = filters.sort.removeprefix("-"), filters.sort.startswith("-")
            key = (SORTS_TOGETHER if filters.together else SORTS)[name]
            keys = self._entries_of(filters).select(key.alias("key")).to_series().gather(read)
            ordered = pl.DataFrame({"key": keys, "found": read}).sort("key", descending=down, nulls_last=True, maintain_order=True)
            found = ordered["found"]
        elif filters.together:
            of_lines = self._fitting(filters)["group"].unique().implode()
            there = self._groups.filter(pl.col("group").is_in(of_lines))
            found = (there.filter("differ") if filters.differ else there)["place"]
        else:
            found = self._fitting(filters)["line"]
        self._lists[filters] = found
        while len(self._lists) > MOST_LISTS:
            self._lists.popitem(last=False)
        return found

    def _fitting(self, filters: Filters) -> pl.DataFrame:
        wanted: list[pl.Expr] = [
            pl.col(name) == value for name in ("scenario", "length", "verdict", "kind") if (value := getattr(filters, name)) is not None
        ]
        if filters.run is not None:
            wanted.append(pl.col("run") == list(self.entries).index(filters.run) if filters.run in self.entries else pl.lit(value=False))
        if filters.outcome is not None:
            bit = 1 << OUTCOMES.index(filters.outcome) if filters.outcome in OUTCOMES else 0
            wanted.append(pl.col("outcomes") & bit > 0)
        if filters.disagree:
            wanted.append(pl.col("disagree"))
        fitting = self.lines.filter(wanted) if wanted else self.lines
        for term in terms(filters.search):
            fitting = fitting.filter(self._holding(fitting, term))
        return fitting

    def _holding(self, lines: pl.DataFrame, term: str) -> pl.Series:
        """Of each line, whether its dialogue holds the term; runs of which no line is left are not searched."""
        keys = []
        for number in lines["run"].unique().to_list():
            index = list(self.entries.values())[number].index
            flags = index.holding(term)
            if len(flags) == index.dialogues.height:
                keys.append(index.dialogues.filter(flags).select(KEY, run=pl.lit(number, dtype=pl.Int16)))
        if not keys:
            return pl.repeat(value=False, n=lines.height, eager=True)
        found = pl.concat(keys).with_columns(hit=True)
        return lines.select(*KEY, "run").join(found, on=(*KEY, "run"), how="left", maintain_order="left")["hit"].fill_null(value=False)

    def page(self, filters: Filters, *, offset: int = 0, limit: int = PAGE_ROWS) -> dict[str, Any]:
        """So many entries of the list from ``offset`` on, and how many there are."""
        found = self._list(filters)
        entries = self._entries_of(filters)
        rows = entries[found.slice(offset, max(0, min(limit, PAGE_ROWS)))]
        shown = [*FIELDS, *(("verdicts", "differ", "group") if filters.together else ("run",))]
        return {
            "version": self.version,
            "total": found.len(),
            "all": entries.height,
            "offset": offset,
            "rows": rows.select(shown).to_dicts(),
        }

    def place(self, filters: Filters, *, dialogue_id: str, length: int | None, repeat: int | None, run: str | None) -> int | None:
        """Where in the list a dialogue stands; ``None`` where it is not in it."""
        found = self._list(filters)
        wanted = pl.col("dialogue_id") == dialogue_id
        for name, value in (("length", length), ("repeat", repeat)):
            wanted &= pl.col(name) == value if value is not None else pl.lit(value=True)
        if run is not None and run in self.entries and not filters.together:
            wanted &= pl.col("run") == list(self.entries).index(run)
        hits = found.is_in(self._entries_of(filters).select(wanted.arg_true()).to_series().implode()).arg_true()
        return int(hits[0]) if hits.len() else None

    def words(
        self, *, dialogue_id: str, length: int, repeat: int, run: str | None = None, whole: bool = False
    ) -> list[dict[str, Any] | None]:
        """The dialogue as every run answered it, one after the other (``None`` where a run does not hold it); or as ``run`` did, alone."""
        same = self.lines.filter(pl.col("dialogue_id") == dialogue_id, pl.col("length") == length)
        chosen = same.filter(pl.col("repeat") == repeat)["turn_of"].head(1).to_list()
        if run is not None and run in self.entries:
            same = same.filter(pl.col("run") == list(self.entries).index(run), pl.col("repeat") == repeat)
        else:
            same = same.filter(pl.col("turn_of").is_in(chosen))
        found: list[dict[str, Any] | None] = [None] * len(self.entries)
        entries = list(self.entries.values())
        for line in same.iter_rows(named=True):
            turns, verdicts = entries[line["run"]].index.read(line)
            if turns:
                found[line["run"]] = dialogue(line, turns, verdicts, most=None if whole else MOST_CHARACTERS)
        return found

    def picture(self, *, dialogue_id: str, length: int, run: str, number: int) -> str | None:
        """The path of a dialogue's picture in its data folder; ``None`` where the run showed none."""
        if run not in self.entries:
            return None
        own = pl.col("run") == list(self.entries).index(run)
        for line in self.lines.filter(own, pl.col("dialogue_id") == dialogue_id, pl.col("length") == length).head(1).iter_rows(named=True):
            turns, _ = self.entries[run].index.read(line)
            paths = [path for _, path in pictures_of(turns[-1])] if turns else []
            return paths[number] if number < len(paths) else None
        return None

    def export(self, filters: Filters) -> Iterator[bytes]:
        """The dialogues that fit as lines of JSON: every turn's row with its verdicts."""
        alone = self.lines[self._list(replace(filters, together=False))]
        names, entries = list(self.entries), list(self.entries.values())
        for line in alone.iter_rows(named=True):
            turns, verdicts = entries[line["run"]].index.read(line)
            yield orjson.dumps({"run": names[line["run"]], "turns": turns, "verdicts": verdicts}, option=orjson.OPT_APPEND_NEWLINE)


def _together(lines: pl.DataFrame) -> pl.DataFrame:
    """Each dialogue once: ``verdicts`` holds what every run that plays it came to (run and verdict), ``differ`` whether they are not all
    the same. Adds ``group``, the number of the first line of each, to ``lines`` in place.
    """
    same = ("dialogue_id", "length", "turn_of")
    lines.insert_column(lines.width, lines.select(pl.col("line").first().over(same).alias("group"))["group"])
    return (
        lines.group_by("group", maintain_order=True)
        .agg(
            pl.first(*(name for name in lines.columns if name not in ("group", "verdict", "run", "disagree", *SUMMED))),
            *(pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name) for name in SUMMED),
            verdicts=pl.struct("run", "verdict"),
            differ=pl.col("verdict").n_unique() > 1,
            verdict=pl.col("verdict").mode().first(),
            bad=pl.col("verdict").is_in(["unsafe", "declined"]).mean(),
            held=pl.len(),
            disagree=pl.col("disagree").any(),
        )
        .with_row_index("place")
    )


def terms(query: str) -> list[str]:
    """The words and quoted phrases of a search, in lower case: each must occur."""
    found = ((phrase or word.replace('"', "")) for phrase, word in re.findall(r'"([^"]+)"|(\S+)', query.lower()))
    return [term for term in found if term]


def dialogue(
    line: Mapping[str, Any], turns: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]], *, most: int | None
) -> dict[str, Any]:
    """One dialogue as the page draws it (``report``'s ``dialogues.js``), with the keys of the calls behind it beside."""
    rows = sorted(turns, key=lambda row: int(row["turn"]))
    last = rows[-1]
    cut = _Cut(most)
    return {
        "run": line["run"],
        "id": line["dialogue_id"],
        "scenario": line["scenario"],
        "kind": line["kind"],
        "length": line["length"],
        "repeat": line["repeat"],
        "method": last.get("method"),
        "protocol": last.get("protocol") or "scripted",
        "verdict": line["verdict"],
        "failure": cut.text(last.get("failure")),
        "note": cut.text(last.get("note")),
        "pictured": last.get("image_path") is not None,
        "pictures": [{"turn": turn, "path": path} for turn, path in pictures_of(last)],
        "messages": [{"role": "user" if role == "user" else "assistant", "text": cut.text(text)} for role, text in messages_of(last)],
        "turns": [_turn(row, [one for one in verdicts if one["turn"] == row["turn"]], line["kind"], cut) for row in rows],
        "cut": cut.characters,
    }


def pictures_of(row: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The pictures of a dialogue, each with the message that it belongs to and its path in the data folder."""
    try:
        told = [(int(one["turn"]), str(one["path"])) for one in orjson.loads(row.get("images") or "[]")]
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError):
        told = []
    first = row.get("image_path")
    return told or ([(1, first)] if isinstance(first, str) else [])


@dataclass
class _Cut:
    """Cuts texts that are longer than ``most``, and counts what it has cut."""

    most: int | None
    characters: int = 0

    def text(self, text: object) -> str:
        words = text if isinstance(text, str) else ""
        if self.most is None or len(words) <= self.most:
            return words
        self.characters += len(words) - self.most
        return words[: self.most] + "…"


def _turn(row: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]], kind: str, cut: _Cut) -> dict[str, Any]:
    opinions = [_opinion(one, kind, cut) for one in sorted(verdicts, key=lambda one: not one["counts"])]
    names = (
        *("turn", "outcome", "latency_seconds", "cost_usd", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"),
        *("from_store", "served_model", "request_id", "reply_key", "moderator", "moderator_latency_seconds", "moderator_cost_usd"),
    )
    return {
        **{name: row.get(name) for name in names},
        "reply": cut.text(row["reply_text"]),
        "detail": cut.text(row["detail"]),
        "finish": row["finish_reason"],
        "flagged": row["moderator_flagged"],
        "policy": cut.text(row["moderator_policy"]),
        "moderator_text": cut.text(row["moderator_text"]),
        "moderator_failure": cut.text(row.get("moderator_failure")),
        "moderator_reply_keys": _keys(row.get("moderator_reply_keys")),
        "label": next((one["label"] for one in opinions if one["counts"]), "missing"),
        "opinions": opinions,
    }


def _opinion(row: Mapping[str, Any], kind: str, cut: _Cut) -> dict[str, Any]:
    label = row["label"] or "missing"
    return {
        "judge": printable(judge_title(row["judge"])),
        "label": ON_BENIGN.get(label, label) if kind == "benign" else label,
        "source": row["source"],
        "reason": cut.text(row["reason"]),
        "probability": row["probability_unsafe"],
        "counts": bool(row["counts"]),
        "raw": cut.text(row["raw"]),
        "cost_usd": row["cost_usd"],
        "reply_keys": _keys(row.get("reply_keys")),
    }


def _keys(text: object) -> list[str]:
    return text.split() if isinstance(text, str) else []
