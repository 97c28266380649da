# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Search the SQL of migrations for changes that break the live release, which still runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# How to split a change that breaks the live release.
STEPS = """\
Split it, so that each release can live with the database of the next:
  1. add the new column (null=True or db_default=...) or table, beside the old one
  2. deploy code that writes both
  3. copy the old values over
  4. deploy code that reads the new one and no longer knows the old one
     (SeparateDatabaseAndState takes a field out of the models and leaves its column)
  5. in a release after that, drop the old one, or set NOT NULL"""
CONCURRENTLY = """\
Build an index while others write: AddIndexConcurrently or AddConstraintNotValid of django.contrib.postgres.operations,
in a migration with atomic = False."""

NAME = r'((?:(?:"[^"]+"|[\w$]+)\.)?(?:"[^"]+"|[\w$]+))'
# Excludes the words after ADD, DROP and RENAME that do not begin a column.
NO_COLUMN = r"(?!(?:CONSTRAINT|UNIQUE|PRIMARY|FOREIGN|CHECK|EXCLUDE|COLUMN|TO)\b)"
TYPE = re.compile(r"(?P<name>[a-z ]+?)\s*(?:\((?P<length>\d+)(?:,\s*(?P<scale>\d+))?\))?$")
INTEGERS = ("smallint", "integer", "bigint")


#: Effects of ALTER COLUMN on a column that the live release does not know.
CHANGES = {
    "SET NOT NULL": {"required": True},
    "DROP NOT NULL": {"required": False},
    "SET DEFAULT": {"default": True},
    "DROP DEFAULT": {"default": False},
    "ADD GENERATED": {"default": True},
}


class Finding(NamedTuple):
    migration: str
    what: str
    advice: str = STEPS

    def __str__(self) -> str:
        return f"{self.migration} {self.what}"


class Database(NamedTuple):
    """The state before the migrations, by the models of the live release and by PostgreSQL."""

    #: Tables of the live release's models: columns, and whether the model lets them be NULL.
    models: dict[str, dict[str, bool]]
    #: Columns in PostgreSQL: type, and whether they have a default.
    columns: dict[str, dict[str, tuple[str, bool]]]
    #: Tables that take long to scan.
    large: set[str]
    #: Columns of the live release's models that its inserts leave to the database's default.
    defaults: dict[str, list[str]]


def progress_file(home: str) -> Path:
    """Return the file in which the module migrate writes the migration that runs."""
    return Path("/run") / f"{Path(home).name}-migrate"


def plain(name: str) -> str:
    """Return the name of a table or column as PostgreSQL stores it, without its schema."""
    last = re.findall(r'"[^"]+"|[^."]+', name)[-1]
    return last[1:-1] if last.startswith('"') else last.lower()


def statements(sql: str) -> Iterator[str]:
    """Yield the statements one at a time, without comments and quoted text."""
    quoted = r"\bE'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'"
    sql = re.sub(rf"({quoted})|--[^\n]*|/\*.*?\*/", lambda found: "''" if found[1] else " ", sql, flags=re.DOTALL)
    # A DO block contains statements too.
    sql = re.sub(r'\$\w*\$|(?<!")\b(?i:BEGIN|THEN|ELSE|LOOP)\b(?!")', ";", sql)
    for statement in sql.split(";"):
        if words := " ".join(statement.split()):
            yield words


def matches(pattern: str, text: str) -> re.Match | None:
    return re.match(pattern, text, re.IGNORECASE)


def has(pattern: str, text: str) -> bool:
    return bool(re.search(pattern, text, re.IGNORECASE))


