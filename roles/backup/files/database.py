"""Dump, restore and count the rows of a database."""

from __future__ import annotations

import contextlib
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
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"


def as_postgres(*argv: str, **options) -> subprocess.CompletedProcess:
    """Run a program of PostgreSQL as its system user."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    argv = ("runuser", "-u", "postgres", "--", *argv)
    done = subprocess.run(argv, cwd="/", stderr=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise BackupError(f"{Path(argv[4]).name}: {said or f'exit status {done.returncode}'}")
    return done


class Database:
    """A database of a server that this host has."""

    def __init__(self, socket_dir: str, name: str) -> None:
        self.socket_dir, self.name = socket_dir, name

    def sql(self, query: str, database: str = "") -> str:
        to = ("-h", self.socket_dir, "-d", database or self.name)
        # Not as an argument, which has a limit.
        return as_postgres("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *to, input=query).stdout.strip()

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
        argv = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-h", self.socket_dir, "-d", self.name]
        with subprocess.Popen(argv, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
            session.stdin.write(f"{READ} SELECT pg_export_snapshot();\n")
            session.stdin.flush()
            if not (snapshot := session.stdout.readline().strip()):
                raise BackupError(f"psql: cannot read the database {self.name}")
            to = ("-h", self.socket_dir, "-d", self.name, f"--snapshot={snapshot}")
            with path.open("wb") as file:
                # restic compresses, and finds what has not changed since the last set, but not in a compressed dump.
                as_postgres("pg_dump", *to, "--format=custom", "--compress=0", stdout=file)
            return self.count(f"{READ} SET TRANSACTION SNAPSHOT '{snapshot}';")

    def roles(self) -> list[str]:
        """Return the roles of the server, which a dump names and does not create."""
        return self.sql("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'", "postgres").splitlines()

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
        to = ("-h", self.socket_dir, "-d", self.name, "--single-transaction", "--exit-on-error")
        with dump.open("rb") as file:
            as_postgres("pg_restore", *to, *options, stdin=file)

    def grant(self, script: Path) -> None:
        """Give the database to its owner, and the other roles of the site their privileges."""
        to = ("-h", self.socket_dir, "-d", self.name, "-v", f"database={self.name}", "-v", "end=COMMIT")
        as_postgres("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *to, input=script.read_text())

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


@contextlib.contextmanager
def run_server(programs: Path, data: Path, more: str = "") -> Iterator[Callable[[], None]]:
    """Yield what starts a server of PostgreSQL without a port on a folder that the block makes; remove both."""
    options = f"-k {data} -c listen_addresses= -c fsync=off {more}"
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
                if not Database(str(data), "postgres").is_standby():
                    return
            time.sleep(0.2)
            as_postgres(*control, "status")

    remove()
    try:
        yield start
    finally:
        remove()


@contextlib.contextmanager
def scratch_database(site: Site, roles: list[str]) -> Iterator[Database]:
    """Run a server of PostgreSQL until the block ends; yield an empty database of it."""
    live = Database(site.socket_dir, "postgres")
    programs = Path("/usr/lib/postgresql", str(int(live.sql("SHOW server_version_num")) // 10000), "bin")
    data = Path("/var/lib/postgresql", f"{site.name}-drill")
    with run_server(programs, data, "-c max_connections=10") as start:
        as_postgres(f"{programs}/initdb", "-D", str(data), "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        start()
        database = Database(str(data), "drill")
        database.create("postgres", roles)
        yield database
