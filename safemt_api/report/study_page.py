"""The page of a study: its record and its arms' runs, as the ``report.html`` of its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safemt_api.report.page import write_page
from safemt_api.runs.record import RunData, read_run
from safemt_api.studies.record import StudyRecord


def arm_runs(folder: Path, record: StudyRecord) -> list[RunData]:
    """The runs of the arms that are not left out, under the arms' names and in their order.

    Raises:
        StoreError: A run that the record counts on cannot be read any more.
    """
    return [replace(read_run(folder / arm.name), name=arm.name) for arm in record.arms if arm.state != "left out"]


def write_study_page(
    folder: Path, record: StudyRecord, *, images: bool = True, data_folder: Path | None = None, charts: bool = True
) -> Path:
    """Write the study's page and return its path.

    Args:
        folder: The study's.
        record: What ``study.json`` holds.
        images: Whether small pictures are embedded.
        data_folder: Where the pictures are, when not where the run files say.
        charts: Whether charts are drawn.

    Raises:
        StoreError: A run cannot be read, or the page not be written.
    """
    return write_page(folder, arm_runs(folder, record), images=images, data_folder=data_folder, charts=charts, study=record)
