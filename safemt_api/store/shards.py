"""Runs that several processes play in shards, as the store tells all of them: settings, purse, who plays which part, and the rows so far.

Every shard hands in the rows of its transcripts and verdicts as they come, so that the whole run can be put together by whoever has the
store, on any machine, also while it is played and where a process was killed. A shard that is played again is another *attempt*: what an
earlier one handed in stays until the new one has ended. Whoever was taken for dead and replaced is refused at its next beat (``Fence``).
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from safemt_api.store.connection import Connection, Work
from safemt_api.store.turns import now_utc

PartState = Literal["playing", "over", "interrupted"]
"""``over``: it came to its end by itself, whatever is missing; ``playing`` it stays where its process was killed."""


class Sharded(NamedTuple):
    """A run in shards: its id and its purse in the books, the number of its parts, what must not change, and its run file."""

    run: str
    id: str
    purse: str
    parts: int
    identity: Mapping[str, Any]
    record: Mapping[str, Any]


class Part(NamedTuple):
    """One shard as the store knows it.

    ``id`` names it in the books, ``place`` is the machine and folder that it is played in, ``player`` tells people who does, ``beat`` grows
    while it is played; ``counts`` is how far it is, ``record`` its run file and its summary once it has ended.
    """

    part: int
    id: str
    attempt: int
    place: str
    player: str
    state: PartState
    beat: int
    seen_utc: str
    counts: Mapping[str, Any]
    record: Mapping[str, Any] | None


class Standing(NamedTuple):
    """How many parts of a run are over, of how many."""

    over: int
    parts: int

    @property
    def all_over(self) -> bool:
        """Whether nothing is left to be played."""
        return self.over >= self.parts


def begun(run: Sharded) -> Work[Sharded]:
    """The work that enters a run in shards, where it is not entered yet; gives it as it stands then."""

    def work(connection: Connection) -> Sharded:
        values = (run.run, run.id, run.purse, run.parts, json.dumps(run.identity), json.dumps(run.record), now_utc())
        connection.execute(
            "INSERT INTO sharded (run, id, purse, parts, identity, record, begun_utc, tried) VALUES (?, ?, ?, ?, ?, ?, ?, 0)"
            " ON CONFLICT (run) DO NOTHING",
            values,
        )
        # The whole itself takes no reply: its parts do, each under its own id.
        connection.execute(
            "INSERT INTO runs (id, name, entered_utc, uses_noted) SELECT id, run, begun_utc, TRUE FROM sharded WHERE run = ?"
            " ON CONFLICT (id) DO NOTHING",
            (run.run,),
        )
        return _sharded(connection, run.run) or run

    return work


def sharded(run: str) -> Work[Sharded | None]:
    """The run of that name, if it is played in shards."""
    return lambda connection: _sharded(connection, run)


def _sharded(connection: Connection, run: str) -> Sharded | None:
    row = connection.execute("SELECT run, id, purse, parts, identity, record FROM sharded WHERE run = ?", (run,)).fetchone()
    if row is None:
        return None
    name, run_id, purse, parts, identity, record = row
    return Sharded(name, run_id, purse, parts, json.loads(identity), json.loads(record))


def parts_of(run: str) -> Work[list[Part]]:
    """The parts that were ever begun, in their order."""

    def work(connection: Connection) -> list[Part]:
        rows = connection.execute(
            "SELECT part, id, attempt, place, player, state, beat, seen_utc, counts, record FROM shards WHERE run = ? ORDER BY part", (run,)
        ).fetchall()
        return [Part._make((*told, json.loads(counts), record and json.loads(record))) for *told, counts, record in rows]

    return work


def taken(run: str, part: int, *, id: str, place: str, player: str) -> Work[Part]:  # noqa: A002 (the field's own name)
    """The work that begins an attempt at a part; the part keeps the id that its money is booked under from the first one on."""

    def work(connection: Connection) -> Part:
        connection.execute(
            "INSERT INTO shards (run, part, id, attempt, place, player, state, beat, seen_utc, counts)"
            " VALUES (?, ?, ?, 1, ?, ?, 'playing', 0, ?, '{}')"
            " ON CONFLICT (run, part) DO UPDATE SET attempt = shards.attempt + 1, place = excluded.place, player = excluded.player,"
            " state = 'playing', beat = shards.beat + 1, seen_utc = excluded.seen_utc",
            (run, part, id, place, player, now_utc()),
        )
        return next(one for one in parts_of(run)(connection) if one.part == part)

    return work


class Fence(NamedTuple):
    """Under which attempt a process writes; the store refuses it once there is a later one."""

    run: str
    part: int
    attempt: int


def beaten(fence: Fence, counts: Mapping[str, Any], rows: tuple[bytes, bytes]) -> Work[bool]:
    """The work that says how far a part is, and hands in the rows that came since; ``False``: somebody else plays it by now.

    Args:
        fence: Whose part.
        counts: JSON values.
        rows: Lines of transcripts and of verdicts; either may be empty.
    """
    packed = tuple(b64encode(zlib.compress(lines)).decode() for lines in rows)

    def work(connection: Connection) -> bool:
        found = connection.execute(
            "UPDATE shards SET beat = beat + 1, seen_utc = ?, counts = ? WHERE run = ? AND part = ? AND attempt = ?",
            (now_utc(), json.dumps(counts), *fence),
        )
        if found.rowcount == 0:
            return False
        if any(rows):
            connection.execute(
                "INSERT INTO shard_rows (run, part, attempt, place, transcripts, verdicts)"
                " SELECT ?, ?, ?, coalesce(max(place), 0) + 1, ?, ? FROM shard_rows WHERE run = ? AND part = ? AND attempt = ?",
                (*fence, *packed, *fence),
            )
        return True

    return work


def ended(fence: Fence, state: PartState, record: Mapping[str, Any] | None = None) -> Work[Standing]:
    """The work that ends an attempt, and tells in the same transaction how many parts are over: exactly one process finds that all are.

    Without a record that of an earlier attempt stays.
    """

    def work(connection: Connection) -> Standing:
        # First of all, so that of two processes that end together the second waits for the first, and sees it.
        connection.execute("UPDATE sharded SET parts = parts WHERE run = ?", (fence.run,))
        connection.execute(
            "UPDATE shards SET state = ?, record = coalesce(?, record), seen_utc = ? WHERE run = ? AND part = ? AND attempt = ?",
            (state, None if record is None else json.dumps(record), now_utc(), *fence),
        )
        if state == "over":
            connection.execute("DELETE FROM shard_rows WHERE run = ? AND part = ? AND attempt < ?", fence)
        return standing(fence.run)(connection)

    return work


def standing(run: str) -> Work[Standing]:
    """How far the whole run is, in parts."""

    def work(connection: Connection) -> Standing:
        over = connection.execute("SELECT count(*) FROM shards WHERE run = ? AND state = 'over'", (run,)).fetchone()[0]
        found = connection.execute("SELECT parts FROM sharded WHERE run = ?", (run,)).fetchone()
        return Standing(int(over), int(found[0]) if found else 1)

    return work


class Lines(NamedTuple):
    """Rows that a part handed in together, as lines of JSON."""

    part: int
    attempt: int
    transcripts: bytes
    verdicts: bytes


def line_places(run: str) -> Work[list[tuple[int, int, int]]]:
    """Where the rows of a run stand, for ``lines_at``; of each part the latest attempt first."""
    query = "SELECT part, attempt, place FROM shard_rows WHERE run = ? ORDER BY part, attempt DESC, place"
    return lambda connection: [tuple(row) for row in connection.execute(query, (run,)).fetchall()]


def lines_at(run: str, place: tuple[int, int, int]) -> Work[Lines | None]:
    """Rows that were handed in together; ``None``: they are gone, since a later attempt at the part has ended."""

    def work(connection: Connection) -> Lines | None:
        row = connection.execute(
            "SELECT transcripts, verdicts FROM shard_rows WHERE run = ? AND part = ? AND attempt = ? AND place = ?", (run, *place)
        ).fetchone()
        return None if row is None else Lines(*place[:2], *(zlib.decompress(b64decode(text)) for text in row))

    return work


Turn = Literal["mine", "taken", "done"]


def trial_turn(run: str, who: str) -> Work[Turn]:
    """The work that asks whose turn it is to try the judges: one process does at a time, until a trial was good, which holds for all."""

    def work(connection: Connection) -> Turn:
        if connection.execute("SELECT 1 FROM sharded WHERE run = ? AND tried = 1", (run,)).fetchone():
            return "done"
        found = connection.execute("UPDATE sharded SET trying = ? WHERE run = ? AND (trying IS NULL OR trying = ?)", (who, run, who))
        return "mine" if found.rowcount else "taken"

    return work


def trial_over(run: str, who: str, *, good: bool) -> Work[None]:
    """The work that says how the trial ended; after a good one nobody waits for another."""

    def work(connection: Connection) -> None:
        if good:
            connection.execute("UPDATE sharded SET tried = 1 WHERE run = ?", (run,))
        connection.execute("UPDATE sharded SET trying = NULL WHERE run = ? AND trying = ?", (run, who))

    return work


def forgotten(run: str) -> Work[None]:
    """The work that forgets a run that was removed; its money stays booked."""

    def work(connection: Connection) -> None:
        for query in ("DELETE FROM shard_rows WHERE run = ?", "DELETE FROM shards WHERE run = ?", "DELETE FROM sharded WHERE run = ?"):
            connection.execute(query, (run,))

    return work


class BookedPart(NamedTuple):
    """A part as the books know it; ``over_utc`` is ``None`` where it has not come to its end."""

    name: str
    id: str
    over_utc: str | None


def booked_parts() -> Work[list[BookedPart]]:
    """The parts of all runs in shards: their folders may be on other machines."""
    query = (
        "SELECT s.run || ' ' || s.part || '/' || d.parts, s.id, CASE WHEN s.state = 'over' THEN s.seen_utc END"
        " FROM shards s JOIN sharded d ON d.run = s.run ORDER BY s.run, s.part"
    )
    return lambda connection: [BookedPart(*row) for row in connection.execute(query).fetchall()]


def judged_in_parts_usd(run_id: str) -> Work[float]:
    """What the judges of a run's parts have cost, reservations included; zero where the run of that id is in one piece."""
    query = """
    SELECT coalesce(sum(coalesce(c.settled_usd, c.most_usd)), 0.0)
    FROM charges c JOIN shards s ON s.id = c.run JOIN sharded d ON d.run = s.run
    WHERE d.id = ? AND c.purpose = 'judge' AND NOT (c.state = 'kept' AND c.settled_usd IS NULL)
    """
    return lambda connection: float(connection.execute(query, (run_id,)).fetchone()[0])
