# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Upgrade a cluster of PostgreSQL beside the old one, compare both, and exchange them; or go back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.commands import call, run
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file
from ansible_collections.django_vps.stack.plugins.module_utils.postgres_clusters import (
    CONFIGURATION,
    DATA,
    PORT,
    STEP,
    Cluster,
    Server,
    free_port,
    list_clusters,
    remove_rest,
    size_of,
)

#: Name of the cluster that the role configures.
MAIN = "main"
#: Unit of pg_upgradecluster, so that what a killed run has left can be stopped.
UNIT = "django_vps-upgrade.service"
#: Bytes that an upgrade needs beside the copy of the data.
RESERVE = 512 << 20

#: Rows of each table of the database, which the server counts by a query for each.
ROWS = """
SELECT format('%I.%I', n.nspname, c.relname), (xpath('/row/count/text()', query_to_xml(
    format('SELECT count(*) FROM %I.%I', n.nspname, c.relname), true, true, '')))[1]
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND c.relispopulated
AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1"""
#: Commands for extensions whose new version the packages have.
EXTENSIONS = """
SELECT format('ALTER EXTENSION %I UPDATE', name) FROM pg_available_extensions
WHERE installed_version <> default_version"""
#: Commands for indexes in the order of the database, if the C library or ICU has another one now.
DEFAULT_ORDER = """
SELECT unnest(ARRAY[format('REINDEX DATABASE %I', datname),
    format('ALTER DATABASE %I REFRESH COLLATION VERSION', datname)])
FROM pg_database WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)"""
#: Commands for indexes in another order. pg_upgrade does not keep the version of a collation that PostgreSQL brings.
INDEXES = """
SELECT DISTINCT format('REINDEX INDEX %s', d.objid::regclass) FROM pg_depend d
JOIN pg_collation o ON d.refclassid = 'pg_collation'::regclass AND d.refobjid = o.oid
JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'i'
WHERE o.collprovider IN ('c', 'i') AND pg_collation_actual_version(o.oid) IS NOT NULL"""
COLLATIONS = """
SELECT format('ALTER COLLATION %s REFRESH VERSION', o.oid::regcollation) FROM pg_collation o
WHERE o.collversion <> pg_collation_actual_version(o.oid)"""


@dataclass
class Record:
    """What a run that is interrupted leaves: the cluster to discard, and which one serves in place of which."""

    file: Path = Path("/var/lib/django_vps/postgres_upgrade.json")
    facts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.facts = json.loads(self.file.read_text())

    def write(self, **facts: str) -> None:
        """Keep these facts; those that are empty are removed."""
        self.facts = {name: value for name, value in {**self.facts, **facts}.items() if value}
        if self.facts:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.file, json.dumps(self.facts) + "\n")
        else:
            self.file.unlink(missing_ok=True)


@dataclass
class Plan:
    """The cluster that serves, the name of the one that is to serve, and whether there is something to do."""

    serving: Cluster | None
    target: str
    pending: bool


