# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run inside the project, with its Python and its environment.

`compose_program` of module_utils/project_shell.py sends the text of this file to the project, so it must not import
modules of the collection. The functions run by `manage.py shell`; they take their arguments as a dictionary, and report
facts by one or more calls of `answer`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re


def secret_key(arguments, answer):
    """Report a digest of a SECRET_KEY that is not from the environment, and whether Django considers it weak."""
    from django.conf import settings

    key = str(settings.SECRET_KEY)
    own = key not in os.environ.values()
    answer(
        {
            "key": hashlib.sha256(key.encode()).hexdigest() if own else "",
            "weak_key": own and (len(key) < 50 or len(set(key)) < 5 or key.startswith("django-insecure-")),
        }
    )


def examine(arguments, answer):
    """Report the settings, collect the static files and run the checks; in one process, because its start is slow."""
    from django.conf import settings
    from django.core.management import call_command
    from django.core.management.base import SystemCheckError
    from django.db import Error

    secret_key(arguments, answer)
    answer(settings_of_release(arguments["host"]))
    collects = "django.contrib.staticfiles" in settings.INSTALLED_APPS and arguments["collectstatic"]
    # The check of the settings refuses a folder outside the release later.
    inside = os.path.realpath(settings.STATIC_ROOT or "/").startswith(arguments["path"] + "/")
    elsewhere = "//" in (settings.STATIC_URL or "")
    if collects and (inside or elsewhere):
        call_command("collectstatic", interactive=False, verbosity=0)
    pending, recorded, migrations = pending_migrations()
    answer({"step": "check", "pending": pending, "migrations": migrations, "unchecked": ""})
    try:
        call_command("check", deploy=True, fail_level=arguments["check_level"], no_color=True)
    except (Error, SystemCheckError) as error:
        # A check can need tables that the migrations create; it runs again after them.
        if not pending or (recorded and isinstance(error, SystemCheckError)):
            raise
        answer({"unchecked": str(error)})


def settings_of_release(host):
    from django.apps import apps
    from django.conf import settings
    from django.core.cache import caches
    from django.core.cache.backends.filebased import FileBasedCache
    from django.core.files import storage
    from django.db.models import FileField
    from django.http.request import validate_host

    databases = settings.DATABASES
    name_of_default = databases.get("default", {}).get("NAME")
    sessions = settings.SESSION_FILE_PATH if settings.SESSION_ENGINE.endswith("sessions.backends.file") else None
    # Django has STORAGES since 4.2.
    storages = folders_of("STORAGES", getattr(storage, "storages", {}), storage.FileSystemStorage, "location")
    caches_in_files = folders_of("CACHES", caches, FileBasedCache, "_dir")
    return {
        "step": "collectstatic",
        "module": settings.SETTINGS_MODULE,
        "debug": bool(settings.DEBUG),
        "answers": validate_host(host, settings.ALLOWED_HOSTS),
        "hosts": list(settings.ALLOWED_HOSTS),
        "application": settings.WSGI_APPLICATION or "",
        "kept": [name for name, database in databases.items() if database.get("CONN_MAX_AGE", 0) != 0],
        "pooler": settings_for_pooler(databases.get("default", {})),
        "sqlite": [str(each.get("NAME")) for each in databases.values() if "sqlite" in each.get("ENGINE", "")],
        "parts": {name: os.environ[name] for name in ("PGHOST", "PGDATABASE", "PGUSER") if name in os.environ},
        "others": [name for name, database in databases.items() if database.get("NAME") != name_of_default],
        "collects": "django.contrib.staticfiles" in settings.INSTALLED_APPS,
        "static_url": settings.STATIC_URL or "",
        "static_root": str(settings.STATIC_ROOT or ""),
        "media_url": settings.MEDIA_URL or "",
        "media_root": str(settings.MEDIA_ROOT or ""),
        "stored": {
            f"{model._meta.label}.{field.name}": str(field.storage.location)
            for model in apps.get_models()
            for field in model._meta.get_fields()
            if isinstance(field, FileField) and isinstance(field.storage, storage.FileSystemStorage)
        },
        "storages": storages,
        "scratch": {**caches_in_files, **({"SESSION_FILE_PATH": str(sessions)} if sessions else {})},
    }


