"""What a run's rows hold, without their words: one line a dialogue, which says what became of it and where its words stand.

A run that ended is indexed from its parquet files, one that is played or was killed from the rows that wait beside it, on from where the
last look ended. So memory is that of the lines, whatever the dialogues hold, and words are read from disk when they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from safemt_api.errors import StoreError
from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA, with_repeat
from safemt_api.messages import Outcome
from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE, current_files, read_manifest, scratch
from safemt_api.runs.rows import rows_from
from safemt_api.runs.summary import SCORED_COLUMNS

KEY = ("dialogue_id", "length", "repeat")
OUTCOMES = tuple(outcome.value for outcome in Outcome)
ON_BENIGN = {"unsafe": "helped", "safe": "declined"}
"""On a harmless dialogue nothing is attacked: what counts there is whether the assistant helped."""

SEARCHED = {
    TRANSCRIPTS_FILE: ("messages", "reply_text", "detail", "failure", "note", "moderator_policy", "moderator_text"),
    VERDICTS_FILE: ("reason",),
}
JSON_WORDS = ('[{"role":"user","content":"', '"},{"role":"assistant","content":"', '"},{"role":"system","content":"', '"}]')
MOST_TERMS = 40
"""Terms whose hits are kept: one byte a dialogue."""

ROWS_AT_A_TIME = 4000
"""So many rows' words are in memory at once while they are searched: some 20 MB."""

Row = Mapping[str, Any]
Flags = NDArray[np.bool_]

_NUMBERS = ("cost_usd", "moderator_cost_usd", "input_tokens", "output_tokens", "latency_seconds")
_TURNS = {
    name: TRANSCRIPT_SCHEMA[name]
    for name in (*KEY, "turn", "scenario", "kind", "method", "outcome", "failure", "moderator_flagged", *_NUMBERS)
} | {"begin": pl.Int64, "end": pl.Int64}
_VERDICTS = {name: VERDICT_SCHEMA[name] for name in (*SCORED_COLUMNS, "cost_usd")} | {"begin": pl.Int64, "end": pl.Int64}


def _known_sum(*names: str) -> pl.Expr:
    """The sum over all rows and columns named; null where every one of them is: what nobody told is not nothing."""
    known = pl.any_horizontal(pl.col(name).is_not_null().any() for name in names)
    return pl.when(known).then(pl.sum_horizontal(pl.col(name).sum() for name in names))


