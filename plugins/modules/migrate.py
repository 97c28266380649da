#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: migrate
short_description: Migrate the database, forward for a release or back for an older one
version_added: 1.0.0
description:
  - Asks the release which migrations its database C(default) lacks. With none nothing changes.
  - While another release is live, reads the SQL of the migrations first and compares it with the models of that
    release. What it could not live with is refused, with what to do instead.
  - A migration that waits for a lock makes all others queue behind it, so it gives way after O(lock_timeout), and is
    tried three times; once only when it is not atomic, as a part of it may be done. Nobody queues behind an index that
    is built C(CONCURRENTLY), so that waits as long as it takes, and an invalid one of its name is dropped before.
  - A migration that takes longer than ten seconds is displayed while it runs.
  - With O(back_to) undoes what the older release does not know, in reverse order, by the code of the newer one. When
    one of them cannot be undone, or nobody can tell because of a squash, nothing is.
options:
  home:
    description: Folder of the site on the host.
    type: path
    required: true
  manage:
    description: Program that runs C(manage.py) of a release as the site does, called with C(--release=ID).
    type: path
    required: true
  release:
    description: Id of the release whose migrations are meant.
    type: str
    required: true
  back_to:
    description: Id of an older release. What it does not know of the migrations of O(release) is undone.
    type: str
  lock_timeout:
    description: How long a statement waits for a lock, as PostgreSQL writes it.
    type: str
    default: 5s
  allow_breaking:
    description: Migrate although the live release cannot live with it.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Reads the plan, judges it, and applies none of it.
  diff_mode:
    support: full
    description: Shows the plan.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Migrate the database
  django_vps.stack.migrate:
    home: /srv/shop
    manage: /usr/local/sbin/shop-manage
    release: 20261121T081500Z
"""

RETURN = r"""
plan:
  description: One line for each migration, in the order in which they are run.
  returned: always
  type: list
  elements: str
  sample: ["notes.0002_note_colour: Add field colour to note"]
irreversible:
  description: Of a plan backwards, what cannot be undone and why.
  returned: always
  type: list
  elements: str
restores:
  description: Whether a plan backwards brings back tables or columns, which the older release may need to start.
  returned: always
  type: bool
"""

import contextlib
import json
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.migrations import Database, find_breaking, progress_file
from ansible_collections.django_vps.stack.plugins.module_utils.site import (
    Site,
    StepError,
    ask_project,
    only_one,
    write_file,
)

# Times that a migration gives way to who holds its lock, and the seconds between.
TRIES = 3
PAUSE = 5

# What the database lacks of this release, or what the other release does not know of it.
PLAN = """
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
executor = MigrationExecutor(connection)
loader = executor.loader
recorded = set(executor.recorder.applied_migrations())
known = {tuple(name.split(".", 1)) for name in ARGUMENTS["known"] or ()}
# Squashes that stand for what is applied, and have only to be written down.
squashes = []
# Apps of which the other release has migrations that this one squashed and no longer has.
squashed = {app for app, name in (known & recorded) - set(loader.disk_migrations)}
if ARGUMENTS["known"] is None:
    plan = executor.migration_plan(loader.graph.leaf_nodes())
    for node, migration in loader.replacements.items():
        if node not in recorded and recorded.issuperset(migration.replaces):
            squashes.append(migration)
else:
    extra = [node for node in loader.applied_migrations if node in loader.graph.nodes and node not in known]
    plan = []
    for node in extra:
        replaces = loader.graph.nodes[node].replaces
        if replaces and known.issuperset(map(tuple, replaces)):
            continue
        for other in loader.graph.backwards_plan(node):
            entry = (loader.graph.nodes[other], True)
            if other in loader.applied_migrations and entry not in plan:
                plan.append(entry)
"""

DESCRIBE = """
def sql_of(entry):
    try:
        return loader.collect_sql([entry]), ""
    except Exception as error:
        return [], f"{type(error).__name__}: {error}"