def settings_for_pooler(database):
    """Report the settings of a database that a pooler in transaction mode breaks, and those that it makes useless."""
    if os.environ.get("DISABLE_SERVER_SIDE_CURSORS") != "True":
        return {"breaks": [], "useless": []}
    options = database.get("OPTIONS") or {}
    breaks = [name for name in ("assume_role", "options") if options.get(name)]
    breaks += ["prepare_threshold"] if options.get("prepare_threshold") is not None else []
    breaks += [] if database.get("DISABLE_SERVER_SIDE_CURSORS") else ["DISABLE_SERVER_SIDE_CURSORS"]
    useless = ["CONN_MAX_AGE"] if database.get("CONN_MAX_AGE", 0) != 0 else []
    return {"breaks": breaks, "useless": useless + (["pool"] if options.get("pool") else [])}


def folders_of(setting, backends, kind, attribute):
    """Return the folders of the backends of a kind, under their names in the settings."""
    from django.conf import settings

    folders = {}
    for alias in getattr(settings, setting, ()):
        # A backend that cannot be created is not in use.
        with contextlib.suppress(Exception):
            # Without STATIC_ROOT the storage of static files has no folder.
            if isinstance(backends[alias], kind) and (folder := getattr(backends[alias], attribute)):
                folders[f"{setting}[{alias!r}]"] = str(folder)
    return folders


def pending_migrations():
    """Return whether migrations are pending, the recorded ones, and all names in the source (None if unknown)."""
    recorded = set()
    try:
        from django.db import connection
        from django.db.migrations.executor import MigrationExecutor

        executor = MigrationExecutor(connection)
        loader = executor.loader
        recorded = set(executor.recorder.applied_migrations())
        squashes = loader.replacements.items()
        pending = bool(executor.migration_plan(loader.graph.leaf_nodes())) or any(
            node not in recorded and recorded.issuperset(squash.replaces) for node, squash in squashes
        )
        return pending, recorded, [".".join(node) for node in loader.disk_migrations]
    except Exception:
        # The module migrate reports errors of migrations and of the database better.
        return True, recorded, None


class Plan:
    """The migrations to apply for this release, or to undo for another release, whose migrations are `known`."""

    def __init__(self, known):
        from django.db import connection
        from django.db.migrations.executor import MigrationExecutor

        self.executor = MigrationExecutor(connection)
        self.loader = loader = self.executor.loader
        recorded = set(self.executor.recorder.applied_migrations())
        self.known = {tuple(name.split(".", 1)) for name in known or ()}
        #: Apps with migrations of the other release that this release has squashed and removed.
        self.squashed = {app for app, name in (self.known & recorded) - set(loader.disk_migrations)}
        #: Squashes of applied migrations, which need only be recorded.
        self.squashes, self.steps = [], []
        if known is None:
            self.steps = self.executor.migration_plan(loader.graph.leaf_nodes())
            for node, migration in loader.replacements.items():
                if node not in recorded and recorded.issuperset(migration.replaces):
                    self.squashes.append(migration)
            return
        for node in loader.applied_migrations:
            if node not in loader.graph.nodes or node in self.known:
                continue
            replaces = loader.graph.nodes[node].replaces
            if replaces and self.known.issuperset(map(tuple, replaces)):
                continue
            for other in loader.graph.backwards_plan(node):
                step = (loader.graph.nodes[other], True)
                if other in loader.applied_migrations and step not in self.steps:
                    self.steps.append(step)

    def sql_of(self, step):
        try:
            return self.loader.collect_sql([step]), ""
        except Exception as error:
            return [], f"{type(error).__name__}: {error}"

    def irreversible(self, migration, backwards):
        if backwards and migration.app_label in self.squashed:
            yield "it may stand for migrations that the older release has"
        if backwards and (migration.app_label, migration.name) in self.known:
            yield "the older release has it too, and it needs one that is to be undone"
        for operation in migration.operations:
            if not operation.reversible:
                yield str(operation.describe())

    def describe(self, with_sql):
        described = [
            {
                "name": f"{migration.app_label}.{migration.name}",
                "new": False,
                "atomic": True,
                "does": ["written down, as all that it stands for is applied"],
                "irreversible": [],
                "sql": [],
                "unread": "",
            }
            for migration in self.squashes
        ]
        for migration, backwards in self.steps:
            sql, unread = self.sql_of((migration, backwards)) if with_sql else ([], "")
            described.append(
                {
                    "name": f"{migration.app_label}.{migration.name}",
                    "new": not any(app == migration.app_label for app, _name in self.loader.applied_migrations),
                    "atomic": migration.atomic,
                    "does": [str(operation.describe()) for operation in migration.operations],
                    "irreversible": list(self.irreversible(migration, backwards)),
                    "sql": sql,
                    "unread": unread,
                }
            )
        return described