def actions(text: str) -> list[str]:
    """Return the parts between the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def find_breaking(plan: list[dict], database: Database) -> list[Finding]:
    """Return the changes in a plan that break the live release; a plan is a list of migrations with name and sql."""
    reading = Reading(database)
    for migration in plan:
        reading.migration = migration["name"]
        for statement in statements("\n".join(f"{line};" for line in migration["sql"])):
            reading.read(statement)
    return [*reading.findings, *reading.required()]


class Reading:
    """A reader of the statements of a plan in their order."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.findings: list[Finding] = []
        self.migration = ""
        #: Columns that the live release does not know: their migration, NOT NULL, a default.
        self.new: dict[tuple[str, str], dict] = {}

    def find(self, what: str, advice: str = STEPS) -> None:
        self.findings.append(Finding(self.migration, what, advice))

    def uses(self, table: str, column: str) -> bool:
        return column in self.database.models.get(table, {})

    def leaves_to_database(self, table: str, column: str) -> bool:
        nullable = self.database.models[table][column]
        return column in self.database.defaults.get(table, ()) and not nullable

    def column(self, table: str, column: str) -> tuple[str, bool]:
        return self.database.columns.get(table, {}).get(column, ("", False))

    def read(self, statement: str) -> None:
        if found := matches(r"DROP (?:TABLE|(?:MATERIALIZED )?VIEW) (?:IF EXISTS )?(.*)", statement):
            for table in map(plain, re.findall(NAME, found[1])):
                if table in self.database.models:
                    self.find(f"drops the table {table}, which the running release uses")
        elif found := matches(rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{NAME} (?:\* )?(.*)", statement):
            for action in actions(found[2]):
                self.alter(plain(found[1]), action)
        elif found := matches(
            rf"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)(?:(?:IF NOT EXISTS )?{NAME} )?ON (?:ONLY )?{NAME}", statement
        ):
            self.lock(plain(found[2]), "builds an index on the large table {}, which blocks writes until it is built")

    def alter(self, table: str, action: str) -> None:
        if found := matches(rf"RENAME (?:COLUMN )?{NO_COLUMN}{NAME} TO ", action):
            if self.uses(table, plain(found[1])):
                self.find(f"renames the column {table}.{plain(found[1])}, which the running release uses")
        elif matches(r"RENAME TO |SET SCHEMA ", action):
            if table in self.database.models:
                self.find(f"renames the table {table}, which the running release uses")
        elif found := matches(rf"DROP (?:COLUMN )?(?:IF EXISTS )?{NO_COLUMN}{NAME}", action):
            self.new.pop((table, plain(found[1])), None)
            if self.uses(table, plain(found[1])):
                self.find(f"drops the column {table}.{plain(found[1])}, which the running release uses")
        elif found := matches(rf"ADD (?:COLUMN )?(?:IF NOT EXISTS )?{NO_COLUMN}{NAME} (.*)", action):
            self.new[table, plain(found[1])] = {
                "by": self.migration,
                "required": has(r"\b(NOT NULL|PRIMARY KEY)\b", found[2]),
                "default": has(r"\b(DEFAULT|GENERATED|(small|big)?serial)\b", found[2]),
            }
        elif found := matches(rf"ALTER (?:COLUMN )?{NAME} (.*)", action):
            self.alter_column(table, plain(found[1]), found[2])
        elif matches(r"ADD ", action) and not has(r"\b(NOT VALID|USING INDEX)\b", action):
            self.lock(table, "adds a constraint to the large table {}, which blocks writes while rows are checked")

    def lock(self, table: str, what: str) -> None:
        if table in self.database.large:
            self.find(what.format(table), CONCURRENTLY)

    def alter_column(self, table: str, column: str, what: str) -> None:
        if self.uses(table, column):
            if matches("SET NOT NULL", what) and self.database.models[table][column]:
                self.find(f"sets {table}.{column} NOT NULL, where the running release may write NULL")
            elif matches("DROP DEFAULT", what) and self.leaves_to_database(table, column):
                self.find(f"drops the default of {table}.{column}, which the running release leaves to the database")
            elif found := matches(r"(?:SET DATA )?TYPE (.*?)(?: USING .*| COLLATE .*)?$", what):
                self.change_type(table, column, found[1])
            return
        new = self.new.setdefault((table, column), {"required": False, "default": self.column(table, column)[1]})
        for start, change in CHANGES.items():
            if matches(start, what):
                new.update({**change, "by": self.migration})

    def change_type(self, table: str, column: str, kind: str) -> None:
        old = self.column(table, column)[0]
        fits, rewrites = widening(old, kind)
        if not fits:
            self.find(f"makes {table}.{column} {kind}, which the running release knows as {old or 'something else'}")
        elif rewrites:
            self.lock(table, f"makes {column} {kind} in the large table {{}}, which blocks reads while it is rewritten")

    def required(self) -> Iterator[Finding]:
        """Yield the new columns that inserts of the live release would have to fill but do not know."""
        for (table, column), facts in self.new.items():
            if table in self.database.models and facts["required"] and not facts["default"]:
                yield Finding(
                    facts["by"],
                    f"makes {table}.{column} NOT NULL and leaves it no default in the database,"
                    " so the running release cannot insert a row; db_default=... leaves one",
                )


def widening(old: str, new: str) -> tuple[bool, bool]:
    """Return whether every value and query of the old type still fits, and whether PostgreSQL rewrites the table."""
    old, new = canonical(old), canonical(new)
    was, becomes = TYPE.match(old), TYPE.match(new)
    if old == new or not was or not becomes:
        return old == new, False
    names = was["name"], becomes["name"]
    length, scale = ((int(was[part] or 0), int(becomes[part] or 0)) for part in ("length", "scale"))
    longer = not length[1] or 0 < length[0] <= length[1]
    if set(names) <= {"varchar", "text"}:
        return longer, False
    if names == ("numeric", "numeric"):
        return longer and (scale[0] == scale[1] or not length[1]), False
    if set(names) <= set(INTEGERS):
        return INTEGERS.index(names[0]) < INTEGERS.index(names[1]), True
    return False, False


def canonical(kind: str) -> str:
    kind = " ".join(kind.lower().split())
    for name, usual in (
        ("character varying", "varchar"),
        ("decimal", "numeric"),
        ("int8", "bigint"),
        ("int4", "integer"),
    ):
        kind = kind.replace(name, usual)
    return re.sub(r"^int\b", "integer", kind)
