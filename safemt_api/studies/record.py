"""``study.json``: what a study found, as one typed value that is written and read by the same classes.

Shares and indexes lie in [0, 1], money is in US dollars; what is not defined is ``None``, never zero. Unknown keys are kept, since later
versions add some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from safemt_api.errors import StoreError
from safemt_api.files import write_json
from safemt_api.messages import Protocol
from safemt_api.runs.folder import STUDY_FILE
from safemt_api.studies.arms import MODERATION

STUDY_SCHEMA = 1
AGAIN = "run the same study again to have it written anew"

State = Literal["complete", "partial", "budget_exhausted", "interrupted", "left out"]
"""How an arm ended: as ``status`` in a run's summary, or ``left out`` where it could not go on (a dead account) while others did."""


@dataclass(frozen=True, slots=True)
class ArmState:
    """How an arm ended, and why in one sentence where that is not plain; an arm that is left out enters no figure."""

    state: State
    sentence: str = ""


def _defined(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_defined)]
"""A number; NaN is no JSON and becomes ``None``."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)


class Interval(_Part):
    """A value with its 95 % interval."""

    value: Figure = None
    ci_low: Figure = None
    ci_high: Figure = None


class SafetyIndexFigures(Interval):
    """SI with its outer bounds whatever the missing verdicts are, and what it rests on."""

    if_missing_low: Figure = None
    if_missing_high: Figure = None
    complete_ids: int = 0
    ids: int = 0
    lengths: tuple[int, ...] = ()


class TurnRate(_Part):
    """ASR at one turn (scripted: length), with what missing verdicts leave open."""

    turn: int
    unsafe: int
    safe: int
    missing: int
    asr: Figure = None
    ci_low: Figure = None
    ci_high: Figure = None
    if_missing_safe: Figure = None
    if_missing_unsafe: Figure = None


class TurnEffect(_Part):
    """ASR at one turn before and after, over pairs judged in both arms.

    ``p_holm`` is corrected over all comparisons of the study, ``p_holm_turns`` over this effect's turns alone.
    """

    turn: int
    pairs: int
    asr_before: Figure = None
    before_low: Figure = None
    before_high: Figure = None
    asr_after: Figure = None
    after_low: Figure = None
    after_high: Figure = None
    difference: Figure = None
    ci_low: Figure = None
    ci_high: Figure = None
    p_value: Figure = None
    p_holm: Figure = None
    p_holm_turns: Figure = None


class PooledEffect(_Part):
    """ASR over all lengths together, before and after; p from the exact test that swaps the arms within an id."""

    before: Figure = None
    after: Figure = None
    difference: Interval = Interval()
    p_value: Figure = None
    p_holm: Figure = None


class IndexEffect(_Part):
    """SI before and after, over the ids that are complete in both arms."""

    before: SafetyIndexFigures = SafetyIndexFigures()
    after: SafetyIndexFigures = SafetyIndexFigures()
    difference: Interval = Interval()


class MeanChange(_Part):
    """A mean before and after over the same dialogues; ``relative`` is after over before, minus 1."""

    pairs: int
    before: Figure = None
    after: Figure = None
    difference: Interval = Interval()
    relative: Interval = Interval()


class Burden(_Part):
    """What a dialogue costs and takes, without the judge; ``None`` where a price is unknown. Seconds are those of its calls together."""

    cost_usd: MeanChange | None = None
    moderator_cost_usd: Figure = None
    latency_seconds: MeanChange | None = None
    moderator_latency_seconds: Figure = None


class Undecided(_Part):
    """How often the arm's moderator came to no decision: in reviews, and in dialogues with one such or more."""

    reviews: int = 0
    failed: int = 0
    dialogues: int = 0
    dialogues_played: int = 0


class BoundFigures(_Part):
    """The effect under one reading of the replies that only the moderator's failure stopped."""

    prevented: int
    introduced: int
    asr_after: Figure = None
    safety_index_after: Figure = None


class Bounds(_Part):
    """The effect without the replies that only the moderator's failure stopped, and with them as if it had decided so."""

    without_failures: BoundFigures
    with_failures: BoundFigures


class BenignRate(Interval):
    """How often something happened to harmless dialogues."""

    by_length: tuple[Mapping[str, Any], ...] = ()


class OverRefusal(_Part):
    """Harmless dialogues that were declined, before and after."""

    pairs: int
    before: Interval
    after: Interval
    difference: Interval
    p_value: Figure = None


class SideEffects(_Part):
    """What happens to harmless dialogues; ``None`` where none was played or nothing was decided."""

    false_alarms: BenignRate | None = None
    over_refusal: OverRefusal | None = None
    reply_characters: MeanChange | None = None


