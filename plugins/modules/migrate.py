#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: migrate
short_description: Apply the migrations of a release, or undo them for an older one
version_added: 1.0.0
description:
  - Finds the migrations of the release that are not applied to its database C(default). Without any, nothing changes.
  - While another release is live, reads the SQL of the migrations first and compares it with the models of that
    release. Changes that would break the live release are refused, with a description of what to do instead.
  - All other transactions queue behind a migration that waits for a lock, so it fails after O(lock_timeout). Three
    attempts are made, but only one if the migration is not atomic, because a part of it may be done. No transaction
    queues behind an index that is built C(CONCURRENTLY), so its wait has no limit; an invalid index of that name is
    dropped before.
  - Displays a migration that takes longer than ten seconds while it runs.
  - With O(back_to) undoes the migrations that the older release does not have, in reverse order, by the code of the
    newer one. When one of them cannot be undone, or a squash makes that unknown, none is undone.
options:
  home:
    description: Folder of the site on the host.
    type: path
    required: true
  manage:
    description:
      - Program that runs C(manage.py) of a release in the environment of the site, with C(--release=ID), and with
        C(--owner) as the owner of the tables.
    type: path
    required: true
  release:
    description: Id of the release whose migrations are applied or undone.
    type: str
    required: true
  back_to:
    description: Id of an older release. The migrations of O(release) that it does not have are undone.
    type: str
  lock_timeout:
    description: Longest time that a statement waits for a lock, in the notation of PostgreSQL.
    type: str
    default: 5s
  allow_breaking:
    description: Whether to migrate even if that breaks the live release.
    type: bool
    default: false
  restore_point:
    description:
      - The set of the backup that restores the database as it was before, with its C(set) and C(time). The journal of
        the switch to O(release) has it.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Reads and checks the plan, and applies no migration.
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
  description: One line for each migration, in the order in which they run.
  returned: always
  type: list
  elements: str
  sample: ["notes.0002_note_colour: Add field colour to note"]
irreversible:
  description: When O(back_to) is set, the migrations that cannot be undone, each with the reason.
  returned: always
  type: list
  elements: str
restores:
  description: >-
    When O(back_to) is set, whether the undone migrations restore tables or columns, which the older release can need to
    start.
  returned: always
  type: bool
