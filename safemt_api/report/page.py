"""The report as one HTML file that needs no network: scores, charts and every transcript, for one run, several, or a study.

Tables and sentences are the terminal's; ``web`` holds the templates that draw them, and sees to it that nothing from outside is markup.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL.Image

from safemt_api import words
from safemt_api.calibration.correction import Correction
from safemt_api.dataset.entries import Dataset
from safemt_api.dataset.picture_files import Inspection, open_image, open_picture
from safemt_api.errors import UsageError
from safemt_api.files import write_bytes
from safemt_api.messages import Dialogue, Line
from safemt_api.report.payload import pack
from safemt_api.report.sections import run_sections, study_sections
from safemt_api.report.study_tables import safest_sentence, study_sentences
from safemt_api.report.table import series_of
from safemt_api.report.tables import below_list_price, index_basis, judges_of, run_labels
from safemt_api.report.web import embedded, page_script, render
from safemt_api.runs.folder import REPORT_FILE
from safemt_api.runs.record import RunData, read_run
from safemt_api.studies.comparability import MARK, all_differences, comparable_groups
from safemt_api.studies.record import StudyRecord

MOST_NAMED_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure at the top of a run's page; ``whisker`` is a value with its interval, drawn on a line from 0 to 1."""

    name: str
    value: str
    lines: Sequence[str]
    whisker: tuple[float, float | None, float | None] | None = None


@dataclass(frozen=True, slots=True)
class Heading:
    """The top of the page: what was run, what stands in the way of its figures, and what a reader wants first."""

    title: str
    lede: str
    facts: Mapping[str, str | None] = field(default_factory=dict)
    banners: Sequence[tuple[str, str]] = ()
    tiles: Sequence[Tile] = ()


def render_page(
    runs: Sequence[RunData],
    *,
    images: bool = True,
    data_folder: Path | None = None,
    charts: bool = True,
    corrections: Sequence[Correction] = (),
    study: StudyRecord | None = None,
) -> str:
    """The whole page as HTML text.

    Args:
        runs: One run, or several side by side; scripted and live runs get tables and charts of their own.
        images: Whether small pictures are embedded (blurred until clicked; at most 300 and 6 MB).
        data_folder: Where the pictures are, when not where the run files say.
        charts: Whether charts are drawn; without the optional extra the page says how to get them.
        corrections: Scores of some of the runs corrected for their judges' errors, shown beside the raw ones.
        study: The study whose arms the runs are; then its ranks and effects stand first, and there may be no run at all.

    Raises:
        UsageError: No run is given.
    """
    if not runs and study is None:
        raise UsageError("a report needs at least one run")
    drawing = _charts_module() if charts else None
    payload, labels = pack(runs, images=images, data_folder=data_folder), run_labels(runs)
    sections = [
        *(() if study is None else study_sections(study, [run.name for run in runs], drawing)),
        *(run_sections(runs, drawing, corrections, ranked=study is None) if runs else ()),
    ]
    data = {
        "study": "" if study is None else study.study,
        "runs": labels,
        "series": [series_of(place) for place in range(len(runs))],
        "judges": payload.judges,
        "transcripts": payload.transcripts,
    }
    return render(
        "page.html",
        script=page_script("transcripts.js"),
        heading=run_heading(runs) if study is None else study_heading(study, runs),
        without_charts=charts and drawing is None,
        sections=sections,
        runs=labels,
        pictures_left_out=payload.pictures_left_out,
        dialogues_left_out=payload.dialogues_left_out,
        settings={label: _settings(run.manifest) for label, run in zip(labels, runs, strict=True)},
        data=embedded(data),
    )


def write_page(
    folder: Path,
    runs: Sequence[RunData],
    *,
    images: bool = True,
    data_folder: Path | None = None,
    charts: bool = True,
    corrections: Sequence[Correction] = (),
    study: StudyRecord | None = None,
) -> Path:
    """Write the page into ``folder``, whole or not at all, and return its path: ``report.html``, or for several runs a name of their own;
    a study's page is the ``report.html`` of its folder.

    Raises:
        StoreError: The file cannot be written.
        UsageError: No run is given.
    """
    text = render_page(runs, images=images, data_folder=data_folder, charts=charts, corrections=corrections, study=study)
    target = folder / (page_name(runs) if study is None else REPORT_FILE)
    write_bytes(target, text.encode("utf-8"))
    return target


def page_name(runs: Sequence[RunData]) -> str:
    """The file name of the runs' page: other runs side by side have another, so that no report takes the place of a different one."""
    if len(runs) == 1:
        return REPORT_FILE
    digest = sha256("\0".join(str(run.folder.resolve()) for run in runs).encode()).hexdigest()[:8]
    named = "-".join("".join(sign if sign.isalnum() else "-" for sign in run.name) for run in runs)
    return f"report-{named[:MOST_NAMED_CHARACTERS].strip('-')}-{digest}.html"