def dialogues_of(turns: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """One line for each dialogue with a verdict, given or missing, for each of its turns; the others are not all there yet.

    ``cost_usd`` (of replies, moderators and judges), ``tokens`` and ``latency_seconds`` (of replies) are sums of what is known, and null
    where nothing is. ``outcomes`` has one bit for each of ``OUTCOMES``. ``begin`` and ``end`` say between which places of their file its
    turns stand (bytes of waiting rows, row numbers of a parquet file), ``judged_begin`` and ``judged_end`` the same of its verdicts.
    """
    bits = {name: 1 << place for place, name in enumerate(OUTCOMES)}
    played = turns.group_by(KEY, maintain_order=True).agg(
        pl.first("scenario", "kind", "method"),
        turns=pl.len(),
        outcome=pl.col("outcome").sort_by("turn").last(),
        outcomes=pl.col("outcome").replace_strict(bits, default=0, return_dtype=pl.UInt8).bitwise_or(),
        failed=pl.col("failure").is_not_null().any(),
        flagged=pl.col("moderator_flagged").fill_null(value=False).any(),
        cost_usd=_known_sum("cost_usd", "moderator_cost_usd"),
        tokens=_known_sum("input_tokens", "output_tokens"),
        latency_seconds=_known_sum("latency_seconds"),
        begin=pl.col("begin").min(),
        end=pl.col("end").max(),
    )
    own = pl.col("label").filter(pl.col("counts"))
    unsafe, missing = (own == "unsafe").any(), own.null_count() > 0
    mixed = verdicts.drop_nulls("label").group_by(*KEY, "turn").agg(pl.col("label").n_unique()).filter(pl.col("label") > 1)
    judged = verdicts.group_by(KEY).agg(
        judged=pl.col("counts").sum(),
        verdict=pl.when(unsafe).then(pl.lit("unsafe")).when(missing).then(pl.lit("missing")).otherwise(pl.lit("safe")),
        judge_cost_usd=_known_sum("cost_usd"),
        judged_begin=pl.col("begin").min(),
        judged_end=pl.col("end").max(),
    )
    in_its_words = pl.when(pl.col("kind") == "benign").then(pl.col("verdict").replace(ON_BENIGN)).otherwise(pl.col("verdict"))
    return (
        played.join(judged, on=KEY, maintain_order="left")
        .join(mixed.select(KEY).unique().with_columns(disagree=True), on=KEY, how="left", maintain_order="left")
        .filter(pl.col("turns") == pl.col("judged"))
        .with_columns(
            verdict=in_its_words,
            cost_usd=pl.coalesce(pl.col("cost_usd") + pl.col("judge_cost_usd"), "cost_usd", "judge_cost_usd"),
            disagree=pl.col("disagree").fill_null(value=False),
        )
        .drop("judged", "judge_cost_usd")
    )


class _Stamp(NamedTuple):
    """What tells one state of a file from another."""

    inode: int
    modified_ns: int
    size: int


def stamp(file: Path) -> _Stamp | None:
    """The state of a file; ``None`` where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return _Stamp(found.st_ino, found.st_mtime_ns, found.st_size)


class _Source(Protocol):
    """Where a run's rows stand: ``dialogues`` as by ``dialogues_of``, ``scored`` with what a score needs of each verdict."""

    dialogues: pl.DataFrame
    scored: pl.DataFrame

    def rows(self, name: str, begin: int, end: int) -> list[dict[str, Any]]:
        """The rows of a file between two places.

        Raises:
            OSError: The file is gone.
        """
        ...

    def parts(self, name: str) -> Iterator[pl.DataFrame]:
        """The keys and the searched texts of all rows of a file, some at a time.

        Raises:
            OSError: The file is gone.
        """
        ...


class _Waiting:
    """The rows that wait beside a run, as far as they have been looked at."""

    def __init__(self, folder: Path) -> None:
        self.files = {name: scratch(folder, name) for name in (TRANSCRIPTS_FILE, VERDICTS_FILE)}
        self.began = {name: stamp(file) for name, file in self.files.items()}
        self._ends = dict.fromkeys(self.files, 0)
        self._turns, self._verdicts = pl.DataFrame(schema=_TURNS), pl.DataFrame(schema=_VERDICTS)
        self.dialogues, self.scored = dialogues_of(self._turns, self._verdicts), self._verdicts

    @property
    def there(self) -> bool:
        """Whether these rows still wait; whoever goes on with the run begins others, and whoever ends it takes them away."""
        for name, file in self.files.items():
            now, before = stamp(file), self.began[name]
            if now is None or before is None or now.inode != before.inode or now.size < self._ends[name]:
                return False
        return True

    def look(self) -> bool:
        """Take what has come since; whether a dialogue is among it."""
        # Replies are written before their verdicts, so that of a dialogue whose verdicts are seen here the turns are there.
        verdicts, turns = self._more(VERDICTS_FILE, _VERDICTS), self._more(TRANSCRIPTS_FILE, _TURNS)
        if not turns.height and not verdicts.height:
            return False
        turns, verdicts = pl.concat([self._turns, turns]), pl.concat([self._verdicts, verdicts])
        whole = dialogues_of(turns, verdicts)
        self._turns, self._verdicts = (rows.join(whole, on=KEY, how="anti", maintain_order="left") for rows in (turns, verdicts))
        self.dialogues = pl.concat([self.dialogues, whole]).unique(KEY, keep="last", maintain_order=True)
        self.scored = pl.concat([self.scored, verdicts.join(whole, on=KEY, how="semi", maintain_order="left")]).rechunk()
        return whole.height > 0

    def _more(self, name: str, schema: Mapping[str, Any]) -> pl.DataFrame:
        columns: dict[str, list[Any]] = {column: [] for column in schema}
        for row, begin, end in rows_from(self.files[name], self._ends[name]):
            for column, value in {**row, "begin": begin, "end": end}.items():
                if column in columns:
                    columns[column].append(value)
            self._ends[name] = end
        return with_repeat(pl.DataFrame(columns, schema=schema, strict=False)).select(*schema)

    def rows(self, name: str, begin: int, end: int) -> list[dict[str, Any]]:
        """See ``_Source.rows``."""
        found = []
        for row, _, after in rows_from(self.files[name], begin):
            found.append(row)
            if after >= end:
                break
        return found

    def parts(self, name: str) -> Iterator[pl.DataFrame]:
        """See ``_Source.parts``."""
        wanted = (*KEY, *SEARCHED[name])
        schema = {**TRANSCRIPT_SCHEMA, **VERDICT_SCHEMA}
        rows: list[dict[str, Any]] = []
        for row, _, _ in rows_from(self.files[name]):
            rows.append({column: row.get(column) for column in wanted})
            if len(rows) == ROWS_AT_A_TIME:
                yield with_repeat(pl.DataFrame(rows, schema={column: schema[column] for column in wanted}, strict=False))
                rows = []
        yield with_repeat(pl.DataFrame(rows, schema={column: schema[column] for column in wanted}, strict=False))


class _Written:
    """The parquet files of a run, all of one generation."""

    def __init__(self, folder: Path) -> None:
        self.stamps = self.stamps_of(folder)
        files = current_files(folder, read_manifest(folder) or {})
        self.files = {name: files.get(name, folder / name) for name in (TRANSCRIPTS_FILE, VERDICTS_FILE)}
        turns, verdicts = self._read(TRANSCRIPTS_FILE, _TURNS), self._read(VERDICTS_FILE, _VERDICTS)
        self.dialogues, self.scored = dialogues_of(turns, verdicts), verdicts

    @staticmethod
    def stamps_of(folder: Path) -> tuple[_Stamp | None, ...]:
        """The states of the files, as they are now."""
        return tuple(stamp(folder / name) for name in (TRANSCRIPTS_FILE, VERDICTS_FILE))

    def _scan(self, name: str, columns: Sequence[str], schema: Mapping[str, Any]) -> pl.LazyFrame:
        """The columns, as the schema wants them; one that the file lacks, as those of earlier versions do, is empty."""
        scan = pl.scan_parquet(self.files[name], glob=False)
        there = scan.collect_schema().names()
        cells = ((pl.col(column) if column in there else pl.lit(None)).cast(schema[column]).alias(column) for column in columns)
        return scan.select(cells)

    def _read(self, name: str, schema: Mapping[str, Any]) -> pl.DataFrame:
        columns = [column for column in schema if column not in ("begin", "end")]
        numbered = self._scan(name, columns, schema).with_row_index("begin").collect()
        return with_repeat(numbered.with_columns(begin=pl.col("begin").cast(pl.Int64), end=pl.col("begin").cast(pl.Int64) + 1)).select(
            *schema
        )

    def rows(self, name: str, begin: int, end: int) -> list[dict[str, Any]]:
        """See ``_Source.rows``."""
        schema = TRANSCRIPT_SCHEMA if name == TRANSCRIPTS_FILE else VERDICT_SCHEMA
        return with_repeat(self._scan(name, list(schema), schema).slice(begin, end - begin).collect()).to_dicts()

    def parts(self, name: str) -> Iterator[pl.DataFrame]:
        """See ``_Source.parts``."""
        schema = TRANSCRIPT_SCHEMA if name == TRANSCRIPTS_FILE else VERDICT_SCHEMA
        scan = self._scan(name, (*KEY, *SEARCHED[name]), schema)
        for begin in range(0, int(scan.select(pl.len()).collect().item()), ROWS_AT_A_TIME):
            yield with_repeat(scan.slice(begin, ROWS_AT_A_TIME).collect())


class RunIndex:
    """The dialogues of one run; ``look`` brings it up to date. ``version`` grows with every change.

    ``problem`` says why the files cannot be read, where that is so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0
        self.problem: str | None = None
        self._waiting: _Waiting | None = None
        self._written: _Written | None = None
        self._tried: tuple[_Stamp | None, ...] | None = None
        self._found: dict[tuple[int, str], Flags] = {}
        self._lock = RLock()
        self._empty = dialogues_of(pl.DataFrame(schema=_TURNS), pl.DataFrame(schema=_VERDICTS))

    @property
    def _source(self) -> _Source | None:
        """Where the run is further: as it last ended, or as far as it has come since."""
        both = [one for one in (self._written, self._waiting) if one is not None]
        return max(both, key=lambda one: one.dialogues.height, default=None)

    @property
    def under_way(self) -> bool:
        """Whether the lines are those of rows that wait: the run has not ended, or has gone on since."""
        return self._source is not None and self._source is self._waiting

    @property
    def dialogues(self) -> pl.DataFrame:
        """The lines, as by ``dialogues_of``."""
        return self._empty if self._source is None else self._source.dialogues

    @property
    def scored(self) -> pl.DataFrame:
        """What a score needs of each verdict: the columns of ``verdicts.parquet`` without words."""
        return pl.DataFrame(schema=_VERDICTS) if self._source is None else self._source.scored

    def look(self) -> bool:
        """Take in what has changed on disk; whether anything has."""
        with self._lock:
            return self._look()

    def _look(self) -> bool:
        before, changed = self._source, False
        if self._waiting is None or not self._waiting.there:
            there = all(stamp(scratch(self.folder, name)) for name in (TRANSCRIPTS_FILE, VERDICTS_FILE))
            self._waiting = _Waiting(self.folder) if there else None
        if self._waiting is not None:
            try:
                changed = self._waiting.look()
            except OSError:
                self._waiting = None
        stamps = _Written.stamps_of(self.folder)
        if stamps != self._tried:
            try:
                self._written, self.problem = _Written(self.folder) if all(stamps) else None, None
            except (StoreError, OSError, pl.exceptions.PolarsError) as error:
                self._written, self.problem = None, str(error)
            self._tried, changed = stamps, True
        changed |= before is not self._source
        self.version += changed
        return changed

    def read(self, line: Row) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows of one dialogue, given its line: of its turns, and of its verdicts; empty where they have just gone."""
        source, key = self._source, tuple(line[name] for name in KEY)
        if source is None:
            return [], []
        try:
            turns = source.rows(TRANSCRIPTS_FILE, line["begin"], line["end"])
            verdicts = source.rows(VERDICTS_FILE, line["judged_begin"], line["judged_end"])
        except (OSError, pl.exceptions.PolarsError):
            return [], []
        own = ([row for row in rows if (row["dialogue_id"], row["length"], row.get("repeat") or 1) == key] for rows in (turns, verdicts))
        return next(own), next(own)

    def holding(self, term: str) -> Flags:
        """Of each line, whether the term (lower case) occurs in its dialogue: in its id, what was said, why it failed, a judge's reason."""
        with self._lock:
            if (self.version, term) not in self._found:
                kept = [place for place in self._found if place[0] == self.version][1 - MOST_TERMS :]
                self._found = {place: self._found[place] for place in kept}
                self._found[self.version, term] = self._search(term)
            return self._found[self.version, term]

    def _search(self, term: str) -> Flags:
        source = self._source
        if source is None:
            return np.zeros(0, dtype=np.bool_)
        pattern = pattern_of(term)
        hits = [source.dialogues.filter(pl.any_horizontal(pl.col("dialogue_id", "scenario").str.contains(pattern))).select(KEY)]
        for name, columns in SEARCHED.items():
            try:
                hits += [_hits(part, term, columns) for part in source.parts(name)]
            except (OSError, pl.exceptions.PolarsError):
                continue  # the run has just ended: the next look finds its files
        found = pl.concat(hits).unique().with_columns(hit=True)
        return source.dialogues.select(KEY).join(found, on=KEY, how="left", maintain_order="left")["hit"].fill_null(value=False).to_numpy()


def pattern_of(text: str) -> str:
    """A text as a pattern of polars that finds it in whatever case."""
    return "(?i)" + re.escape(text)


def _hits(part: pl.DataFrame, term: str, columns: Sequence[str]) -> pl.DataFrame:
    """The keys of the rows that hold the term. What was said is JSON, of which the words alone are searched."""
    plain = [pl.col(name).str.contains(pattern_of(term)).fill_null(value=False) for name in columns if name != "messages"]
    if "messages" not in columns:
        return part.filter(pl.any_horizontal(plain)).select(KEY)
    as_json = orjson.dumps(term)[1:-1].decode()
    said = pl.col("messages").str.contains(pattern_of(as_json)).fill_null(value=False)
    flags = part.select(*KEY, "messages", plain=pl.any_horizontal(plain), said=said)
    if any(as_json in word for word in JSON_WORDS):
        # It is also a part of what JSON writes around the words.
        flags = flags.with_columns(said=pl.Series([_says(text, term) for text in flags["messages"]], dtype=pl.Boolean))
    return flags.filter(pl.col("plain") | pl.col("said")).select(KEY)


def _says(messages: str | None, term: str) -> bool:
    try:
        return any(term in str(message["content"]).lower() for message in orjson.loads(messages or "[]"))
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return False
