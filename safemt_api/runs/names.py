"""What a run may be called: a name is a folder under the results folder, on every system, and nothing else."""

from __future__ import annotations

import re

from safemt_api.errors import UsageError

MAX_PART_BYTES = 150
"""File systems take 255; the rest is for what is put behind a run's name, such as a moderator's or an export's."""

MAX_NAME_BYTES = 400

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff*?\[\]{}<>:"|\\~]')
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))})
"""Windows opens a device where a file or folder is called so, whatever its ending."""

_FILES = frozenset({"turns.sqlite", "turns.sqlite-wal", "turns.sqlite-shm", "run.json", "summary.json", "report.html", "readme.md"})
"""What stands under these names is ours."""


def check_run_name(name: str) -> str:
    """The name, if a run can be called so; ``a/b`` is a run ``b`` in a folder ``a`` of the results folder.

    Raises:
        UsageError: It cannot, with the reason.
    """
    problem = _problem(name)
    if problem is not None:
        raise UsageError(f"--run {_shown(name)}: {problem}; choose a name of letters, digits, '.', '_' and '-', such as gpt-first")
    return name


def is_run_name(name: str) -> bool:
    """Whether a run can be called so."""
    return _problem(name) is None


def _problem(name: str) -> str | None:
    if not name.strip():
        return "a run needs a name"
    if name.startswith("/"):
        return "a run's name is no path; --results names the folder that holds the runs"
    found = _FORBIDDEN.search(name)
    if found is not None:
        return f"{found[0]!r} cannot stand in a run's name"
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        return f"a run's name has at most {MAX_NAME_BYTES} bytes"
    return next((problem for part in name.split("/") if (problem := _part_problem(part)) is not None), None)


def _part_problem(part: str) -> str | None:
    if part in (".", ".."):
        return f"{part!r} leads elsewhere"
    if not part or part != part.strip() or part.endswith(".") or part.startswith((".", "-")):
        return "no part of a run's name is empty, begins with '.', '-' or a blank, or ends with '.' or a blank"
    if len(part.encode("utf-8", "replace")) > MAX_PART_BYTES:
        return f"no part of a run's name has more than {MAX_PART_BYTES} bytes"
    if part.casefold() in _FILES or part.partition(".")[0].strip().casefold() in _DEVICES:
        return f"{part!r} is a reserved name"
    return None


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def slug(text: str) -> str:
    """The text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"
