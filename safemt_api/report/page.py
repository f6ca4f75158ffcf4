"""The report as one HTML file that needs no network: scores, charts and every transcript.

Its content security policy forbids everything but its own style sheet and script (by hash) and ``data:`` pictures. Names and numbers are
escaped here; what models said is embedded as packed data (``payload``) and only ever becomes text content.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib import metadata, resources
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any

from safemt_api.errors import UsageError
from safemt_api.files import write_bytes
from safemt_api.report import words
from safemt_api.report.calibration_section import calibration_section
from safemt_api.report.correction import Correction
from safemt_api.report.heading import heading_block, page_title
from safemt_api.report.payload import Payload, pack
from safemt_api.report.sections import effort_sections, run_labels, score_sections, settings_section, transcript_section
from safemt_api.report.series import series_of
from safemt_api.report.study_section import study_heading, study_sections
from safemt_api.runs.record import RunData
from safemt_api.studies.record import StudyRecord

REPORT_FILE = "report.html"
MOST_NAMED_CHARACTERS = 60
NO_CHARTS = (
    "This page has no charts: they need the optional extra. Install it with pip install 'safemt-api[charts]' and write the report again."
)


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
    payload = pack(runs, images=images, data_folder=data_folder)
    heading = heading_block(runs) if study is None else study_heading(study, runs)
    sections = [heading, "" if drawing or not charts else f'<p class="banner">{escape(NO_CHARTS)}</p>']
    sections += [] if study is None else [*study_sections(study, runs, drawing)]
    if runs:
        sections += [*score_sections(runs, drawing, ranked=study is None), calibration_section(corrections, drawing)]
        sections += [*effort_sections(runs, drawing), transcript_section(runs, payload), settings_section(runs)]
    title = page_title(runs) if study is None else study.study
    return _assemble(runs, "".join(sections), payload, title=words.printable(title))


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


def _charts_module() -> ModuleType | None:
    try:
        from safemt_api.report import charts  # noqa: PLC0415 (altair and vl-convert are an optional extra)
    except ImportError:
        return None
    return charts


def _assemble(runs: Sequence[RunData], body: str, payload: Payload, *, title: str) -> str:
    style, script, template = asset("style.css"), page_script("transcripts.js"), asset("page.html")
    data = {
        "runs": run_labels(runs),
        "series": [series_of(place) for place in range(len(runs))],
        "judges": payload.judges,
        "transcripts": payload.transcripts,
    }
    hashes = f"script-src '{content_hash(script)}'; style-src '{content_hash(style)}'"
    policy = f"default-src 'none'; {hashes}; img-src data:; base-uri 'none'; form-action 'none'"
    version = _version()
    return Template(template).substitute(
        policy=escape(policy),
        generator=escape(f"safemt-api {version}"),
        title=escape(f"{title} · SafeMT report"),
        style=style,
        script=script,
        navigation=_navigation(body),
        body=body,
        footer=escape(f"Written by safemt-api {version}. This page is complete in itself: it asks nothing of the network."),
        data=_embedded(data),
    )


def asset(name: str) -> str:
    """A file of ``report/web``: ``style.css``, scripts, templates."""
    return resources.files("safemt_api.report").joinpath("web", name).read_text(encoding="utf-8")


def page_script(*own: str) -> str:
    """What all pages share (theme, tables, how a dialogue is drawn), then the page's ``own`` files of ``report/web``, as one script."""
    parts = "\n".join(asset(name) for name in ("shell.js", "dialogues.js", *own))
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def content_hash(text: str) -> str:
    """What a content security policy names an inline style sheet or script by."""
    return f"sha256-{b64encode(sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element or open a comment: no ``<``, ``>`` or ``&`` stands in it as such."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _version() -> str:
    try:
        return metadata.version("safemt-api")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _navigation(body: str) -> str:
    places = {
        "study": "Ranks",
        "effects": "Effects",
        "scores": "Scores",
        "scenarios": "Scenarios",
        "failures": "First failure",
        "calibration": "Calibration",
        "outcomes": "Outcomes",
        "cost": "Cost",
        "pace": "Pace",
    }
    places |= {"transcripts": "Transcripts", "settings": "Settings"}
    return "".join(f'<a href="#{key}">{name}</a>' for key, name in places.items() if f'<section id="{key}"' in body)
