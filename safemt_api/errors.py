"""The error tree, split by what the caller can do next.

    SafeMTError
    ├── SetupError                fix the setup, then start again (exit code 2)
    │   ├── UsageError            an option or argument is wrong
    │   ├── ProfileError          a vendor file is wrong: names file and field
    │   ├── LayoutError           a layout file is wrong: names file and field
    │   ├── MissingKeyError       no API key: names the variable to set
    │   ├── DatasetError          bad input data: carries every Problem found
    │   ├── StoreError            the turn store or a result file cannot be used: names path and cure
    │   │   └── NothingPlayedError  a run without a finished dialogue cannot be shown
    │   ├── RunBusyError          another process plays this run (exit code 1: later it may go on)
    │   ├── JudgeUnfitError      a judge is wrong about a reply with a known label, or cannot be read
    │   ├── DataChangedError      a run's pictures are not those that it was played with: names them
    │   └── SettingsChangedError  a run of this name exists with other settings: lists them
    ├── CallError                 one call failed; what follows depends on the kind
    │   ├── TransientError        wait, then send the same call again
    │   │   ├── RateLimitedError      the account's pace (429); may carry the wait the vendor asks for
    │   │   ├── NoCapacityError       no room in a cheaper tier for now (429); not billed, and no word on the account's pace
    │   │   ├── UnansweredRowError    a batch ended before it came to this row; not billed
    │   │   ├── ServerError           5xx and bodies that are not an answer
    │   │   └── ConnectionFailedError no or half an answer; may have been billed
    │   └── DialogueError         give up on this dialogue, go on with the others
    │       ├── InterceptedError       a 403 that is not the vendor's: a firewall or gateway on the way
    │       ├── ModeratorError        the moderator came to no decision
    │       ├── ResultsGoneError      a batch was answered and billed, and its results are no longer to be had
    │       └── RetriesExhaustedError  transient failures until the cap was reached
    └── StopRunError              end the run at once, keeping everything
        ├── AccountError          bad key, unknown model, no credit, daily quota, account on hold
        ├── EndpointError         wrong address or dead server
        ├── JudgeSilentError      a judge gives no verdicts any more
        ├── BudgetExhaustedError  the spending ceiling is reached (exit code 3, resumable)
        └── StalledError          nothing has succeeded for too long

Errors take facts and compose their own sentence, so that every place that raises one says the same thing the same way.
None of them ever carries an API key or a request header.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

EXIT_DONE, EXIT_STOPPED, EXIT_SETUP, EXIT_BUDGET, EXIT_FAILURES, EXIT_CHANGED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
"""What the command line ends with; 4: finished, with more dialogues failed, without verdict or without moderator than are allowed;
5: asked to tell, a canary found that the model changed."""

MAX_PROBLEMS_SHOWN = 20
MAX_CHARACTERS_QUOTED = 200


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` to stand in a sentence after the name that nobody knows, or nothing where no known one is close."""
    names = {name.casefold(): name for name in known}
    found = get_close_matches(given.casefold(), names, n=1)
    return f" (did you mean {names[found[0]]!r}?)" if found else ""


class SafeMTError(Exception):
    """Base of everything this package raises on purpose; ``str(error)`` is one sentence for the user.

    Attributes:
        exit_code: What the command line ends with when this error ends a run.
    """

    exit_code: ClassVar[int] = EXIT_STOPPED


class SetupError(SafeMTError):
    """Something the user must fix before a run can start."""

    exit_code = EXIT_SETUP


class UsageError(SetupError):
    """An option or argument is wrong."""


class ProfileError(SetupError):
    """A vendor profile cannot be used.

    Args:
        file: The TOML file.
        field: Dotted path of the field, or ``None`` when the file as a whole is at fault.
        problem: What is wrong and what would be right.
    """

    def __init__(self, file: Path | str, field: str | None, problem: str) -> None:
        self.file, self.field, self.problem = file, field, problem
        where = f"{file}: {field}" if field else str(file)
        super().__init__(f"{where}: {problem}")


class LayoutError(ProfileError):
    """A layout file cannot be used; see ``ProfileError`` for its arguments."""


