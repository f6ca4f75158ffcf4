"""Takes finished dialogues as they come, keeps running counts, and writes the parquet files at the end without holding the run in memory.

Rows wait in line-by-line files beside the run. These are scratch: what is durable is the turn store, from which the same command rebuilds
them; so they are neither synced nor trusted when a run goes on. Until it ends, and where it is killed, they are what a report can read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from safemt_api.files import private_file, private_folder, unwritable
from safemt_api.messages import Dialogue, Outcome
from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE
from safemt_api.runs.rows import Finished, transcript_rows, verdict_rows
from safemt_api.runs.tally import ModerationTally, VerdictTally

if TYPE_CHECKING:
    import polars as pl

MAX_FAILURES_KEPT = 500
ROWS_AT_A_TIME = 500
ROWS_IN_GROUP = 1000
"""Small groups and no look-ahead: 10,000 rows cost 48 MB on top instead of 90, for a file a fifth larger (measured, polars 2.1)."""


class Collector:
    """Counts and rows of one run; made by ``open_collector``."""

    def __init__(self, run: str, transcripts: IO[bytes], verdicts: IO[bytes]) -> None:
        self._run, self._transcripts, self._verdicts = run, transcripts, verdicts
        self.finished = self.failed = 0
        self.outcomes: Counter[str] = Counter({outcome.value: 0 for outcome in Outcome})
        self.failures: list[dict[str, Any]] = []
        self.labels: Counter[str | None] = Counter()
        self.verdicts, self.moderation = VerdictTally(), ModerationTally()
        self.wanting = 0  # dialogues that failed, lack a verdict, or went without their moderator
        self.covered: Counter[tuple[str, int]] = Counter()
        self.served_models: Counter[str] = Counter()

    def add(self, finished: Finished) -> None:
        """Take one finished dialogue."""
        transcript = finished.transcript
        self.finished += 1
        if transcript.failure is not None:
            self.failed += 1
            self._note_failure(transcript.dialogue, transcript.failure)
        self.covered[transcript.dialogue.scenario, transcript.dialogue.length] += 1
        turns = list(transcript_rows(finished, self._run))
        for row in turns:
            self._transcripts.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            self.outcomes[row["outcome"]] += 1
            if row["served_model"]:
                self.served_models[row["served_model"]] += 1
        # Out of our hands at once, replies before verdicts: a report of a run under way, or of a killed one, reads these files.
        self._transcripts.flush()
        verdicts = list(verdict_rows(finished, self._run))
        # Both are counted, whatever the first says.
        self.wanting += self.verdicts.add(verdicts) | self.moderation.add(turns)
        for row in verdicts:
            self._verdicts.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            if row["counts"] and row["kind"] == "harmful":
                self.labels[row["label"]] += 1
        self._verdicts.flush()

    def _note_failure(self, dialogue: Dialogue, why: str) -> None:
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append({"dialogue_id": dialogue.id, "length": dialogue.length, "why": why})

    def close(self) -> None:
        """Hand all rows to the files and close them."""
        self._transcripts.close()
        self._verdicts.close()

    @property
    def asr_so_far(self) -> float | None:
        """Unsafe among the judged replies so far, for the progress line only."""
        judged = self.labels["unsafe"] + self.labels["safe"]
        return self.labels["unsafe"] / judged if judged else None


@contextmanager
def open_collector(folder: Path, run: str) -> Iterator[Collector]:
    """A collector whose rows go to scratch files in the folder.

    Raises:
        StoreError: The folder cannot be written.
    """
    try:
        private_folder(folder)
        sweep(folder)
        rows, words = (private_file(scratch(folder, name)) for name in (TRANSCRIPTS_FILE, VERDICTS_FILE))
        with rows.open("wb") as transcripts, words.open("wb") as verdicts:
            yield Collector(run, transcripts, verdicts)
    except OSError as error:
        raise unwritable(folder, error) from error


def scratch(folder: Path, name: str) -> Path:
    """The line-by-line file that becomes the parquet file of that name; whoever holds the run's lock writes it, and anyone may read it."""
    return folder / f".{name}.rows"


def sweep(folder: Path) -> None:
    """Remove the rows and halves of frames that the last player left; for whoever holds the run's lock."""
    for file in folder.glob(".*.parquet.*"):
        file.unlink(missing_ok=True)


def write_frames(folder: Path, target: Path) -> None:
    """Turn the scratch files into ``transcripts.parquet`` and ``verdicts.parquet`` in the target folder, some hundred rows at a time.

    Raises:
        StoreError: A file cannot be written.
    """
    from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA  # noqa: PLC0415 (imports polars, which the command line's start must not)

    for name, schema in ((TRANSCRIPTS_FILE, TRANSCRIPT_SCHEMA), (VERDICTS_FILE, VERDICT_SCHEMA)):
        write_frame(scratch(folder, name), target / name, schema)


def write_frame(rows: Path, target: Path, schema: Mapping[str, type[pl.DataType]]) -> None:
    """Turn a file of rows into a parquet file.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        _write_frame(rows, target, schema)
    except OSError as error:
        raise unwritable(target, error) from error


def _write_frame(rows: Path, target: Path, schema: Mapping[str, type[pl.DataType]]) -> None:
    import polars as pl  # noqa: PLC0415 (polars is imported late)

    parts: list[Path] = []
    with rows.open("rb") as lines:
        while chunk := list(islice(lines, ROWS_AT_A_TIME)):
            part = private_file(target.with_name(f"{target.name}.part{len(parts)}"))
            frame_of([orjson.loads(line) for line in chunk], schema).write_parquet(part, statistics=False)
            parts.append(part)
    private_file(target)
    if len(parts) == 1:
        parts.pop().replace(target)
    elif parts:
        scanned = pl.scan_parquet(parts, glob=False, parallel="none", low_memory=True, cache=False)
        scanned.sink_parquet(target, row_group_size=ROWS_IN_GROUP, maintain_order=True)
    else:
        pl.DataFrame(schema=schema).write_parquet(target)
    for part in parts:
        part.unlink(missing_ok=True)


def frame_of(records: Sequence[Mapping[str, Any]], schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Rows as a frame with the columns of the schema."""
    import polars as pl  # noqa: PLC0415 (polars is imported late)

    return pl.DataFrame({name: pl.Series(name, [record[name] for record in records], dtype=kind) for name, kind in schema.items()})
