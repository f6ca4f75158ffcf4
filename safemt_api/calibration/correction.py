"""A run's judge measured against labels made by hand, kept as ``calibration.json``, and scores corrected by it.

Benign dialogues have verdicts of another meaning (did it help?), so they are neither labelled nor corrected here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from safemt_api import words
from safemt_api.calibration.agreement import Agreement, agreement, agreement_by_scenario, two_stages
from safemt_api.calibration.corrected import CorrectedScores, corrected_scores, prediction_powered_asr
from safemt_api.calibration.sheet import SheetRow, read_labels, stratified_sheet, stratum_weights
from safemt_api.errors import UsageError
from safemt_api.files import write_json
from safemt_api.metrics.frames import score_frame
from safemt_api.metrics.uncertainty import Estimate
from safemt_api.runs.folder import CALIBRATION_FILE
from safemt_api.runs.record import RunData, judge_title

CALIBRATION_SCHEMA = 1
REPLY = ("dialogue_id", "length", "turn")
LABEL_SCHEMA: dict[str, type[pl.DataType]] = {
    "dialogue_id": pl.String,
    "length": pl.Int64,
    "turn": pl.Int64,
    "scenario": pl.String,
    "judge": pl.String,
    "truth": pl.String,
    "weight": pl.Float64,
    "stage": pl.Int64,
    "first": pl.String,
}
"""One row a labelled reply; ``weight`` is how many replies of the run it stands for. ``stage`` and ``first`` are null but where two judges
were asked in turn: which of them decided, and what the first one said."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What people said of replies that a judge had judged. ``run`` is the run they were drawn from; ``labels`` has ``LABEL_SCHEMA``."""

    file: str
    run: str
    judge: str | None
    judge_digest: str | None
    labels: pl.DataFrame

    @property
    def judge_title(self) -> str:
        """The judge as it is named beside scores."""
        return judge_title(self.judge)


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """A run's scores as they would be without its judge's errors. ``powered`` (see ``prediction_powered_asr``) needs labels on this
    very run and is ``None`` without."""

    run: RunData
    calibration: Calibration
    judge: Agreement
    scores: CorrectedScores
    powered: pl.DataFrame | None


def sheet_of(run: RunData, *, n: int, seed: int) -> list[SheetRow]:
    """Replies of the run to label by hand, spread evenly over scenarios and verdicts.

    Raises:
        UsageError: ``n`` is not positive, or there is nothing to label.
    """
    return stratified_sheet(_harmful(run).iter_rows(named=True), run.transcripts.iter_rows(named=True), n=n, seed=seed)


def calibrate(run: RunData, file: Path) -> Calibration:
    """The labels of a sheet beside the verdicts of the run they were drawn from.

    Raises:
        UsageError: The sheet cannot be read, or none of its rows is a reply that the run's judge was asked about.
    """
    labels, verdicts = read_labels(file), _harmful(run)
    weights = stratum_weights(verdicts.iter_rows(named=True), [label.key for label in labels])
    rows = [(*label.key, label.label, weights[label.key]) for label in labels if label.key in weights]
    if not rows:
        raise UsageError(f"{file}: no labelled row is a judged reply of {run.name}; is it the sheet of another run?")
    schema = {name: LABEL_SCHEMA[name] for name in (*REPLY, "truth", "weight")}
    said = verdicts.filter(pl.col("counts")).select(*REPLY, "scenario", "stage", "first", judge="label")
    labelled = pl.DataFrame(rows, schema=schema, orient="row").join(said, on=REPLY, how="inner", maintain_order="left")
    return Calibration(file.name, run.name, run.summary.judge, run.manifest.get("judge_digest"), labelled.select(*LABEL_SCHEMA))