"""

import contextlib
import json
import re
import time
from collections.abc import Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils import project_scripts as scripts
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.migrations import Database, find_breaking, progress_file
from ansible_collections.django_vps.stack.plugins.module_utils.project_shell import ask_project
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

#: Attempts to run a migration that waits for a lock, and the seconds between them.
ATTEMPTS = 3
RETRY_SECONDS = 5

#: The line that Django prints when a migration begins.
APPLYING = re.compile(r"^  (?:Applying|Unapplying) (\S+?)\.\.\.", re.MULTILINE)

#: Fewest rows of a large table; an index on a smaller table takes well under a second.
LARGE_TABLE_ROWS = 100_000


class Migrate:
    """The migrations between the database and a release."""

    def __init__(self, options: dict) -> None:
        self.options = options
        self.site = Site(options["home"])
        self.manage = options["manage"]
        self.under_way = ""
        #: The transactions that a migration has waited for.
        self.waited: list[str] = []
        self.back_to = options["back_to"]
        known = None
        if self.back_to:
            known = (self.site.facts(self.back_to) or {}).get("migrations")
            if known is None:
                argv = [self.manage, f"--release={self.back_to}", "--owner"]
                known = ask_project("migrate", argv, scripts.names_of_migrations, {})[0]["migrations"]
        live = self.site.live
        self.running = live if live and live != options["release"] and self.site.facts(live) else None
        # Without a live release no migration can break it.
        self.arguments = {
            "known": known,
            "sql": bool(self.back_to or self.running),
            "large": LARGE_TABLE_ROWS,
            "lock_timeout": options["lock_timeout"],
            # Checks that need the migrations run after them.
            "unchecked": bool((self.site.facts(options["release"]) or {}).get("unchecked")),
        }

    def ask(self, script: Callable, release: str | None = None, **more) -> dict:
        argv = [self.manage, f"--release={release or self.options['release']}", "--owner"]
        return ask_project("migrate", argv, script, self.arguments, **more)[0]

    def read(self) -> None:
        try:
            facts = self.ask(scripts.describe_plan)
        except StepError as error:
            advice = error.advice
            if "Peer authentication failed" in error.output:
                advice = (
                    "Let the settings read DATABASE_URL or PGUSER, or give the user of the database by django_env as"
                    ' "{{ site_database_user }}", which is the owner of the tables in migrations'
                    " (site_database_separate_owner)."
                )
            raise StepError(error.step, error.cause, advice, details=error.details) from None
        self.plan, self.columns, self.large = facts["plan"], facts["columns"], facts["large"]

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
        """Refuse changes that break the live release."""
        if not self.plan or not self.running or self.back_to or self.options["allow_breaking"]:
            return
        models = self.ask(scripts.tables_of_models, self.running)
        database = Database(models["tables"], self.columns, set(self.large), models["defaults"])
        findings = find_breaking(self.plan, database)
        unread = [
            f"{entry['name']} does: {entry['unread']}" for entry in self.plan if entry["unread"] and not entry["new"]
        ]
        if not findings and not unread:
            return
        lines = [f"- {finding}" for finding in findings]
        lines += [f"- the check cannot read what {line}" for line in unread]
        advice = list(dict.fromkeys(finding.advice for finding in findings))
        accept = "Or accept that requests fail until the switch: -e django_allow_breaking_migrations=true"
        raise StepError(
            "migrate",
            f"the release that serves, {self.running}, cannot live with this:\n" + "\n".join(lines),
            "\n".join([*advice, accept]),
        )

    def apply(self) -> None:
        """Run the plan, and try again when transactions hold a lock for long."""
        if self.back_to:
            # If the run dies before another release is live, the next deploy must apply them again.
            self.site.note(self.options["release"], undone=True)
        elif self.running and (restore_point := self.options["restore_point"]).get("set"):
            self.site.add_restore_point(self.running, restore_point)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.ask(scripts.undo_migrations if self.back_to else scripts.migrate, watch=self.note_progress)
            except StepError as error:
                # psycopg and psycopg2 have this name of the exception in any language of the server.
                if "LockNotAvailable" not in error.output:
                    raise self.failure(error) from None
                self.waited = self.blockers()
                if attempt == ATTEMPTS or self.begun_for_good(error):
                    times = f"{attempt} times " * (attempt > 1)
                    held = f"{times}another session held a lock for more than {self.options['lock_timeout']}"
                    end = "sudo -u postgres psql -c 'SELECT pg_terminate_backend(PID)'"
                    advice = f"Let them end, or end them on the host: {end}."
                    cause = "\n".join([held, *self.waited, error.cause])
                    raise StepError("migrate", cause, advice, details=error.details) from None
                time.sleep(RETRY_SECONDS)
            else:
                break
        if not self.back_to and (self.site.facts(self.options["release"]) or {}).get("undone"):
            self.site.note(self.options["release"], undone=False)

    def note_progress(self, output: str) -> None:
        """Write the migration that runs to the file that the action plugin reads."""
        migration = (APPLYING.findall(output) or [""])[-1]
        if migration != self.under_way:
            self.under_way = migration
            progress = {"migration": migration, "since": int(time.time())}
            write_file(progress_file(self.options["home"]), json.dumps(progress) + "\n", 0o600)

    @staticmethod
    def begun(error: StepError) -> list[str]:
        return APPLYING.findall(error.output)[-1:]

    def begun_for_good(self, error: StepError) -> bool:
        """Return whether a part of the failed migration may be permanent, so that a second attempt is not safe."""
        atomic = {entry["name"]: entry["atomic"] for entry in self.plan}
        return not all(atomic.get(name, True) for name in (self.begun(error) or atomic))

    def failure(self, error: StepError) -> StepError:
        """Return an error: first the failed migration and the cause, then the part of the plan that is done."""
        begun = self.begun(error)
        # The error is the first line of an explained traceback, but the last line of a message.
        first = error.cause if error.details else error.cause.splitlines()[-1]
        plan = self.ask(scripts.describe_plan)["plan"]
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
        """Return the transactions that have been open for longer than a second."""
        try:
            return self.ask(scripts.open_transactions)["blockers"]
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
            "restore_point": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    result: dict = {"plan": [], "irreversible": [], "restores": False}
    try:
        migrate = Migrate(module.params)
        # A migration of an interrupted run can still work.
        with contextlib.nullcontext() if module.check_mode else lock_site(migrate.site.home):
            migrate.read()
            result = {
                "plan": migrate.lines(),
                "irreversible": migrate.irreversible(),
                "restores": migrate.restores(),
                "diff": {"before": "", "after": "".join(f"{line}\n" for line in migrate.lines())},
            }
            migrate.judge()
            if migrate.plan and not module.check_mode:
                if result["irreversible"]:
                    raise StepError("migrate", "these cannot be undone:\n" + "\n".join(result["irreversible"]))
                try:
                    migrate.apply()
                finally:
                    progress_file(module.params["home"]).unlink(missing_ok=True)
        for line in migrate.waited:
            module.warn(f"the migration had to wait for {line}")
        module.exit_json(changed=bool(migrate.plan), **result)
    except StepError as error:
        module.fail_json(msg=f"{error}\n{Site(module.params['home']).describe_live()}", step=error.step, **result)


if __name__ == "__main__":
    main()
