"""Dump, restore and count the rows of a database."""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from settings import BackupError, Site

#: Tables of the project: neither PostgreSQL's, nor temporary ones, nor those of an extension.
TABLES = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    ) ORDER BY 1;
"""
#: Where Debian's PostgreSQL keeps its data.
DATA = Path("/var/lib/postgresql")
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"


def run_as(user: str, *argv: str, **options) -> subprocess.CompletedProcess:
    """Run a program of PostgreSQL as a system user."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    argv = ("runuser", "-u", user, "--", *argv)
    done = subprocess.run(argv, cwd="/", stderr=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise BackupError(f"{Path(argv[4]).name}: {said or f'exit status {done.returncode}'}")
    return done


as_postgres = functools.partial(run_as, "postgres")


class Database:
    """A database of a server that this host has."""

    #: System user who connects, and the environment of its programs.
    user = "postgres"
    environment: dict[str, str] | None = None
    #: Folder of the programs, where it is not that of the host's cluster.
    programs: Path | None = None
    #: Database that a connection uses for what is not of one database.
    maintenance = "postgres"

    def __init__(self, socket_dir: str, name: str) -> None:
        self.socket_dir, self.name = socket_dir, name

    def argv(self, program: str, *options: str, database: str = "") -> tuple[str, ...]:
        """Return the command of a program that connects."""
        program = str(self.programs / program) if self.programs else program
        return (program, "-h", self.socket_dir, "-d", database or self.name, *options)

    def run(self, program: str, *options: str, database: str = "", **more) -> subprocess.CompletedProcess:
        return run_as(self.user, *self.argv(program, *options, database=database), env=self.environment, **more)

    def sql(self, query: str, database: str = "") -> str:
        # Not as an argument, which has a limit.
        options = ("-XAtq", "-v", "ON_ERROR_STOP=1")
        return self.run("psql", *options, database=database, input=query).stdout.strip()

    @functools.cached_property
    def version(self) -> int:
        """Return the version of the server."""
        return int(self.sql("SHOW server_version_num", self.maintenance)) // 10000

    def is_standby(self) -> bool:
        return self.sql("SELECT pg_is_in_recovery()", "postgres") == "t"

    def size(self) -> int:
        """Return the bytes on the disk."""
        return int(self.sql("SELECT pg_database_size(current_database())"))

    def tables(self, begin: str = "") -> list[str]:
        return self.sql(begin + TABLES).splitlines()

    def count(self, begin: str = "") -> dict[str, int]:
        """Return the number of rows of each table, in a transaction that `begin` starts."""
        tables = self.tables(begin)
        rows = self.sql(begin + " UNION ALL ".join(f"SELECT $x${table}$x$, count(*) FROM {table}" for table in tables))
        return {table: int(count) for table, _bar, count in (row.rpartition("|") for row in rows.splitlines())}

    def dump(self, path: Path) -> dict[str, int]:
        """Write a dump, and return the number of rows that each table has in it."""
        # The dump and the counts are of the same moment: all of them read the snapshot of this session.
        argv = ["runuser", "-u", self.user, "--", *self.argv("psql", "-XAtq")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(argv, cwd="/", env=self.environment, **pipes) as session:
            session.stdin.write(f"{READ} SELECT pg_export_snapshot();\n")
            session.stdin.flush()
            if not (snapshot := session.stdout.readline().strip()):
                raise BackupError(f"psql: cannot read the database {self.name}")
            with path.open("wb") as file:
                # restic compresses, and finds what has not changed since the last set, but not in a compressed dump.
                self.run("pg_dump", f"--snapshot={snapshot}", "--format=custom", "--compress=0", stdout=file)
            return self.count(f"{READ} SET TRANSACTION SNAPSHOT '{snapshot}';")

    def roles(self) -> list[str]:
        """Return the roles of the server, which a dump names and does not create."""
        return self.sql("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'", self.maintenance).splitlines()

    def create(self, owner: str, roles: list[str]) -> None:
        """Create the database, empty, for its owner alone; roles that the server does not have cannot log in."""
        options = "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
        for query in (
            *(f'CREATE ROLE "{role}" NOLOGIN' for role in sorted({*roles} - {*self.roles()})),
            f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)',
            f'CREATE DATABASE "{self.name}" OWNER "{owner}" {options}',
            f'REVOKE ALL ON DATABASE "{self.name}" FROM PUBLIC',
        ):
            self.sql(query, "postgres")

    def restore(self, dump: Path, *options: str) -> None:
        """Fill this new database, entirely or not at all."""
        with dump.open("rb") as file:
            self.run("pg_restore", "--single-transaction", "--exit-on-error", *options, stdin=file)

    def grant(self, script: Path) -> None:
        """Give the database to its owner, and the other roles of the site their privileges."""
        variables = ("-v", "ON_ERROR_STOP=1", "-v", f"database={self.name}", "-v", "end=COMMIT")
        self.run("psql", "-XAtq", *variables, input=script.read_text())

    def take_name(self, live: str) -> None:
        """Replace the database `live` by this one, in one transaction."""
        old = f"{live[:50]}_replaced"
        rename = f'ALTER DATABASE "{self.name}" RENAME TO "{live}"'
        self.sql(f'DROP DATABASE IF EXISTS "{old}" WITH (FORCE)', "postgres")
        if self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{live}'", "postgres"):
            end = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{live}'"
            rename = f'{end}; BEGIN; ALTER DATABASE "{live}" RENAME TO "{old}"; {rename}; COMMIT'
        end = time.monotonic() + 60
        while True:
            try:
                self.sql(rename, "postgres")
                break
            except BackupError as error:
                # There was a new connection between the two.
                if "being accessed by other users" not in str(error) or time.monotonic() > end:
                    raise
        self.sql(f'DROP DATABASE IF EXISTS "{old}" WITH (FORCE)', "postgres")


def compare_rows(expected: dict[str, int], found: dict[str, int]) -> None:
    different = [table for table in {*expected, *found} if expected.get(table) != found.get(table)]
    if different:
        what = ", ".join(f"{table} {found.get(table)} instead of {expected.get(table)}" for table in sorted(different))
        raise BackupError(f"the restored database has another number of rows: {what}")


def programs_of_server(version: int | str) -> Path:
    """Return the folder of the programs of a server of that version."""
    return Path("/usr/lib/postgresql", str(version), "bin")


@contextlib.contextmanager
def run_server(programs: Path, data: Path, sockets: Path, more: str = "") -> Iterator[Callable[[], None]]:
    """Yield what starts a server of PostgreSQL without a port on a folder that the block makes; remove both."""
    options = f"-k {sockets} -c listen_addresses= -c port=5432 -c fsync=off {more}"
    control = (f"{programs}/pg_ctl", "-D", str(data), "-w", "-s")

    def remove() -> None:
        # A run that was killed leaves its server.
        if (data / "postmaster.pid").exists():
            with contextlib.suppress(BackupError):
                as_postgres(*control, "-m", "immediate", "stop")
        shutil.rmtree(data, ignore_errors=True)

    def start() -> None:
        as_postgres(*control, "-o", options, "-l", f"{data}/log", "start", stdout=subprocess.DEVNULL)
        # During recovery pg_ctl takes it for a standby.
        while True:
            with contextlib.suppress(BackupError):
                if not Database(str(sockets), "postgres").is_standby():
                    return
            time.sleep(0.2)
            as_postgres(*control, "status")

    remove()
    try:
        yield start
    finally:
        remove()


@contextlib.contextmanager
def scratch_database(site: Site, roles: list[str], version: int) -> Iterator[Database]:
    """Run a server of PostgreSQL until the block ends; yield an empty database of it.

    The database has the name and the role of the live one, and the user of the site can reach its socket where a
    sandbox has it in place of the live one.
    """
    programs, data = programs_of_server(version), DATA / f"{site.name}-drill"
    sockets = data / "sockets"
    with run_server(programs, data, sockets, "-c max_connections=20") as start:
        as_postgres(f"{programs}/initdb", "-D", str(data), "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        as_postgres("mkdir", str(sockets))
        with contextlib.suppress(KeyError):
            # A host with the database alone has neither the user nor a release.
            os.chown(sockets, -1, grp.getgrnam(site.user).gr_gid)
        sockets.chmod(0o750)
        start()
        database = Database(str(sockets), site.database)
        database.programs = programs
        database.create(site.role, sorted({*roles, site.role}))
        database.sql(f'ALTER ROLE "{site.role}" LOGIN')
        yield database