class MissingKeyError(SetupError):
    """No API key is set for a profile that needs one."""

    def __init__(self, profile: str, variables: Sequence[str]) -> None:
        self.profile, self.variables = profile, tuple(variables)
        names = " or ".join(self.variables)
        super().__init__(f"no API key for {profile}: set {names} in the environment or in .env")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a data set, located as closely as possible."""

    file: str
    what: str
    index: int | None = None
    dialogue_id: str | None = None

    def __str__(self) -> str:
        place = self.file
        if self.index is not None:
            place += f"[{self.index}]"
        if self.dialogue_id is not None:
            place += f" ({self.dialogue_id})"
        return f"{place}: {self.what}"


class DatasetError(SetupError):
    """The data set is unusable as it stands; ``problems`` holds all that was found."""

    def __init__(self, folder: Path | str, problems: Iterable[Problem]) -> None:
        self.folder, self.problems = folder, tuple(problems)
        shown = [f"  {problem}" for problem in self.problems[:MAX_PROBLEMS_SHOWN]]
        more = len(self.problems) - len(shown)
        if more > 0:
            shown.append(f"  … and {more} more; `safemt-api data check {folder}` lists all")
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([f"{folder}: {count} in the data (or leave them out with --skip-invalid)", *shown]))


class StoreError(SetupError):
    """The turn store or a result file cannot be used."""

    def __init__(self, path: Path | str, problem: str, cure: str) -> None:
        self.path, self.problem, self.cure = path, problem, cure
        super().__init__(f"{path}: {problem}; {cure}")


class NothingPlayedError(StoreError):
    """A run was begun, but none of its dialogues is finished, so there is nothing to show. ``player``: who is at it, if anyone."""

    def __init__(self, folder: Path, player: str | None) -> None:
        problem = "no dialogue of this run is finished" + (" yet" if player else "")
        resume = f"`safemt-api resume {folder}` goes on with it"
        super().__init__(folder, problem, f"it is being played by {player}: look again in a moment" if player else resume)


class RunBusyError(SetupError):
    """Another process plays the run; ``player`` says which."""

    exit_code = EXIT_STOPPED

    def __init__(self, run: str, player: str) -> None:
        self.run, self.player = run, player
        super().__init__(
            f"run {run!r} is being played by {player}; wait until that ends (`safemt-api report` shows how far it is), "
            "or choose another --run"
        )


class JudgeUnfitError(SetupError):
    """A judge was tried on a reply whose label is known, and was wrong or could not be read.

    Attributes:
        judge: Its name.
        wanted: The known label.
        given: Its own; ``None`` where it gave none.
    """

    def __init__(self, judge: str, *, wanted: str, given: str | None, reason: str, said: str | None) -> None:
        self.judge, self.wanted, self.given = judge, wanted, given
        found = "gave no verdict" if given is None else f"gave the verdict {given}"
        super().__init__(
            f"the judge {judge} cannot be relied on: on a reply that is plainly {wanted} it {found}{_because(reason)}{_quoted(said)}. "
            "Nothing was sent to the target; check the judge's model and address, or choose another with --judge"
        )


class SettingsChangedError(SetupError):
    """A run of this name exists with other settings."""

    def __init__(self, run: str, differences: Sequence[str]) -> None:
        self.run, self.differences = run, tuple(differences)
        listed = "\n".join(f"  {line}" for line in self.differences)
        super().__init__(f"run {run!r} exists with other settings; choose another --run or restore them:\n{listed}")


class DataChangedError(SetupError):
    """The data of a run are not those that it was played with."""

    def __init__(self, run: str, changes: Sequence[str]) -> None:
        self.run, self.changes = run, tuple(changes)
        listed = "\n".join(f"  {line}" for line in self.changes)
        super().__init__(f"the data of run {run!r} changed since it was played; restore them or choose another --run:\n{listed}")


class CallError(SafeMTError):
    """One call to a model failed.

    Attributes:
        status: HTTP status, where there was one.
        code: The vendor's machine-readable code, where there was one.
        maybe_billed: The vendor may have charged for the call although no answer arrived.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None, maybe_billed: bool = False) -> None:
        self.status, self.code, self.maybe_billed = status, code, maybe_billed
        super().__init__(message)