class Effect(_Part):
    """What changes from the reference to the arm, pair by pair, over harmful dialogues judged in both.

    ``not_claimed`` says why there is none: then every figure of it is ``None``. ``prevented`` replies were unsafe in the reference and safe
    in the arm, ``introduced`` the other way round. ``unpaired`` cells that both hold lack a verdict in one of them or both;
    ``only_in_reference`` and ``only_in_arm`` count ids that the other does not hold.
    """

    arm: str
    reference: str
    ids: int | None = None
    unpaired: int | None = None
    only_in_reference: int | None = None
    only_in_arm: int | None = None
    asr_by_turn: tuple[TurnEffect, ...] | None = None
    test: str | None = None
    asr: PooledEffect | None = None
    safety_index: IndexEffect | None = None
    prevented: int | None = None
    introduced: int | None = None
    net_prevented: int | None = None
    extra_cost_usd: Figure = None
    cost_per_prevented_usd: Figure = None
    not_claimed: str | None = None
    sentence: str = ""
    undecided: Undecided = Undecided()
    bounds: Bounds | None = None
    detection: BenignRate | None = None
    benign: SideEffects = SideEffects()
    per_dialogue: Mapping[str, Burden] = Field(default_factory=dict)


class Place(_Part):
    """One arm's row of a leaderboard: 1 is the safest; ``best`` to ``worst`` is the range of ranks that the data leave open.

    An arm without a Safety Index has no rank, nor has one of which too many dialogues are wanting (``not_ranked`` says so). ``spent_usd``
    is what it bought; ``cost_per_dialogue_usd`` what a dialogue costs without the judge, also where a call was bought by another arm.
    """

    arm: str
    rank: int | None = None
    best: int | None = None
    worst: int | None = None
    not_ranked: str = ""
    safety_index: SafetyIndexFigures = SafetyIndexFigures()
    asr_by_turn: tuple[TurnRate, ...] = ()
    missing: int = 0
    cost_per_dialogue_usd: Figure = None
    spent_usd: Figure = None


class Board(_Part):
    """Arms whose scores may be ranked together: one protocol, one judge; every figure over the ids and lengths that all of them hold."""

    protocol: Protocol
    judge: str
    lengths: tuple[int, ...] = ()
    ids: int = 0
    rows: tuple[Place, ...] = ()


class ArmRecord(_Part):
    """An arm: its run, its own options as they were given, and how it ended."""

    name: str
    run: str
    reference: str | None = None
    given: Mapping[str, Any] = Field(default_factory=dict)
    state: State
    sentence: str = ""
    provider: str | None = None
    model: str | None = None
    moderator: str | None = None


class Ids(_Part):
    """Dialogue ids: how many were planned (``None``: unknown), and how many every arm that is not left out holds."""

    planned: int | None = None
    common: int = 0


class StudyRecord(_Part):
    """``study.json``; ``spent_usd`` is ``None`` where a price is unknown."""

    schema_version: int = Field(default=STUDY_SCHEMA, alias="schema")
    study: str
    id: str | None = None
    status: Literal["complete", "partial", "budget_exhausted", "interrupted"]
    started_utc: str | None = None
    ended_utc: str | None = None
    max_usd: float | None = None
    spent_usd: Figure = None
    shared: Mapping[str, Any] = Field(default_factory=dict)
    arms: tuple[ArmRecord, ...]
    ids: Ids = Ids()
    leaderboard: tuple[Board, ...] = ()
    effects: tuple[Effect, ...] = ()

    @property
    def references(self) -> dict[str, str]:
        """The reference of each arm that has one."""
        return {arm.name: arm.reference for arm in self.arms if arm.reference is not None}

    @property
    def is_defence(self) -> bool:
        """Whether the arms differ in their moderator alone, each beside the one arm that has none."""
        told = {key for arm in self.arms for key in arm.given}
        return len(set(self.references.values())) == 1 and "moderator" in told and told <= MODERATION

    def json_value(self) -> dict[str, Any]:
        """The record as JSON values under the names of the file."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, folder: Path) -> Path:
        """Write ``study.json`` whole or not at all, and return its path.

        Raises:
            StoreError: It cannot be written.
        """
        write_json(folder / STUDY_FILE, self.json_value())
        return folder / STUDY_FILE


def read_study(folder: Path) -> StudyRecord:
    """The record of the study in the folder.

    Raises:
        StoreError: There is none, or it is damaged or of a newer version.
    """
    file = folder / STUDY_FILE
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(file, "is missing", AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(file, f"cannot be read as JSON ({error})", AGAIN) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if isinstance(schema, int) and schema > STUDY_SCHEMA:
        problem = f"was written by a newer safemt-api (schema {schema}; this one knows {STUDY_SCHEMA})"
        raise StoreError(file, problem, "upgrade with `pip install --upgrade safemt-api`")
    try:
        return StudyRecord.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StoreError(file, f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg'].lower()}", AGAIN) from error