def irreversible(migration, backwards):
    if backwards and migration.app_label in squashed:
        yield "it may stand for migrations that the older release has"
    if backwards and (migration.app_label, migration.name) in known:
        yield "the older release has it too, and it needs one that is to be undone"
    for operation in migration.operations:
        if not operation.reversible:
            yield str(operation.describe())
described = [{
    "name": f"{migration.app_label}.{migration.name}",
    "new": False,
    "atomic": True,
    "does": ["written down, as all that it stands for is applied"],
    "irreversible": [],
    "sql": [],
    "unread": "",
} for migration in squashes]
for migration, backwards in plan:
    sql, unread = sql_of((migration, backwards)) if ARGUMENTS["sql"] else ([], "")
    described.append({
        "name": f"{migration.app_label}.{migration.name}",
        "new": not any(app == migration.app_label for app, _ in loader.applied_migrations),
        "atomic": migration.atomic,
        "does": [str(operation.describe()) for operation in migration.operations],
        "irreversible": list(irreversible(migration, backwards)),
        "sql": sql,
        "unread": unread,
    })
columns, large = {}, []
if plan and ARGUMENTS["sql"]:
    with connection.cursor() as cursor:
        cursor.execute('''
            SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                   a.atthasdef OR a.attidentity <> '', pg_relation_size(c.oid)
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND pg_table_is_visible(c.oid)
                AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND has_table_privilege(c.oid, 'SELECT')''')
        sizes = {}
        for table, column, kind, default, size in cursor.fetchall():
            columns.setdefault(table, {})[column] = (kind, default)
            sizes[table] = size
        for table in [table for table, size in sizes.items() if size > 1_000_000]:
            name = connection.ops.quote_name(table)
            cursor.execute(f"SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT %s) AS rows", [ARGUMENTS["large"]])
            if cursor.fetchone()[0] >= ARGUMENTS["large"]:
                large.append(table)
answer({"plan": described, "columns": columns, "large": large})
"""

# Of the connection itself, as OPTIONS of the settings or the environment would replace what is handed in from outside.
GIVE_WAY = r"""
import re
from django.db import connection
from django.db.backends.signals import connection_created

def limit(connection, **_):
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", [ARGUMENTS["lock_timeout"]])

def give_way(execute, sql, params, many, context):
    index = r'(?is)\s*(CREATE|DROP|REINDEX)\b.*?\bCONCURRENTLY\s+(?:IF (?:NOT )?EXISTS\s+)?"?([^"\s]*)'
    found = re.match(index, str(sql))
    if not found:
        return execute(sql, params, many, context)
    # It waits for all transactions before it, and nobody waits for it.
    with connection.cursor() as cursor:
        cursor.execute('''
            SELECT quote_ident(c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE NOT i.indisvalid AND c.relname = %s AND pg_table_is_visible(c.oid)''', [found[2]])
        # What one that was broken off has left would be in the way of the next.
        left = cursor.fetchone() if found[1].upper() == "CREATE" else None
        if left:
            cursor.execute(f"DROP INDEX CONCURRENTLY {left[0]}")
        cursor.execute("SET lock_timeout = 0")
    done = execute(sql, params, many, context)
    limit(connection)
    return done

limit(connection)
connection_created.connect(limit, weak=False)
"""

APPLY = """
from django.core.management import call_command
with connection.execute_wrapper(give_way):
    call_command("migrate", interactive=False, no_color=True, skip_checks=False)
"""

UNDO = """
with connection.execute_wrapper(give_way):
    executor.migrate([], plan=plan)
"""

# A transaction of another role shows itself, but not what it does.
BLOCKERS = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute('''
        SELECT format('process %s of %s, %s, for %s s: %s', pid, usename, state,
                      round(extract(epoch FROM now() - xact_start)), left(query, 200))
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < now() - interval '1 second'
        ORDER BY xact_start''')
    answer({"blockers": [row[0] for row in cursor.fetchall()]})
"""

KNOWN = """
from django.db.migrations.loader import MigrationLoader
answer({"migrations": [".".join(node) for node in MigrationLoader(None).disk_migrations]})
"""

