"""Room for the connections of a run: every one is an open file, and many systems allow a process few of them until it asks for more."""

from __future__ import annotations

import sys
from contextlib import suppress

from safemt_api.errors import UsageError

if sys.platform != "win32":
    import resource

OWN_FILES = 100
"""Store, run files, pictures, the built-in simulator's listening socket, libraries: far below this, with room to spare."""

ENDS_AND_PURPOSES = 6
"""A call of a target, its judge and its moderator may be open at once, and with the built-in simulator both ends are in this process."""


def make_room(concurrency: int) -> None:
    """Raise the soft limit of open files to all that so many calls in flight can need.

    Raises:
        UsageError: Not even the calls themselves fit; the sentence says how many there may be.
    """
    if sys.platform == "win32":
        return  # there is no such limit on sockets
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    most, least = concurrency * ENDS_AND_PURPOSES + OWN_FILES, concurrency + OWN_FILES
    wanted = min(most, hard)
    if wanted > soft:
        with suppress(OSError, ValueError):  # some systems refuse what they announce
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft < least:
        raise UsageError(
            f"--concurrency {concurrency:,} needs {least:,} open files and the system allows {soft:,}: "
            "lower it, or raise the limit (ulimit -n)"
        )