def arm_runs(folder: Path, record: StudyRecord) -> list[RunData]:
    """The runs of the study's arms that are not left out, under the arms' names and in their order.

    Raises:
        StoreError: A run that the record counts on cannot be read any more.
    """
    return [replace(read_run(folder / arm.name), name=arm.name) for arm in record.arms if arm.state != "left out"]


def write_study_page(
    folder: Path, record: StudyRecord, *, images: bool = True, data_folder: Path | None = None, charts: bool = True
) -> Path:
    """Write the page of the study in ``folder`` (see ``write_page``) and return its path.

    Raises:
        StoreError: A run cannot be read, or the page not be written.
    """
    return write_page(folder, arm_runs(folder, record), images=images, data_folder=data_folder, charts=charts, study=record)


def _charts_module() -> ModuleType | None:
    try:
        from safemt_api.report import charts  # noqa: PLC0415 (altair and vl-convert are an optional extra)
    except ImportError:
        return None
    return charts


def _settings(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """All that a run file records but the limiter's moves, name by name."""
    found: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _settings(inner, f"{prefix}{name}.") if f"{prefix}{name}" != "limits" else {}
        elif inner is not None:
            found[f"{prefix}{name}"] = inner if isinstance(inner, str) else json.dumps(inner)
    return found


def run_heading(runs: Sequence[RunData]) -> Heading:
    """Of one run, or of several side by side."""
    banners = []
    for run in (one for one in runs if not one.complete):
        done = run.summary.dialogues
        counts = f"{done.finished} of {done.planned} dialogues are finished, {done.failed} failed"
        banners.append((f"{run.name} is {run.summary.status.replace('_', ' ')}", f"{counts}. Scores cover what is there."))
    if len(runs) > 1:
        note = f" Scores of the runs marked {MARK} do not compare with the others'." if all_differences(runs) else ""
        known = [(run.summary.safety_index.value, run.name) for run in runs if run.summary.safety_index.value is not None]
        safest = ""
        if len(comparable_groups(runs)) == 1 and not note and len(known) > 1:
            (low, worst), (high, best) = min(known), max(known)
            safest = f"By Safety Index, {best} is the safest ({words.index(high)}) and {worst} the least safe ({words.index(low)})."
        lede = f"{safest} Judged by {judges_of(runs)}.{note}"
        return Heading(f"{len(runs)} runs side by side", lede, banners=banners)
    run, summary = runs[0], runs[0].summary
    facts = {
        "run": run.name,
        "provider": summary.provider,
        "protocol": summary.protocol,
        "judge": run.judge_title,
        "moderator": summary.moderator,
        "status": summary.status.replace("_", " "),
        "started": (run.started or "").partition("T")[0],
    }
    return Heading(summary.model or run.name, _in_words(run), facts, banners, _tiles(run))


def study_heading(record: StudyRecord, runs: Sequence[RunData]) -> Heading:
    """Of a study: who may be called the safest, and what stands in the way of its figures."""
    ceiling = "" if record.max_usd is None else f" of {words.dollars(record.max_usd)}"
    planned = "" if record.ids.planned is None else f" of {words.count(record.ids.planned)}"
    facts = {
        "study of": f"{words.count(len(record.arms))} arms",
        "status": record.status.replace("_", " "),
        "ids in all arms": f"{words.count(record.ids.common)}{planned}",
        "spent": f"{words.dollars(record.spent_usd)}{ceiling}",
        "judge": judges_of(runs),
        "started": (record.started_utc or "").partition("T")[0],
    }
    lede = " ".join(map(safest_sentence, record.leaderboard))
    return Heading(record.study, lede, facts, [("", sentence) for sentence in study_sentences(record)])


def _in_words(run: RunData) -> str:
    """What happened, in two sentences."""
    rows = [row for row in run.summary.asr_by_turn if row.asr is not None]
    if not rows:
        return "No reply has a valid verdict, so there is no score."
    word, first, last = words.turn_word(run.summary.protocol), rows[0], rows[-1]
    unsafe, judged = sum(row.unsafe for row in rows), sum(row.unsafe + row.safe for row in rows)
    judge = run.judge_title if run.judge_title.startswith("baseline judge") else f"judge {run.judge_title}"
    start = f"{words.count(unsafe)} of {words.count(judged)} judged replies were unsafe according to the {judge}."
    if first is last:
        return start
    return f"{start} ASR is {words.percent(first.asr)} at {word} {first.turn} and {words.percent(last.asr)} at {word} {last.turn}."


def _tiles(run: RunData) -> list[Tile]:
    summary, index, spot = run.summary, run.summary.safety_index, run.summary.stopping
    baseline = run.judge_title if run.judge_title.startswith("baseline") else ""
    interval = f"interval {words.index_interval(index.ci_low, index.ci_high)}"
    of = "lengths" if summary.protocol == "scripted" else "last turns, lengths"
    basis = ["fewer than half of the ids are complete" if index.withheld else interval, index_basis(index)]
    whisker = None if index.value is None else (index.value, index.ci_low, index.ci_high)
    rows, word = [row for row in summary.asr_by_turn if row.asr is not None], words.turn_word(summary.protocol)
    done = f"of {words.count(summary.dialogues.planned)}; {words.count(summary.dialogues.failed)} failed"
    enough = f"enough for ±{100 * spot.goal:g} points of overall ASR" if spot is not None and spot.reached else ""
    money = summary.cost_usd
    ceiling = "" if money.ceiling is None else f"ceiling {words.dollars(money.ceiling)}"
    maybe = f"{words.dollars(money.maybe_usd)} more may have been billed" if money.maybe_usd else ""
    return [
        Tile("Safety Index", words.index(index.value), [*basis, f"{of} {words.listed(index.lengths)}", baseline], whisker),
        *(
            Tile(
                f"ASR at {word} {row.turn}",
                words.percent(row.asr),
                [f"interval {words.percent_interval(row.ci_low, row.ci_high)}", baseline],
            )
            for row in (rows[:1] + rows[-1:] if len(rows) > 1 else rows)
        ),
        Tile("Dialogues", words.count(summary.dialogues.finished), [done, enough]),
        Tile("Missing verdicts", words.count(sum(row.missing for row in summary.asr_by_turn)), ["in neither count"]),
        Tile("Cost", words.dollars(money.total), [ceiling, *below_list_price(money), maybe, words.duration(summary.wall_seconds)]),
    ]


SHOWN_BY_BROWSERS = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/avif"})
MAX_AS_IT_IS_BYTES = 4 * 1024 * 1024
SIDE_PIXELS = 1600
"""A picture that is larger, or that browsers cannot show, is drawn anew at no more than this a side."""


def dialogue_page(
    dataset: Dataset, dialogues: Sequence[Dialogue], facts: Sequence[tuple[str, str]], pictures: Mapping[str, Inspection]
) -> str:
    """The page of one id of a data set: its words and its pictures, escaped, in one file that asks nothing of the network.

    Args:
        dataset: Where the pictures lie.
        dialogues: The id's dialogues, shortest first.
        facts: What stands above them, as name and value.
        pictures: What each picture is, by path.

    Raises:
        ImageError: A picture cannot be read any more.
    """
    numbers = {path: number for number, path in enumerate(pictures, 1)} if len(pictures) > 1 else {}
    shown = [_picture(dataset, path, found, numbers.get(path)) for path, found in pictures.items()]
    lengths = {one.length: [(line.role, who_with_pictures(line, numbers), line.text) for line in one.lines] for one in dialogues}
    return render("dialogue.html", title=dialogues[0].id, facts=facts, pictures=shown, lengths=lengths)


def _picture(dataset: Dataset, path: str, inspection: Inspection, number: int | None) -> dict[str, Any]:
    address, wide, tall = _source(dataset, path, inspection)
    return {"name": "the picture" if number is None else f"picture {number}", "address": address, "wide": wide, "tall": tall}


def who_with_pictures(line: Line, numbers: Mapping[str, int]) -> str:
    """Who speaks, with the numbers of the pictures that belong to the message."""
    own = [str(numbers[path]) for path in line.image_paths if path in numbers]
    return f"{line.role}, with picture {' and '.join(own)}" if own else line.role


def _source(dataset: Dataset, image_path: str, inspection: Inspection) -> tuple[str, int, int]:
    """The picture as a ``data:`` address, with the size it is shown in."""
    with open_image(dataset.folder, image_path) as stream:
        if inspection.media_type in SHOWN_BY_BROWSERS and inspection.size_bytes <= MAX_AS_IT_IS_BYTES:
            return _address(inspection.media_type, stream.read()), inspection.width_pixels, inspection.height_pixels
        picture = open_picture(stream, inspection.media_type)
        picture.draft("RGB", (SIDE_PIXELS, SIDE_PIXELS))
        small: PIL.Image.Image = picture.convert("RGB")
    small.thumbnail((SIDE_PIXELS, SIDE_PIXELS))
    target = BytesIO()
    small.save(target, "WEBP", quality=85)
    return _address("image/webp", target.getvalue()), small.width, small.height


def _address(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode('ascii')}"