@dataclass
class Outcome:
    """Rows of each table, which are as many as before, and the commands that followed the upgrade."""

    rows: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Upgrade:
    """The clusters of a host, as far as the upgrade to a version concerns them."""

    def __init__(self, host: str, version: str, socket_dir: str, record: Record) -> None:
        self.host, self.version, self.socket_dir, self.record = host, version, socket_dir, record
        self.name = f"{version} {MAIN}"
        self.clusters = list_clusters()
        # The administrator can have removed the cluster.
        if not self.find(record.facts.get("serve", "")):
            record.facts.pop("serve", None)

    def find(self, name: str) -> Cluster | None:
        return next((cluster for cluster in self.clusters if str(cluster) == name), None)

    def new(self) -> Cluster:
        """Return the cluster of the new version; one that is unknown to the tools has no port."""
        return self.find(self.name) or Cluster(self.version, MAIN, 0, frozenset(), DATA / self.version / MAIN)

    def serving(self) -> Cluster | None:
        """Return the cluster with the port; after an exchange that was interrupted, the one that is to have it."""
        if begun := self.find(self.record.facts.get("serve", "")):
            return begun
        found = [cluster for cluster in self.clusters if cluster.port == PORT]
        if len(found) > 1:
            raise StepError(
                STEP,
                f"{' and '.join(map(str, found))} both have port {PORT} on {self.host}.",
                "Fix: give another port to the cluster without the data of the site:"
                f" sudo pg_conftool VERSION NAME set port {PORT + 1}",
            )
        return found[0] if found else None

    def plan(self) -> Plan:
        """Return what an upgrade has to do; StepError if it cannot succeed, or would lose data."""
        serving = self.serving()
        if serving and int(serving.version) > int(self.version):
            raise StepError(
                STEP,
                f"PostgreSQL {serving} has port {PORT} on {self.host}, and this distribution ships {self.version}.",
                "Fix: none; the stack manages the version of the distribution only.",
            )
        if serving and serving.version != self.version:
            self.require_programs(serving)
            self.require_no_other_data(serving)
            self.require_room(serving)
            return Plan(serving, self.name, pending=True)
        return Plan(serving, str(serving or ""), pending="serve" in self.record.facts)

    def require_programs(self, cluster: Cluster) -> None:
        if "binaries_missing" in cluster.status:
            raise StepError(
                STEP,
                f"the package postgresql-{cluster.version}, which reads the data of {cluster}, is not on {self.host}.",
                f"Fix: install postgresql-{cluster.version} from the earlier release of the distribution.",
            )

    def require_no_other_data(self, old: Cluster) -> None:
        new = self.new()
        if new.has_data and self.record.facts.get("discard") != self.name:
            drop = f"sudo pg_dropcluster --stop {new}" if new.port else f"sudo rm -r {new.data}"
            raise StepError(
                STEP,
                f"{old} and {new} both have databases on {self.host}.",
                f"Fix: remove {new} if nothing in it is needed: {drop}",
            )

    def require_room(self, old: Cluster) -> None:
        # A new cluster that is there already is removed first.
        free = shutil.disk_usage(DATA).free + size_of(self.new().data)
        need = size_of(old.data) + RESERVE
        if free < need:
            raise StepError(
                STEP,
                f"{DATA} has {free >> 20} MiB free on {self.host}, and the copy of {old} needs {need >> 20}.",
                f"Fix: remove files, or enlarge the disk. What fills it: sudo du -xm {DATA} | sort -n | tail",
            )

    def plan_back(self) -> Plan:
        """Return what the way back has to do; StepError if there is none."""
        serving = self.serving()
        if serving is None or int(serving.version) < int(self.version):
            # An upgrade can have been interrupted while nothing was serving.
            unfinished = "serve" in self.record.facts or bool(serving and not serving.is_serving)
            return Plan(serving, str(serving or ""), pending=unfinished)
        kept = [cluster for cluster in self.clusters if int(cluster.version) < int(serving.version)]
        if not (kept := [cluster for cluster in kept if cluster.has_data]):
            raise StepError(
                STEP,
                f"{serving} is the only cluster with data on {self.host}.",
                "Fix: to restore a set of the backup, see docs/backup.md",
            )
        target = max(kept, key=lambda cluster: int(cluster.version))
        self.require_programs(target)
        if target.is_standby != serving.is_standby:
            was, now = ("standby", "primary")[:: 1 if target.is_standby else -1]
            raise StepError(
                STEP,
                f"{self.host} was the {was} when it was upgraded, and is the {now} now.",
                "Fix: promote the former primary first: playbooks/promote.yml -e host=NAME",
            )
        return Plan(serving, str(target), pending=True)

    def upgrade(self, is_primary: bool) -> Outcome:
        """Let the new version serve; after a StepError the old one serves."""
        plan = self.plan()
        if not plan.pending or plan.serving is None:
            return Outcome()
        if "serve" in self.record.facts:
            self.exchange()
        if plan.serving.version == self.version:
            self.record.write(discard="")
            return Outcome()
        old, outcome = self.find(str(plan.serving)), Outcome()
        self.record.write(discard=self.name)
        try:
            self.clear(old)
            if is_primary:
                outcome = self.copy(old)
            else:
                # The role replaces this empty cluster by a standby.
                port = str(free_port(self.clusters))
                run(STEP, ["pg_createcluster", "--start-conf=manual", "--port", port, self.version, MAIN])
            self.record.write(serve=self.name, replaces=str(old))
            self.exchange()
        except (StepError, OSError) as error:
            self.restore(old)
            self.finish()
            if isinstance(error, OSError):
                raise StepError(STEP, str(error)) from error
            raise
        self.record.write(discard="")
        return outcome

    def back(self) -> None:
        """Let the old version serve; the new cluster stays until the next upgrade."""
        plan = self.plan_back()
        if not plan.pending or plan.serving is None:
            return
        if plan.target != str(plan.serving):
            self.record.write(serve=plan.target, replaces=str(plan.serving), discard=str(plan.serving))
        if "serve" in self.record.facts:
            self.exchange()
        else:
            self.restore(plan.serving)

    def is_served(self) -> bool:
        """Return whether a cluster serves at the moment."""
        self.clusters = list_clusters()
        serving = self.serving()
        return bool(serving and serving.is_serving)

    def finish(self) -> None:
        """Forget what a run needs that continues an interrupted one."""
        self.record.write(serve="", replaces="")

    def clear(self, old: Cluster) -> None:
        """Stop everything, and remove a new cluster that is incomplete or no longer wanted."""
        call("systemctl", "stop", UNIT)
        old.stop()
        self.clusters = list_clusters()
        if new := self.find(self.name):
            new.drop()
        remove_rest(self.version, MAIN)
        self.clusters = list_clusters()

    def restore(self, old: Cluster) -> None:
        """Let the old cluster serve as before, without a new one that is incomplete."""
        self.record.write(serve=str(old), replaces=self.name)
        if self.record.facts.get("discard") == self.name:
            self.clear(old)
        self.exchange()
        self.record.write(discard="")

    def exchange(self) -> None:
        """Let the recorded cluster serve in place of the other one, however far an earlier run came."""
        self.clusters = list_clusters()
        cluster, other = (self.find(self.record.facts[name]) for name in ("serve", "replaces"))
        steps_back = other and (other.port == PORT or "manual" not in other.status)
        if steps_back or not cluster.is_serving:
            for one in filter(None, (other, cluster)):
                one.stop()
        # A run that is killed between the two leaves the port to both, which site.yml refuses.
        cluster.configure(PORT, "auto")
        if steps_back:
            free = free_port(one for one in self.clusters if one != cluster)
            other.configure(free if other.port == PORT else other.port, "manual")
        cluster.start(self.socket_dir)
        self.clusters = list_clusters()

    def copy(self, old: Cluster) -> Outcome:
        """Make the new cluster from a copy of the data, and verify it."""
        with old.private_server() as server:
            rows = count(server)
        copy_settings(old.etc / "conf.d", CONFIGURATION / self.version / MAIN / "conf.d")
        wrapper = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={UNIT}"]
        options = ["--method=upgrade", f"--jobs={os.cpu_count()}", "--keep-port", "--no-start", f"--rename={MAIN}"]
        argv = [*wrapper, "--setenv=LC_ALL=C.UTF-8", "pg_upgradecluster", *options, "-v", self.version]
        run(STEP, [*argv, old.version, old.name])
        self.clusters = list_clusters()
        with self.find(self.name).private_server() as server:
            compare(rows, count(server))
            notes = refresh(server)
        return Outcome(rows, notes)