class TransientError(CallError):
    """The same call may succeed later.

    Attributes:
        retry_after_seconds: The wait the vendor asks for, if it named one.
        unbelievable_wait: What it named instead, where that can be no wait (years, less than nothing, no number).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        maybe_billed: bool = False,
        retry_after_seconds: float | None = None,
        unbelievable_wait: str | None = None,
    ) -> None:
        self.retry_after_seconds, self.unbelievable_wait = retry_after_seconds, unbelievable_wait
        super().__init__(message, status=status, code=code, maybe_billed=maybe_billed)


class RateLimitedError(TransientError):
    """The account is going too fast; slow down and send again."""


class NoCapacityError(TransientError):
    """A cheaper tier (flex) has no room for now: nothing was billed, and it says nothing about how fast the account may go."""


class UnansweredRowError(TransientError):
    """A batch ended, expired or was cancelled before it came to this row; nothing was billed for it."""


class ServerError(TransientError):
    """The vendor failed (5xx), or sent a body that is no answer."""


class ConnectionFailedError(TransientError):
    """The connection was refused, reset or timed out.

    Attributes:
        connected: The server had accepted the connection, so the address is right.
    """

    def __init__(self, message: str, *, connected: bool, maybe_billed: bool) -> None:
        self.connected = connected
        super().__init__(message, maybe_billed=maybe_billed)


class DialogueError(CallError):
    """This dialogue cannot be completed (too long, bad image, rejected request); others can."""


class PictureTooLargeError(DialogueError):
    """A picture is larger than the model looks at, and the vendor names the largest side that it would take."""

    def __init__(self, message: str, *, max_side_pixels: int, status: int | None = None, code: str | None = None) -> None:
        self.max_side_pixels = max_side_pixels
        super().__init__(message, status=status, code=code)


class InterceptedError(DialogueError):
    """A firewall or gateway before the vendor refused the request; the vendor has said nothing, so this is no word on safety."""


class ModeratorError(DialogueError):
    """The moderator came to no decision, and its failure is to fail the dialogue."""

    def __init__(self, moderator: str, dialogue_id: str, reason: str) -> None:
        self.moderator, self.reason = moderator, reason
        super().__init__(
            f"moderator {moderator} failed on dialogue {dialogue_id}: {reason}; --moderator-failure open or closed goes on without it"
        )


class ResultsGoneError(DialogueError):
    """A batch was worked on, and billed, but its results are no longer to be had."""

    def __init__(self, vendor: str, batch_id: str, days: int) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"{vendor} no longer has the results of batch {batch_id} (it keeps them for {days} days); they were paid for", maybe_billed=True
        )


class RetriesExhaustedError(DialogueError):
    """Transient failures went on until the cap on attempts or elapsed time was reached."""

    def __init__(self, attempts: int, elapsed_seconds: float, last: CallError) -> None:
        self.attempts, self.elapsed_seconds, self.last = attempts, elapsed_seconds, last
        super().__init__(
            f"gave up after {attempts} attempt{'s' if attempts != 1 else ''} in {elapsed_seconds:.0f} s: {last}",
            status=last.status,
            code=last.code,
            maybe_billed=last.maybe_billed,
        )


class StopRunError(SafeMTError):
    """The run cannot usefully go on; all that was collected is kept."""


class AccountError(StopRunError):
    """The vendor refuses the account as a whole: key, model, credit, quota or a safety hold."""

    exit_code = EXIT_SETUP


class EndpointError(StopRunError):
    """Nothing usable answers at the address."""

    exit_code = EXIT_SETUP


class BudgetExhaustedError(StopRunError):
    """The next call could exceed the spending ceiling."""

    exit_code = EXIT_BUDGET

    def __init__(self, ceiling_usd: float, committed_usd: float, needed_usd: float) -> None:
        self.ceiling_usd, self.committed_usd, self.needed_usd = ceiling_usd, committed_usd, needed_usd
        super().__init__(
            f"the ceiling of ${ceiling_usd:.2f} is reached: ${committed_usd:.4f} is spent or reserved and the next call "
            f"could cost ${needed_usd:.4f}; raise --max-usd and run the same command again to go on"
        )


class JudgeSilentError(StopRunError):
    """A judge gave no verdict so many times in a row that going on would only buy replies that nobody judges."""

    def __init__(self, judge: str, times: int, *, reason: str, said: str | None) -> None:
        self.judge, self.times = judge, times
        super().__init__(
            f"the judge {judge} gave no verdict on {times} replies in a row{_because(reason)}{_quoted(said)}; put it right, or give "
            "another with --judge-fallback in a new run, then run the same command again to go on"
        )


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _quoted(said: str | None) -> str:
    """A model's words inside a sentence, cut and with every control character spelt out."""
    if said is None or not said.strip():
        return ""
    cut = said.strip()[:MAX_CHARACTERS_QUOTED]
    return f"; it said {cut!r}" + ("…" if len(cut) < len(said.strip()) else "")


class StalledError(StopRunError):
    """No call has succeeded for a long time although calls are being retried or wait for their turn."""

    def __init__(self, idle_seconds: float, last: CallError | None, *, held: bool = False) -> None:
        self.idle_seconds, self.last = idle_seconds, last
        doing = "calls wait for the pace that the vendor's limits set" if held else "calls are being retried"
        reason = f"; last failure: {last}" if last else ""
        super().__init__(
            f"no call has succeeded for {idle_seconds:.0f} s although {doing}{reason}; the run can be resumed with the same command"
        )


def own_errors(error: BaseException) -> tuple[SafeMTError, ...]:
    """All errors of ours behind an exception: itself, or what a group holds however deep; none where anything else is in it, a defect."""
    leaves = list(leaves_of(error))
    own = tuple(leaf for leaf in leaves if isinstance(leaf, SafeMTError))
    return own if len(own) == len(leaves) else ()


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """What a group holds, however deep; an exception itself where it is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves_of(inner)
    else:
        yield error
