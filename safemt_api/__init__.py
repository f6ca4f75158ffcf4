"""Evaluate the safety of multimodal models over multi-turn dialogues.

``await safemt_api.evaluate(...)`` does what ``safemt-api eval`` does, ``study(...)`` what ``safemt-api study`` does; ``load_run("a")`` and
``load_study("b")`` give what stands on disk as frames and figures; ``asr_by_turn(frame)`` and ``safety_index(frame)`` score verdicts of
your own. Names are imported on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safemt_api.errors import (
        AccountError,
        BudgetExhaustedError,
        DatasetError,
        EndpointError,
        MissingKeyError,
        ProfileError,
        SafeMTError,
        SettingsChangedError,
        SetupError,
        StalledError,
        StopRunError,
        StoreError,
        UsageError,
    )
    from safemt_api.evaluation import evaluate
    from safemt_api.loaded import LoadedRun, LoadedStudy, load_run, load_study, progress
    from safemt_api.metrics.asr import asr_by_turn
    from safemt_api.metrics.safety_index import safety_index
    from safemt_api.runs.play import RunResult
    from safemt_api.runs.settings import EvalSettings
    from safemt_api.studies.ablate import ablate
    from safemt_api.studies.arms import Study
    from safemt_api.studies.canary import CanaryResult, canary, canary_study
    from safemt_api.studies.defend import defend
    from safemt_api.studies.file import read_study
    from safemt_api.studies.play import StudyResult, study
    from safemt_api.studies.sweep import sweep

    __version__: str

__all__ = [
    "AccountError",
    "BudgetExhaustedError",
    "CanaryResult",
    "DatasetError",
    "EndpointError",
    "EvalSettings",
    "LoadedRun",
    "LoadedStudy",
    "MissingKeyError",
    "ProfileError",
    "RunResult",
    "SafeMTError",
    "SettingsChangedError",
    "SetupError",
    "StalledError",
    "StopRunError",
    "StoreError",
    "Study",
    "StudyResult",
    "UsageError",
    "__version__",
    "ablate",
    "asr_by_turn",
    "canary",
    "canary_study",
    "defend",
    "evaluate",
    "load_run",
    "load_study",
    "progress",
    "read_study",
    "safety_index",
    "study",
    "sweep",
]

_HOMES = {
    "CanaryResult": "safemt_api.studies.canary",
    "EvalSettings": "safemt_api.runs.settings",
    "LoadedRun": "safemt_api.loaded",
    "LoadedStudy": "safemt_api.loaded",
    "RunResult": "safemt_api.runs.play",
    "Study": "safemt_api.studies.arms",
    "StudyResult": "safemt_api.studies.play",
    "ablate": "safemt_api.studies.ablate",
    "asr_by_turn": "safemt_api.metrics.asr",
    "canary": "safemt_api.studies.canary",
    "canary_study": "safemt_api.studies.canary",
    "defend": "safemt_api.studies.defend",
    "evaluate": "safemt_api.evaluation",
    "load_run": "safemt_api.loaded",
    "load_study": "safemt_api.loaded",
    "progress": "safemt_api.loaded",
    "read_study": "safemt_api.studies.file",
    "safety_index": "safemt_api.metrics.safety_index",
    "study": "safemt_api.studies.play",
    "sweep": "safemt_api.studies.sweep",
}
"""Where the names live that are not errors."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "safemt_api.errors")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 (takes as long to import as all the rest of this package's face)

    try:
        return metadata.version("safemt-api")
    except metadata.PackageNotFoundError:
        return "0+unknown"
