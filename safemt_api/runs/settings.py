"""Everything that a run can be told, and which of it decides whether two runs are the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from safemt_api.errors import UsageError
from safemt_api.messages import Kind, Protocol
from safemt_api.runs.names import check_run_name

DEFAULT_CONCURRENCY = 32
DEFAULT_MAX_FAILURES = 0.05
DEFAULT_STALL_SECONDS = 600.0

ModeratorFailure = Literal["fail", "open", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """The options of ``safemt-api eval``, by the same names.

    ``None`` means: the default, which may depend on the profile (model, judge), the environment (data) or the date (run).
    """

    provider: str | None = None
    model: str | None = None
    base_urls: tuple[str, ...] = ()
    data: Path | None = None
    lengths: tuple[int, ...] | None = None
    protocol: Protocol = "scripted"
    sample: int | None = None
    scenarios: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ("harmful",)
    seed: int = 0
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    system: str | None = None
    skip_invalid: bool = False
    judges: tuple[str, ...] = ()
    judge_base_url: str | None = None
    judge_fallback: str | None = None
    rubric: Path | None = None
    moderator: str | None = None
    moderator_base_url: str | None = None
    moderator_failure: ModeratorFailure = "fail"
    policies: Path | None = None
    until_ci: float | None = None
    # What follows may differ between a run and its resumption.
    run: str | None = None
    results: Path = Path("results")
    concurrency: int = DEFAULT_CONCURRENCY
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_usd: float | None = None
    max_failures: float = DEFAULT_MAX_FAILURES
    connect_seconds: float = 10.0
    idle_seconds: float = 300.0
    total_seconds: float = 600.0
    stall_seconds: float = DEFAULT_STALL_SECONDS
    providers: Path | None = None
    # What the built-in simulator plays, where the run uses it; part of its endpoint's name and so of the run.
    simulator_seed: int | None = None
    simulator_faults: str = ""
    simulator_latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(self, "concurrency", "sample", "max_output_tokens", "requests_per_minute", "tokens_per_minute")
        _check_positive(self, "connect_seconds", "idle_seconds", "total_seconds", "stall_seconds")
        if self.run is not None:
            check_run_name(self.run)
        if self.max_usd is not None and not self.max_usd >= 0.0:
            raise UsageError(f"--max-usd {self.max_usd} is not an amount of dollars")
        if not 0.0 <= self.max_failures <= 1.0:
            raise UsageError(f"--max-failures {self.max_failures} is not a share between 0 and 1")
        if self.until_ci is not None and not 0.0 < self.until_ci < 0.5:
            raise UsageError(f"--until-ci {self.until_ci}: give half the width of the interval as a share, such as 0.05")
        if self.protocol not in ("scripted", "live"):
            raise UsageError(f"--protocol {self.protocol!r}: choose scripted or live")
        if self.lengths is not None and (not self.lengths or min(self.lengths) < 1):
            raise UsageError("--lengths takes numbers of user turns such as 1,2,4,6,8")
        for url in (*self.base_urls, self.judge_base_url, self.moderator_base_url):
            if url and "@" in url.partition("://")[2].partition("/")[0]:
                raise UsageError("an address must not hold a user name or password; keys come from the environment or .env")


def _check_positive(settings: EvalSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} {value} must be greater than 0")


def settings_from(options: Mapping[str, Any]) -> EvalSettings:
    """Settings from keyword arguments of the Python API.

    Raises:
        UsageError: An option is unknown, or a value is out of range.
    """
    known = {one.name for one in fields(EvalSettings)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"no such option: {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return EvalSettings(**options)


PATHS = ("data", "rubric", "policies", "results", "providers")
NOT_RECORDED = ("run", "results")
"""What the place of the run file says by itself."""


def settings_record(settings: EvalSettings) -> dict[str, Any]:
    """All settings as JSON values for the run file, from which ``settings_from_record`` makes them again; they never hold a key."""
    values = {name: value for name, value in asdict(settings).items() if name not in NOT_RECORDED}
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in values.items()}


def settings_from_record(record: Mapping[str, Any], *, run: str, results: Path) -> EvalSettings:
    """The settings of a run as its run file tells them; fields that this version does not know are passed over.

    Raises:
        UsageError: A value makes no sense.
    """
    known = {one.name for one in fields(EvalSettings)} - set(NOT_RECORDED)
    values = {name: _revived(name, value) for name, value in record.items() if name in known}
    try:
        return EvalSettings(**values, run=run, results=results)
    except TypeError as error:
        raise UsageError(f"the run file of {run} cannot be used ({error}); give the original eval command again") from error


def _revived(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if name in PATHS and isinstance(value, str) else value