def copy_settings(old: Path, new: Path) -> None:
    """Copy the files that the role has not written already; pg_upgradecluster copies postgresql.conf only."""
    new.mkdir(parents=True, exist_ok=True)
    for file in old.glob("*.conf"):
        if not (new / file.name).exists():
            status = file.stat()
            shutil.copy2(file, new)
            os.chown(new / file.name, status.st_uid, status.st_gid)


def count(server: Server) -> dict[str, str]:
    lines = ((name, line.rpartition("|")) for name in server.databases() for line in server.sql(name, ROWS))
    return {f"{database} {table}": number for database, (table, _bar, number) in lines}


def compare(before: dict[str, str], after: dict[str, str]) -> None:
    different = sorted(table for table in {*before, *after} if before.get(table) != after.get(table))
    if different:
        found = ", ".join(f"{table} has {after.get(table)} instead of {before.get(table)}" for table in different)
        raise StepError(STEP, f"the new cluster has another number of rows: {found}")


def refresh(server: Server) -> list[str]:
    """Update extensions, indexes and statistics; return the commands, with the message of those that failed."""
    notes = []
    for database in server.databases():
        for query in (EXTENSIONS, DEFAULT_ORDER, INDEXES, COLLATIONS):
            for command in server.sql(database, query):
                notes.append(f"{database}: {command}")
                try:
                    server.sql(database, command)
                except StepError as error:
                    # An extension works with its old version too. An index in the wrong order does not.
                    if query != EXTENSIONS:
                        raise
                    notes[-1] += f" failed: {error.cause}"
    server.program("vacuumdb", "--all", "--analyze-only", "--quiet", f"--jobs={os.cpu_count()}")
    return notes