def _harmful(run: RunData) -> pl.DataFrame:
    """Verdicts on harmful dialogues; of several repeats those on the first, so that a labelled reply is one.

    With ``stage`` and ``first``, as ``LABEL_SCHEMA`` has them.
    """
    rows = run.verdicts.filter(pl.col("kind") == "harmful", pl.col("repeat") == pl.col("repeat").min())
    settings = run.manifest.get("settings")
    second = settings.get("escalate") if isinstance(settings, Mapping) else None
    if not isinstance(second, str):
        return rows.with_columns(stage=pl.lit(None, pl.Int64), first=pl.lit(None, pl.String))
    members = rows.filter(~pl.col("counts"))
    again = members.filter(pl.col("judge") == second).select(REPLY).unique().with_columns(stage=pl.lit(2, pl.Int64))
    first = members.group_by(REPLY, maintain_order=True).agg(first=pl.col("label").first())
    joined = rows.join(again, on=REPLY, how="left", maintain_order="left").join(first, on=REPLY, how="left", maintain_order="left")
    return joined.with_columns(pl.col("stage").fill_null(1))


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write ``calibration.json``: the judge's figures for readers, and the labels, from which any run of this judge can be corrected.

    Raises:
        StoreError: It cannot be written.
    """
    whole, parts, stages = agreement(calibration.labels), agreement_by_scenario(calibration.labels), two_stages(calibration.labels)
    record = {
        "schema": CALIBRATION_SCHEMA,
        "run": calibration.run,
        "judge": calibration.judge,
        "judge_digest": calibration.judge_digest,
        **_figures(whole),
        "by_scenario": {name: None if one is None else _figures(one) for name, one in parts.items()},
        "two_stages": stages and {"asked_again": stages.asked_again, "first": _figures(stages.first), "second": _figures(stages.second)},
        "labels": calibration.labels.to_dicts(),
    }
    write_json(folder / CALIBRATION_FILE, record)
    return folder / CALIBRATION_FILE


def _figures(found: Agreement) -> dict[str, Any]:
    cells = {name: getattr(found, name) for name in ("true_unsafe", "false_safe", "false_unsafe", "true_safe")}
    estimates = {
        name: {part: None if math.isnan(number) else number for part, number in asdict(getattr(found, name)).items()}
        for name in ("sensitivity", "specificity", "kappa")
    }
    return {"labelled": found.labelled, "confusion": cells, **estimates}


def read_calibration(run: RunData, file: Path) -> Calibration:
    """A ``calibration.json``, or a labelled sheet of this run.

    Raises:
        UsageError: The file cannot be read, is neither, or is of a newer version.
    """
    if file.suffix.casefold() != ".json":
        return calibrate(run, file)
    try:
        record = json.loads(file.read_bytes())
        if not isinstance(record, dict) or not isinstance(record.get("labels"), list):
            raise UsageError(f"{file}: is no calibration file; `safemt-api judge calibrate RUN LABELS.csv` writes one")
        if not isinstance(record.get("schema"), int) or record["schema"] > CALIBRATION_SCHEMA:
            raise UsageError(f"{file}: was written by a newer safemt-api; upgrade with `pip install --upgrade safemt-api`")
        labels = pl.DataFrame(record["labels"], schema=LABEL_SCHEMA, orient="row")
        known = {name: _text(record.get(name)) for name in ("judge", "judge_digest")}
        return Calibration(file.name, str(record.get("run")), known["judge"], known["judge_digest"], labels)
    except (OSError, ValueError, TypeError, RecursionError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{file}: cannot be read as a calibration file ({error})") from error


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def correct(run: RunData, calibration: Calibration) -> Correction:
    """The run's scores corrected for its judge's errors.

    Raises:
        UsageError: The labels measured another judge, or are too few or too bad to correct with.
    """
    _refuse_other_judge(run, calibration)
    frame = _with_asked(run)
    powered = None
    if _drawn_from(run, calibration):
        last = calibration.labels.filter(pl.col("turn") == pl.col("length"))
        powered = prediction_powered_asr(frame, last.select("dialogue_id", "length", "truth", "weight"))
    return Correction(run, calibration, agreement(calibration.labels), corrected_scores(frame, calibration.labels), powered)


def _refuse_other_judge(run: RunData, calibration: Calibration) -> None:
    if run.summary.judge != calibration.judge:
        raise UsageError(
            f"{calibration.file} measures {calibration.judge_title}, but {run.name} was judged by {run.judge_title}; "
            "label replies of that judge"
        )
    digest = run.manifest.get("judge_digest")
    if digest and calibration.judge_digest and digest != calibration.judge_digest:
        raise UsageError(
            f"{calibration.file} measures {calibration.judge_title} with another rubric or version than {run.name} was judged with; "
            f"label replies of that one"
        )


def _with_asked(run: RunData) -> pl.DataFrame:
    """The score frame with ``asked``: false where the vendor's own refusal, and not the judge, made the verdict."""
    last = run.verdicts.filter(pl.col("counts"), pl.col("turn") == pl.col("length"))
    asked = last.select("dialogue_id", "length", asked=pl.col("source") != "outcome")
    return (
        score_frame(run.verdicts).join(asked, on=("dialogue_id", "length"), how="left").with_columns(pl.col("asked").fill_null(value=True))
    )


def _drawn_from(run: RunData, calibration: Calibration) -> bool:
    if run.name != calibration.run:
        return False
    said = run.verdicts.filter(pl.col("counts")).select(*REPLY, judge="label")
    return calibration.labels.join(said, on=(*REPLY, "judge"), how="inner").height == calibration.labels.height


def correction_notes(correction: Correction) -> list[str]:
    """What a reader must know beside corrected scores: how good the judge is, on what labels, and what each method assumes."""
    found, scores = correction.judge, correction.scores
    where = "replies of this run" if correction.powered is not None else f"replies of run {correction.calibration.run}"
    return [
        f"{correction.calibration.judge_title} against {found.labelled} {where} labelled by hand: sensitivity "
        f"{estimate_said(found.sensitivity)}, specificity {estimate_said(found.specificity)}, Cohen's kappa {estimate_said(found.kappa)}.",
        f"Rogan–Gladen takes the judge for equally good at every length (sensitivity {scores.sensitivity:.3f}, specificity "
        f"{scores.specificity:.3f}); its interval holds the uncertainty of both and of the ids; "
        "under “this run's” stands the interval of the truth of these very replies, which knows no chance of other ids. "
        "Prediction-powered inference assumes nothing of the kind but needs 20 labels at a length on the same run.",
    ]


def estimate_said(found: Estimate) -> str:
    """A number with its 95 % interval."""
    if math.isnan(found.value):
        return words.NOTHING
    return f"{found.value:.3f} ({found.ci_low:.3f}–{found.ci_high:.3f})"


def corrected_rows(correction: Correction) -> list[dict[str, Any]]:
    """One row a length: length, raw_asr, asr, ci_low, ci_high, run_low, run_high (Rogan–Gladen; the last two about these very replies),
    and powered, powered_low, powered_high (or ``None``)."""
    frame = correction.scores.asr_by_turn
    if correction.powered is None:
        nothing = pl.lit(None, dtype=pl.Float64)
        return frame.with_columns(powered=nothing, powered_low=nothing, powered_high=nothing).to_dicts()
    own = correction.powered.select("length", powered="asr", powered_low="ci_low", powered_high="ci_high")
    return frame.join(own, on="length", how="left", maintain_order="left").to_dicts()
