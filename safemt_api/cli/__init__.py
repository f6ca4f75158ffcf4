"""The command line: one module a command, thin (parse, call, print). Errors become one sentence and an exit code here, and only here.

Whatever takes long to import (SDKs, polars, rich, Pillow) is loaded when a command first uses it (``on_use``), so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from safemt_api.cli.on_use import imported_on_use
from safemt_api.errors import SafeMTError, leaves_of, own_errors
from safemt_api.foreign_text import printable

with imported_on_use():
    from safemt_api.cli import app, vendors

DEBUG_FLAG = "--debug"
DEBUG_VARIABLE = "SAFEMT_DEBUG"
EXIT_DEFECT = 1
PLAIN_LIST = (["providers"], ["providers", "list"])
"""Done without typer: since 0.29 it converts options through pydantic, which takes 0.2 s of CPU to load, longer than a list may take."""

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG_FLAG in given or bool(os.environ.get(DEBUG_VARIABLE))
    code = 0
    try:
        load_environment(Path.cwd())
        _run([word for word in given if word != DEBUG_FLAG])
    except KeyboardInterrupt:
        _say("interrupted; whatever was paid for is kept")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_DEFECT
    except Exception as error:
        if debug:
            raise
        code = _explained(error)
    sys.exit(code)


def _run(arguments: list[str]) -> None:
    if arguments in PLAIN_LIST:
        sys.stdout.write(printable("\n".join(vendors.provider_lines(None))) + "\n")
        return
    app.app(args=arguments, prog_name="safemt-api")


def load_environment(folder: Path) -> None:
    """Take variables from ``.env`` in the folder, if there is one; what is set already wins."""
    file = folder / ".env"
    if not file.is_file():
        return
    from dotenv import load_dotenv  # noqa: PLC0415 (only where there is a .env)

    try:
        load_dotenv(file, override=False)
    except (OSError, UnicodeDecodeError) as error:
        _say(f".env cannot be read ({error}); going on without it")


def _explained(error: Exception) -> int:
    own = our_error(error)
    if own is not None:
        _say(f"safemt-api: {own}")
        return own.exit_code
    # A defect may not come again: what a group hides, and where it was, is said at once.
    odd = next((leaf for leaf in leaves_of(error) if not isinstance(leaf, SafeMTError)), error)
    places = [f"{Path(frame.filename).name} line {frame.lineno}; " for frame in traceback.extract_tb(odd.__traceback__)]
    _say(
        f"safemt-api: unexpected {type(odd).__name__}: {str(odd)[:300]} ({''.join(places[-1:])}a defect of ours; "
        f"run again with {DEBUG_FLAG} for the details)"
    )
    return EXIT_DEFECT


def our_error(error: BaseException) -> SafeMTError | None:
    """The error of ours behind an exception: itself, or the first in a group that holds nothing else."""
    return next(iter(own_errors(error)), None)


def _say(sentence: str) -> None:
    sys.stderr.write(printable(sentence) + "\n")
