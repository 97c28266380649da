"""Dump, restore and count the rows of a database."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from settings import BackupError, Site


def as_postgres(*argv: str, **options) -> subprocess.CompletedProcess:
    """Run a program of PostgreSQL as its system user."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options}
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

    def sql(self, query: str, database: str = "", **options) -> str:
        to = ("-h", self.socket_dir, "-d", database or self.name)
        return as_postgres("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *to, "-c", query, **options).stdout.strip()

    def count(self, begin: str = "") -> dict[str, int]:
        """Return the number of rows of each table, in a transaction that `begin` starts."""
        tables = self.sql(
            f"{begin} SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
        ).splitlines()
        rows = self.sql(begin + " UNION ALL ".join(f"SELECT $x${table}$x$, count(*) FROM {table}" for table in tables))
        return {table: int(count) for table, _bar, count in (row.rpartition("|") for row in rows.splitlines())}

    def dump(self, path: Path) -> dict[str, int]:
        """Write a dump, and return the number of rows that each table has in it."""
        # The dump and the counts are of the same moment: all of them read the snapshot of this session.
        argv = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-h", self.socket_dir, "-d", self.name]
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
        with subprocess.Popen(argv, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
            session.stdin.write(f"{begin} SELECT pg_export_snapshot();\n")
            session.stdin.flush()
            if not (snapshot := session.stdout.readline().strip()):
                raise BackupError(f"psql: cannot read the database {self.name}")
            to = ("-h", self.socket_dir, "-d", self.name, f"--snapshot={snapshot}")
            with path.open("wb") as file:
                # restic compresses, and finds what has not changed since the last set, but not in a compressed dump.
                as_postgres("pg_dump", *to, "--format=custom", "--compress=0", stdout=file)
            return self.count(f"{begin} SET TRANSACTION SNAPSHOT '{snapshot}';")

    def create(self, owner: str) -> None:
        """Create the database, empty, for its owner alone."""
        options = "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
        for query in (
            f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)',
            f'CREATE DATABASE "{self.name}" OWNER "{owner}" {options}',
            f'REVOKE ALL ON DATABASE "{self.name}" FROM PUBLIC',
        ):
            self.sql(query, "postgres")

    def take_name(self, live: str) -> None:
        """Replace the database `live` by this one, in one transaction."""
        old = f"{live[:50]}_replaced"
        queries = [f'DROP DATABASE IF EXISTS "{old}" WITH (FORCE)']
        rename = f'ALTER DATABASE "{self.name}" RENAME TO "{live}"'
        # An earlier run can have been killed at any place.
        if self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{live}'", "postgres"):
            queries += [
                f'ALTER DATABASE "{live}" ALLOW_CONNECTIONS false',
                f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{live}'",
                f'BEGIN; ALTER DATABASE "{live}" RENAME TO "{old}"; {rename}; COMMIT',
            ]
        else:
            queries.append(rename)
        for query in (*queries, f'DROP DATABASE IF EXISTS "{old}"'):
            self.sql(query, "postgres")

    def is_standby(self) -> bool:
        return self.sql("SELECT pg_is_in_recovery()", "postgres") == "t"

    def restore(self, dump: Path, *options: str) -> None:
        """Fill this new database, entirely or not at all."""
        to = ("-h", self.socket_dir, "-d", self.name, "--single-transaction", "--exit-on-error")
        with dump.open("rb") as file:
            as_postgres("pg_restore", *to, *options, stdin=file)


def compare_rows(expected: dict[str, int], found: dict[str, int]) -> None:
    different = [table for table in {*expected, *found} if expected.get(table) != found.get(table)]
    if different:
        what = ", ".join(f"{table} {found.get(table)} instead of {expected.get(table)}" for table in sorted(different))
        raise BackupError(f"the restored database has another number of rows: {what}")


@contextlib.contextmanager
def scratch_database(site: Site) -> Iterator[Database]:
    """Run a server of PostgreSQL without a port until the block ends; yield an empty database of it."""
    live = Database(site.socket_dir, "postgres")
    programs = Path("/usr/lib/postgresql", str(int(live.sql("SHOW server_version_num")) // 10000), "bin")
    data = Path("/var/lib/postgresql", f"{site.name}-drill")
    shutil.rmtree(data, ignore_errors=True)
    try:
        as_postgres(f"{programs}/initdb", "-D", str(data), "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        options = f"-k {data} -c listen_addresses= -c fsync=off -c max_connections=10"
        control = (f"{programs}/pg_ctl", "-D", str(data), "-w", "-s")
        as_postgres(*control, "-o", options, "-l", f"{data}/log", "start", stdout=subprocess.DEVNULL)
        try:
            database = Database(str(data), "drill")
            database.sql("CREATE DATABASE drill TEMPLATE template0", "postgres")
            yield database
        finally:
            as_postgres(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(data, ignore_errors=True)