def describe_plan(arguments, answer):
    """Report the migrations to apply or to undo, the columns of the database, and its large tables."""
    plan = Plan(arguments["known"])
    columns, large = {}, []
    if plan.steps and arguments["sql"]:
        columns, large = tables_of_database(arguments["large"])
    answer({"plan": plan.describe(arguments["sql"]), "columns": columns, "large": large})


def tables_of_database(rows_of_large):
    from django.db import connection

    columns, sizes, large = {}, {}, []
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                   a.atthasdef OR a.attidentity <> '', pg_relation_size(c.oid)
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND pg_table_is_visible(c.oid)
                AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND has_table_privilege(c.oid, 'SELECT')"""
        )
        for table, column, kind, default, size in cursor.fetchall():
            columns.setdefault(table, {})[column] = (kind, default)
            sizes[table] = size
        for table in [table for table, size in sizes.items() if size > 1_000_000]:
            name = connection.ops.quote_name(table)
            cursor.execute(f"SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT %s) AS rows", [rows_of_large])
            if cursor.fetchone()[0] >= rows_of_large:
                large.append(table)
    return columns, large


def migrate(arguments, answer):
    """Apply the migrations; a migration fails when it does not get a lock in time."""
    from django.core.management import call_command

    with lock_timeout(arguments["lock_timeout"]):
        call_command("migrate", interactive=False, no_color=True, skip_checks=arguments["unchecked"])


def undo_migrations(arguments, answer):
    """Undo the migrations that the other release does not have."""
    plan = Plan(arguments["known"])
    with lock_timeout(arguments["lock_timeout"]):
        plan.executor.migrate([], plan=plan.steps)


def lock_timeout(timeout):
    """Limit the time that statements wait for locks, except those that block no others.

    The limit is set on the connection, because OPTIONS of the settings or the environment would replace any other.
    """
    from django.db import connection
    from django.db.backends.signals import connection_created

    def limit(connection, **_options):
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [timeout])

    def give_way(execute, sql, params, many, context):
        index = r'(?is)\s*(CREATE|DROP|REINDEX)\b.*?\bCONCURRENTLY\s+(?:IF (?:NOT )?EXISTS\s+)?"?([^"\s]*)'
        found = re.match(index, str(sql))
        if not found:
            return execute(sql, params, many, context)
        # This statement waits for all earlier transactions, and no other waits for it.
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT quote_ident(c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE NOT i.indisvalid AND c.relname = %s AND pg_table_is_visible(c.oid)""",
                [found[2]],
            )
            # The invalid index of an interrupted statement would block the next attempt.
            left = cursor.fetchone() if found[1].upper() == "CREATE" else None
            if left:
                cursor.execute(f"DROP INDEX CONCURRENTLY {left[0]}")
            cursor.execute("SET lock_timeout = 0")
        done = execute(sql, params, many, context)
        limit(connection)
        return done

    limit(connection)
    connection_created.connect(limit, weak=False)
    return connection.execute_wrapper(give_way)


def open_transactions(arguments, answer):
    """Report other transactions that have been open for over a second; PostgreSQL hides queries of other roles."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT format('process %s of %s, %s, for %s s: %s', pid, usename, state,
                          round(extract(epoch FROM now() - xact_start)), left(query, 200))
            FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < now() - interval '1 second'
            ORDER BY xact_start"""
        )
        answer({"blockers": [row[0] for row in cursor.fetchall()]})


def names_of_migrations(arguments, answer):
    from django.db.migrations.loader import MigrationLoader

    answer({"migrations": [".".join(node) for node in MigrationLoader(None).disk_migrations]})


def tables_of_models(arguments, answer):
    """Report the columns of each table and whether they may be NULL, and those that the database fills."""
    from django.apps import apps

    tables, defaults = {}, {}
    for model in apps.get_models(include_auto_created=True):
        meta = model._meta
        table = meta.db_table.split(".")[-1].strip('"')
        tables.setdefault(table, {}).update({field.column: field.null for field in meta.local_concrete_fields})
        # Django has has_db_default since 5.0.
        filled = [field.column for field in meta.local_concrete_fields if getattr(field, "has_db_default", bool)()]
        defaults.setdefault(table, []).extend(filled)
    answer({"tables": tables, "defaults": defaults})
