"""Dump, read and restore a database of a server that the stack does not manage.

The role of the site connects to it, over TLS as the service file of libpq says, and is no superuser.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from database import Database, programs_of_server, run_as
from settings import BackupError, Site

INSTALLED = Path("/usr/lib/postgresql")
#: Entries in the list of a dump that only the owner of an extension or of the schema public may restore.
LEFT_OUT = re.compile(r"\d+; \d+ \d+ COMMENT - (EXTENSION|SCHEMA public\b)")
#: A setting that servers before version 17 do not know, and the last line of the settings.
UNKNOWN, LAST_SETTING = b"SET transaction_timeout ", b"SELECT pg_catalog.set_config("
#: A line that is neither empty, a comment nor a command of psql.
STATEMENT = re.compile(rb"(?!--|\\)\S")
#: Begin of the rows of a table, which are a line each; the name as in TABLES of database.py.
COPY = re.compile(r'COPY ((?:"(?:[^"]|"")+"|[^." ]+)\.(?:"(?:[^"]|"")+"|[^." ]+)) .*FROM stdin;$')
#: Extension in the list of a dump.
EXTENSION = re.compile(r"^\d+; \d+ \d+ EXTENSION - (\S+)", re.MULTILINE)

#: Remove what the role owns: schemas, tables, views, sequences, types and functions, but nothing of an extension ("e").
#: The sequence of an identity column goes with its table ("i").
REMOVE = r"""
SET client_min_messages = warning;
WITH me AS (SELECT oid FROM pg_roles WHERE rolname = current_user), objects (class, id) AS (
    SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspowner = (TABLE me) AND nspname <> 'public'
  UNION ALL
    SELECT 'pg_class'::regclass, oid FROM pg_class
    WHERE relowner = (TABLE me) AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'
  UNION ALL
    SELECT 'pg_type'::regclass, t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE typowner = (TABLE me) AND (typtype IN ('e', 'd', 'r') OR c.relkind = 'c')
  UNION ALL
    SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = (TABLE me)
)
SELECT format('DROP %s IF EXISTS %s CASCADE', found.type, found.identity)
FROM objects, pg_identify_object(class, id, 0) AS found
WHERE coalesce(found.schema, found.name) !~ '^"?pg_' AND coalesce(found.schema, found.name) <> 'information_schema'
    AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.classid = class AND d.objid = id AND d.deptype IN ('e', 'i') AND d.refobjid <> id
    )