MODELS = """
from django.apps import apps
tables, defaults = {}, {}
for model in apps.get_models(include_auto_created=True):
    meta = model._meta
    table = meta.db_table.split(".")[-1].strip('"')
    tables.setdefault(table, {}).update({field.column: field.null for field in meta.local_concrete_fields})
    # Since Django 5.0.
    filled = [field.column for field in meta.local_concrete_fields if getattr(field, "has_db_default", bool)()]
    defaults.setdefault(table, []).extend(filled)
answer({"tables": tables, "defaults": defaults})
"""

#: What Django prints when it begins with a migration.
APPLYING = re.compile(r"^  (?:Applying|Unapplying) (\S+?)\.\.\.", re.MULTILINE)

#: Rows from which on a table counts as large: an index on fewer is built in well under a second.
LARGE = 100_000


class Migrate:
    """The migrations between the database and a release."""

    def __init__(self, options: dict) -> None:
        self.options = options
        self.site = Site(options["home"])
        self.manage = options["manage"]
        self.under_way = ""
        #: Who held up what has worked in the end.
        self.waited: list[str] = []
        self.back_to = options["back_to"]
        known = None
        if self.back_to:
            known = (self.site.facts(self.back_to) or {}).get("migrations")
            if known is None:
                argv = [self.manage, f"--release={self.back_to}"]
                known = ask_project("migrate", argv, KNOWN, {})[0]["migrations"]
        live = self.site.live
        self.running = live if live and live != options["release"] and self.site.facts(live) else None
        # Before anything is live nothing can break.
        self.arguments = {
            "known": known,
            "sql": bool(self.back_to or self.running),
            "large": LARGE,
            "lock_timeout": options["lock_timeout"],
        }

    def ask(self, program: str, release: str | None = None, **more) -> dict:
        argv = [self.manage, f"--release={release or self.options['release']}"]
        return ask_project("migrate", argv, program, self.arguments, **more)[0]

    def read(self) -> None:
        found = self.ask(PLAN + DESCRIBE)
        self.plan, self.columns, self.large = found["plan"], found["columns"], found["large"]

    def lines(self) -> list[str]:
        undo = "undo: " if self.back_to else ""
        return [f"{entry['name']}: {undo}{'; '.join(entry['does']) or 'nothing'}" for entry in self.plan]

    def irreversible(self) -> list[str]:
        if not self.back_to:
            return []
        why = [(entry["name"], [*entry["irreversible"], *filter(None, [entry["unread"]])]) for entry in self.plan]
        return [f"{name}: {', '.join(reasons)}" for name, reasons in why if reasons]

    def restores(self) -> bool:
        sql = "\n".join(line for entry in self.plan for line in entry["sql"])
        return bool(self.back_to and re.search(r"(?i)\bADD COLUMN\b|\bCREATE TABLE\b|\bRENAME\b", sql))

    def judge(self) -> None:
        """Refuse what the running release cannot live with."""
        if not self.plan or not self.running or self.back_to or self.options["allow_breaking"]:
            return
        models = self.ask(MODELS, self.running)
        database = Database(models["tables"], self.columns, set(self.large), models["defaults"])
        findings = find_breaking(self.plan, database)
        unread = [
            f"{entry['name']} does: {entry['unread']}" for entry in self.plan if entry["unread"] and not entry["new"]
        ]
        if not findings and not unread:
            return
        said = [f"- {finding}" for finding in findings]
        said += [f"- nobody can read beforehand what {line}" for line in unread]
        advice = list(dict.fromkeys(finding.advice for finding in findings))
        accept = "Or accept that requests fail until the switch: -e django_allow_breaking_migrations=true"
        raise StepError(
            "migrate",
            f"the release that serves, {self.running}, cannot live with this:\n" + "\n".join(said),
            "\n".join([*advice, accept]),
        )

    def apply(self) -> None:
        """Run the plan; who holds a lock for long goes first."""
        if self.back_to:
            # Should the run die before another release serves, a deploy has to bring them again.
            self.site.note(self.options["release"], undone=True)
        for attempt in range(1, TRIES + 1):
            try:
                self.ask(GIVE_WAY + (PLAN + UNDO if self.back_to else APPLY), watch=self.note_progress)
            except StepError as error:
                # Of psycopg and psycopg2, in any language of the server.
                if "LockNotAvailable" not in error.said:
                    raise self.failure(error) from None
                self.waited = self.blockers()
                if attempt == TRIES or self.begun_for_good(error):
                    times = f"{attempt} times " * (attempt > 1)
                    held = f"{times}somebody held a lock for more than {self.options['lock_timeout']}"
                    end = "sudo -u postgres psql -c 'SELECT pg_terminate_backend(PID)'"
                    advice = f"Let them end, or end them on the host: {end}."
                    cause = "\n".join([held, *self.waited, error.cause])
                    raise StepError("migrate", cause, advice, details=error.details) from None
                time.sleep(PAUSE)
            else:
                break
        if not self.back_to and (self.site.facts(self.options["release"]) or {}).get("undone"):
            self.site.note(self.options["release"], undone=False)

    def note_progress(self, output: str) -> None:
        """Write the migration that is under way where the action plugin reads it."""
        migration = (APPLYING.findall(output) or [""])[-1]
        if migration != self.under_way:
            self.under_way = migration
            progress = {"migration": migration, "since": int(time.time())}
            write_file(progress_file(self.options["home"]), json.dumps(progress) + "\n", 0o600)

    @staticmethod
    def begun(error: StepError) -> list[str]:
        return APPLYING.findall(error.said)[-1:]

    def begun_for_good(self, error: StepError) -> bool:
        """Whether a part of what failed may be done and stay so; then it cannot simply be tried again."""
        atomic = {entry["name"]: entry["atomic"] for entry in self.plan}
        return not all(atomic.get(name, True) for name in (self.begun(error) or atomic))

    def failure(self, error: StepError) -> StepError:
        """Which migration failed and why, in the first line; then what of the plan is done and stays so."""
        begun = self.begun(error)
        # Of a traceback the error begins what is said, of a message it ends it.
        first = error.cause if error.details else error.cause.splitlines()[-1]
        plan = self.ask(PLAN + DESCRIBE)["plan"]
        left = {entry["name"]: entry for entry in plan}
        done = [entry["name"] for entry in self.plan if entry["name"] not in left]
        kept = f"Done, and kept: {', '.join(done)}." if done else "The database is as it was."
        for name in begun:
            if name in left and not left[name]["atomic"]:
                kept = (
                    f"{name} has atomic = False: what it did before it failed stays, and the next run starts it"
                    " from its beginning."
                )
        return StepError("migrate", ": ".join([*begun, first]), kept, details=error.details or error.cause)

    def blockers(self) -> list[str]:
        """Whose transactions have been open for longer than a moment."""
        try:
            return self.ask(BLOCKERS)["blockers"]
        except StepError:
            return []


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "manage": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "back_to": {"type": "str"},
            "lock_timeout": {"type": "str", "default": "5s"},
            "allow_breaking": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    told: dict = {"plan": [], "irreversible": [], "restores": False}
    try:
        migrate = Migrate(module.params)
        # One that outlived its run may still be at it.
        with contextlib.nullcontext() if module.check_mode else only_one(migrate.site.home):
            migrate.read()
            told = {
                "plan": migrate.lines(),
                "irreversible": migrate.irreversible(),
                "restores": migrate.restores(),
                "diff": {"before": "", "after": "".join(f"{line}\n" for line in migrate.lines())},
            }
            migrate.judge()
            if migrate.plan and not module.check_mode:
                if told["irreversible"]:
                    raise StepError("migrate", "these cannot be undone:\n" + "\n".join(told["irreversible"]))
                try:
                    migrate.apply()
                finally:
                    progress_file(module.params["home"]).unlink(missing_ok=True)
        for line in migrate.waited:
            module.warn(f"the migration had to wait for {line}")
        module.exit_json(changed=bool(migrate.plan), **told)
    except StepError as error:
        module.fail_json(msg=f"{error}\n{Site(module.params['home']).serving}", step=error.step, **told)


if __name__ == "__main__":
    main()
