"""A real PostgreSQL for tests: made in a temporary folder, on a loopback port, ended with the process that made it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from safemt_api.store.connection import ServerAddress, server_address

OWNER, PASSWORD = "owner", "pg-pass-7f3"


def _programs() -> Path | None:
    found = shutil.which("initdb")
    places = [*([Path(found).parent] if found else []), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


class Server:
    """One server; ``stop`` and ``start`` as often as a test likes."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self.folder = programs, folder
        with closing(socket.socket()) as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-U", OWNER, "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")

    def _run(self, program: str, *more: str) -> None:
        command = [str(self._programs / program), "-D", str(self.folder / "data"), *more]
        if os.geteuid() == 0:
            # It refuses to run as root.
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, cwd="/")

    def start(self, *settings: str) -> None:
        """Start it; what it wrote before is there."""
        given = (
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            "max_connections=60",
            *settings,
        )
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", " ".join(f"-c {one}" for one in given), "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is how a power cut would."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def address(self, database: str, *, user: str = OWNER, password: str = PASSWORD) -> ServerAddress:
        """Where a database of it is."""
        return server_address(f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}")

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Run one statement as its owner."""
        place = self.address(database)
        with psycopg.connect(str(place), password=place.password, autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self) -> ServerAddress:
        """An empty database."""
        name = f"t{uuid4().hex}"
        self.sql(f"CREATE DATABASE {name}")
        return self.address(name)


@contextmanager
def running_server() -> Iterator[Server]:
    """A server, ended on leaving; the test is skipped where none can run."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
    # Not below pytest's own folder, which nobody but its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="safemt-pg-"))
    folder.chmod(0o755)
    try:
        server = Server(programs, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


NewDatabase = Callable[[], ServerAddress]