\gexec
SELECT lo_unlink(oid) FROM pg_largeobject_metadata
WHERE lomowner = (SELECT oid FROM pg_roles WHERE rolname = current_user);
"""


class Elsewhere(Database):
    """The database of the site, or another one that its role can use on the same server."""

    def __init__(self, site: Site, name: str = "") -> None:
        super().__init__("", name or site.database)
        self.user = site.user
        self.environment = {**os.environ, "PGSERVICEFILE": str(site.service_file), "LC_ALL": "C.UTF-8"}
        self.service = f"service={site.name}" + (f" dbname='{name}'" if name else "")
        self.maintenance = ""

    def argv(self, program: str, *options: str, database: str = "") -> tuple[str, ...]:
        folder = programs_of_client(0 if program == "psql" else self.version)
        # pg_restore writes to the standard output here, and connects to nothing.
        to = () if program == "pg_restore" else ("-w", "-d", self.service)
        return (str(folder / program), *to, *options)

    def is_standby(self) -> bool:
        return False

    def exists(self) -> bool:
        """Return whether the role can connect to the database; fail if the server does not answer."""
        try:
            self.sql("SELECT 1")
        except BackupError as error:
            if "does not exist" in str(error):
                return False
            raise
        return True

    def create_beside(self, name: str) -> None:
        """Create another database, which many services do not let the role of a site do."""
        try:
            self.sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
        except BackupError as error:
            raise BackupError(
                f"restore: {error}\nFix: create an empty database {name} there, where the role may create tables, and"
                " run this again"
            ) from None

    def replace(self, dump: Path, rows: dict[str, int]) -> None:
        """Replace what the role owns in the database by a dump, entirely or not at all."""
        argv = ("runuser", "-u", self.user, "--", *self.argv("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"))
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as said,
            subprocess.Popen(argv, cwd="/", env=self.environment, stdin=subprocess.PIPE, stderr=said) as psql,
        ):
            # psql ends at the first error, and without COMMIT the server takes everything back.
            with contextlib.suppress(BrokenPipeError):
                psql.stdin.write(f"BEGIN;\n{REMOVE}".encode())
                for line in read_dump(dump, self, {}):
                    psql.stdin.write(line)
                psql.stdin.write(f"\n{check_of(rows)}COMMIT;\nANALYZE;\n".encode())
            with contextlib.suppress(BrokenPipeError):
                psql.stdin.close()
            if psql.wait():
                said.seek(0)
                last = "\n".join(said.read().strip().splitlines()[-6:])
                raise BackupError(f"restore: the database {self.name} is as it was: {last}")


def database_of(site: Site) -> Database:
    """Return the database of the site."""
    return Elsewhere(site) if site.service_file else Database(site.socket_dir, site.database)


def versions_with(program: str) -> list[int]:
    """Return the versions of PostgreSQL of which this host has a program."""
    return sorted(int(path.parts[-3]) for path in INSTALLED.glob(f"*/bin/{program}"))


def programs_of_client(version: int) -> Path:
    """Return the folder of the oldest programs for a server; pg_dump refuses servers that are newer than itself."""
    known = versions_with("pg_dump")
    if fitting := [each for each in known if each >= version]:
        # psql reads servers of all versions.
        return programs_of_server(fitting[0] if version else known[-1])
    if not known:
        raise BackupError("pg_dump: this host has none. Fix: run site.yml, which installs postgresql-client.")
    raise BackupError(
        f"pg_dump: the server has PostgreSQL {version}, and this host has programs of {', '.join(map(str, known))}."
        f" Fix: install postgresql-client-{version} here; where Debian has none, it is in the repository of"
        " apt.postgresql.org."
    )


def read_dump(dump: Path, database: Elsewhere, counts: dict[str, int]) -> Iterator[bytes]:
    """Yield the lines of a dump as SQL for a role that is no superuser; count the rows of each table.

    It begins and ends no transaction, so that the caller can.
    """
    entries = [line for line in list_dump(dump, database).splitlines() if not LEFT_OUT.match(line)]
    with contextlib.ExitStack() as stack:
        chosen = stack.enter_context(tempfile.NamedTemporaryFile("w", encoding="utf-8"))
        chosen.write("\n".join(entries) + "\n")
        chosen.flush()
        # The names of tables; the user of the site reads them.
        Path(chosen.name).chmod(0o644)
        # Without --single-transaction, large objects have a transaction of their own.
        options = ("--single-transaction", "--no-owner", "--no-privileges", f"--use-list={chosen.name}", "--file=-")
        argv = ("runuser", "-u", database.user, "--", *database.argv("pg_restore", *options))
        file = stack.enter_context(dump.open("rb"))
        pipes = {"stdin": file, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        reading = stack.enter_context(subprocess.Popen(argv, cwd="/", **pipes))
        table, settings, end = "", True, []
        for line in reading.stdout:
            if table:
                if line == b"\\.\n":
                    table = ""
                else:
                    counts[table] += 1
            elif settings:
                settings = not line.startswith(LAST_SETTING)
                if line.startswith((UNKNOWN, b"BEGIN;")):
                    continue
            elif line == b"COMMIT;\n" or (end and not STATEMENT.match(line)):
                end.append(line)
                continue
            elif found := COPY.match(line.decode(errors="replace").rstrip("\n")):
                table = found[1]
                counts[table] = 0
            # The body of a procedure can have such a line too.
            yield from end
            end.clear()
            yield line
        said = reading.stderr.read().decode(errors="replace").strip()
        if reading.wait():
            raise BackupError(f"pg_restore: the dump is damaged: {said}")


def list_dump(dump: Path, database: Elsewhere) -> str:
    with dump.open("rb") as file:
        return run_as(database.user, *database.argv("pg_restore", "--list"), stdin=file).stdout


def count_dump(dump: Path, database: Elsewhere) -> dict[str, int]:
    """Read a dump to its end, and return the number of rows of each table."""
    counts: dict[str, int] = {}
    for _line in read_dump(dump, database, counts):
        pass
    return counts


def version_for_test(dump: Path, database: Elsewhere) -> int:
    """Return the version of a server on this host that can restore a dump in a test, 0 if there is none."""
    listed = list_dump(dump, database)
    for version in versions_with("initdb"):
        extensions = Path("/usr/share/postgresql", str(version), "extension")
        if version >= database.version and all(
            (extensions / f"{name}.control").exists() for name in EXTENSION.findall(listed)
        ):
            return version
    return 0


def check_of(rows: dict[str, int]) -> str:
    """Return SQL that fails unless each table has its number of rows."""
    checks = "".join(
        f"IF (SELECT count(*) FROM {table}) <> {count} THEN"
        f" RAISE EXCEPTION 'another number of rows than the set: %', $x${table}$x$; END IF;\n"
        for table, count in rows.items()
    )
    return f"DO $check$ BEGIN\n{checks}END $check$;\n"
