"""Points in time: base backups of the cluster and its WAL, which pgBackRest keeps.

pgBackRest backs up the whole cluster. A restore makes a copy of the cluster as of the time that is wanted, and dumps
one database of the copy; from there on it is the restore of any other dump.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from database import DATA, Database, as_postgres, programs_of_server, run_server
from settings import DUMP, OLD, BackupError, Site, require_room, utc

#: Seconds after which the newest full backup is too old for another differential one: a week without the delay of the
#: timer. And those after which it is too old at all.
WEEK, OLD_FULL = 6.5 * 86400, 9 * 86400
#: Seconds that WAL may wait for its archive, where the setting archive_timeout is a minute.
LATE = 300
#: Code of the answer of pgBackRest about a repository that it cannot read.
UNREADABLE = 99
#: What PostgreSQL says when the WAL ends before the time.
TOO_SHORT = "recovery ended before configured recovery target was reached"
#: A segment of WAL in the repository: timeline, and the two halves of its number.
SEGMENT = re.compile(r"/[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})-[0-9a-f]{40}")
#: What a run on a standby says.
ON_STANDBY = "this host has the standby; the primary archives the WAL"


class PgBackRest:
    """Runs pgBackRest on the cluster that has the database of a site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.live = Database(site.socket_dir, "postgres")

    def run(self, *argv: str, limit: str = "0") -> str:
        """Run a command, for a number of seconds at most, where 0 is no limit."""
        options = (f"--config={self.site.archive['config']}", f"--stanza={self.site.name}")
        try:
            return as_postgres("timeout", limit, "pgbackrest", *options, *argv).stdout
        except BackupError as error:
            raise BackupError(f"backup_point_in_time: {error}".replace(": timeout:", ": pgbackrest:")) from None

    def ask(self, *argv: str) -> dict | list:
        """Return the answer to a question, within a minute."""
        return json.loads(self.run(*argv, "--output=json", "--io-timeout=5", limit="60"))

    def open(self, is_replaced: bool = False) -> str:
        """Create the folder and what pgBackRest knows of the cluster, unless they exist."""
        if self.live.is_standby():
            return ON_STANDBY
        if folder := self.site.archive["folder"]:
            Path(folder).parent.mkdir(parents=True, exist_ok=True)
            Path(folder).mkdir(exist_ok=True, mode=0o700)
            shutil.chown(folder, "postgres", "postgres")
        cluster, known = self.cluster(), self.info().get("db")
        if not known:
            self.run("stanza-create")
        elif str(known[-1]["system-id"]) != cluster:
            # An upgrade of PostgreSQL and the restore of a lost server make a new cluster; another server with the same
            # settings must not take the repository from this one.
            if not is_replaced and not self.site.state.get("cluster"):
                raise BackupError(
                    "backup_point_in_time: the repository has the WAL of another cluster. Fix: if this server replaces"
                    " a lost one, add -e restore=latest; otherwise set another backup_repository"
                )
            self.run("stanza-upgrade")
        if self.site.state.get("cluster") != cluster:
            self.site.note(cluster=cluster)
        return "pgBackRest knows the cluster"

    def cluster(self) -> str:
        """Return the number that tells the cluster from all others."""
        return self.live.sql("SELECT system_identifier FROM pg_control_system()")

    def info(self) -> dict:
        info = self.ask("info")[0]
        if info["status"]["code"] == UNREADABLE:
            said = info["repo"][0]["status"]["message"].splitlines()[0]
            raise BackupError(f"backup_point_in_time: the repository cannot be read: {said}")
        return info

    def backups(self, info: dict | None = None) -> list[dict]:
        """Return the base backups, the oldest first."""
        return sorted((info or self.info()).get("backup", []), key=ended)

    def back_up(self) -> str:
        """Make a full backup if the newest one is a week old, otherwise a differential one."""
        said = self.open()
        if self.live.is_standby():
            return said
        info = self.info()
        cluster = info["db"][-1]["id"]
        full = [one for one in self.backups(info) if one["type"] == "full" and one["database"]["id"] == cluster]
        kind = "diff" if full and time.time() - ended(full[-1]) < WEEK else "full"
        self.run("backup", f"--type={kind}")
        return describe(self.backups()[-1])

    def begin(self) -> str:
        """Begin a base backup, with the unit of the next ones, unless all WAL since the last one is archived."""
        if self.live.is_standby():
            return ON_STANDBY
        # Waits until a segment is in the repository. It shows a gap too: WAL of the time in which another repository
        # had it, or none.
        self.run("check")
        info = self.info()
        if any(one["database"]["id"] == info["db"][-1]["id"] for one in self.backups(info)) and not self.gap(info):
            return "the cluster has a base backup"
        subprocess.run(["systemctl", "start", "--no-block", f"{self.site.name}-backup-base.service"], check=True)
        return "a base backup begins; points in time begin with its end"

    def watch(self) -> str:
        """Fail unless the WAL of the last minutes is archived without a gap."""
        said = self.open()
        if self.live.is_standby():
            return said
        if problems := self.problems(self.info()):
            raise BackupError("backup_point_in_time: " + "; ".join(problems))
        return "all WAL is archived"

    def problems(self, info: dict) -> list[str]:
        """Return what keeps the database from being restored to any time since the newest base backup."""
        query = """
            SELECT current_setting('archive_mode') = 'on' AND current_setting('archive_command') LIKE '%pgbackrest%',
                coalesce(extract(epoch FROM now() - min(modification)), 0)::int, count(*)
            FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'
        """
        is_on, late, waiting = self.live.sql(query).split("|")
        if is_on != "t":
            return ["PostgreSQL does not archive its WAL; run site.yml"]
        problems = []
        if int(late) > LATE:
            problems.append(
                f"{waiting} segments of WAL wait to be archived, the first for {int(late) // 60} min; the cause is in"
                " the log of PostgreSQL"
            )
        if gap := self.gap(info):
            problems.append(gap)
        return problems

    def gap(self, info: dict) -> str:
        """Return which WAL is missing since the newest base backup; empty if none is."""
        known = self.backups(info)
        end, beyond = self.reach(info, known[-1]) if known else (0, 0)
        if not beyond:
            return ""
        return f"the WAL between {utc(end)} and {utc(beyond)} is missing; the next base backup ends this"

    def reach(self, info: dict, base: dict) -> tuple[float, float]:
        """Return when the last segment that follows a base backup was archived, and the first one after a gap, or 0."""
        archive = next(one["id"] for one in info["archive"] if one["database"]["id"] == base["database"]["id"])
        listed = self.ask("repo-ls", "--recurse", f"archive/{self.site.name}/{archive}")
        segments = {number(found): one["time"] for name, one in listed.items() if (found := SEGMENT.search(f"/{name}"))}
        last = number(SEGMENT.match(f"/{base['archive']['stop']}-{'0' * 40}"))
        while last + 1 in segments:
            last += 1
        return segments.get(last, ended(base)), min((at for each, at in segments.items() if each > last), default=0)

    def flush(self) -> None:
        """Archive what was written up to now, and a commit after it, at which recovery to the present stops."""
        with contextlib.suppress(BackupError):
            self.live.sql("SELECT pg_current_xact_id()")
            self.run("check", "--archive-timeout=30")

    def find(self, at: float | None, is_recovery: bool = False) -> dict | None:
        """Return what restores a time, or the last moment; None if all base backups are later.

        A recovery does not want what the cluster of the new server has archived.
        """
        info, known = self.info(), self.cluster() if is_recovery else None
        wanted = [one["id"] for one in info["db"] if str(one["system-id"]) != known]
        fitting = [
            one for one in self.backups(info) if one["database"]["id"] in wanted and (at is None or ended(one) < at)
        ]
        if not fitting:
            return None
        base = fitting[-1]
        if at:
            self.flush()
        end, beyond = self.reach(info, base)
        if at and end <= at:
            until = f"until {utc(beyond)}" if beyond else "from then on"
            raise BackupError(
                f"restore_to: {utc(at)} cannot be restored: the WAL after {utc(end)} is missing {until}."
                " Fix: name another time, or the id of a set"
            )
        version = next(one["version"] for one in info["db"] if one["id"] == base["database"]["id"])
        if not installed(version):
            raise BackupError(
                f"restore_to: {utc(at or ended(base))} is of PostgreSQL {version}, which this host does not have."
                f" Fix: name the id of a set, or install postgresql-{version}"
            )
        require_room(DATA, base["info"]["size"], "the copy of the cluster")
        return {"point": at, "base": base, "version": version}

    @contextlib.contextmanager
    def copy_of_cluster(self, one: dict) -> Iterator[Database]:
        """Run a copy of the cluster as of a time until the block ends; yield the database of the site in it."""
        data, at = DATA / f"{self.site.name}-restore", one["point"]
        tablespaces = data.with_name(f"{data.name}-tablespaces")
        target = ["--type=time", f"--target={timestamp(at)}", "--target-action=promote"] if at else []
        settings = {
            name: self.live.sql(f"SHOW {name}") for name in ("shared_preload_libraries", "max_prepared_transactions")
        }
        # The copy has the subscriptions of the cluster, and must not fetch for them.
        settings |= {"hot_standby": "off", "max_logical_replication_workers": "0"}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        try:
            with run_server(programs_of_server(one["version"]), data, data, options) as start:
                shutil.rmtree(tablespaces, ignore_errors=True)
                require_room(DATA, one["base"]["info"]["size"], "the copy of the cluster")
                as_postgres("mkdir", "-m", "700", str(data), str(tablespaces))
                places = (f"--pg1-path={data}", f"--tablespace-map-all={tablespaces}")
                self.run("restore", f"--set={one['base']['label']}", "--archive-mode=off", *places, *target)
                # Those of Debian's clusters are in /etc.
                as_postgres("tee", f"{data}/postgresql.conf", f"{data}/pg_ident.conf", input="")
                as_postgres("tee", f"{data}/pg_hba.conf", input="local all all peer\n")
                try:
                    start()
                except BackupError:
                    said = as_postgres("sed", "-n", "/FATAL\\|PANIC/p", f"{data}/log").stdout.strip()
                    raise BackupError(explain(at, said)) from None
                yield Database(str(data), self.site.database)
        finally:
            shutil.rmtree(tablespaces, ignore_errors=True)

    def fetch(self, one: dict, folder: Path) -> dict:
        """Dump the database as of a time into a folder, and return the manifest of the dump."""
        with self.copy_of_cluster(one) as database:
            require_room(folder, database.size(), "the dump")
            rows = database.dump(folder / DUMP)
            return {"rows": rows, "roles": database.roles(), "bytes": (folder / DUMP).stat().st_size}

    def describe_state(self) -> list[str]:
        """Return lines about the base backups and the WAL; a problem starts with an exclamation mark."""
        if self.live.is_standby():
            return [f"point in time: {ON_STANDBY}"]
        try:
            info = self.info()
            problems, known = self.problems(info), self.backups(info)
        except BackupError as error:
            return [f"! point in time: {error}"]
        lines = [f"! point in time: {problem}" for problem in problems]
        if not known:
            return [
                *lines,
                "point in time: no base backup yet; the first one is being made, or the next night makes one",
            ]
        end, _beyond = self.reach(info, known[-1])
        lines.append(f"point in time: from {utc(ended(known[0]))} on; WAL archived up to {utc(end)}")
        for kind, old in (("full", OLD_FULL), ("", OLD)):
            one = [each for each in known if kind in each["type"]][-1]
            lines.append(f"{'! ' if time.time() - ended(one) > old else ''}{describe(one)}")
        if known[-1]["error"]:
            lines.append("! point in time: the newest base backup has found damaged pages in the database")
        return list(dict.fromkeys(lines))


def installed(version: str) -> bool:
    return (programs_of_server(version) / "postgres").exists()


def explain(at: float | None, said: str) -> str:
    if at and TOO_SHORT in said:
        return f"restore_to: the WAL ends before {utc(at)}. Fix: name an earlier time, or the id of a set"
    return f"restore_to: PostgreSQL does not start on the copy of the cluster: {said}"


def ended(base: dict) -> float:
    return base["timestamp"]["stop"]


def describe(base: dict) -> str:
    kind = {"full": "full", "diff": "differential", "incr": "incremental"}[base["type"]]
    size = base["info"]["repository"]["delta"] / 1e6
    return f"newest {kind} base backup: of {utc(ended(base))}, {size:.1f} MB"


def number(segment: re.Match) -> int:
    """Return the number of a segment, which goes on when the timeline changes."""
    return int(segment[1], 16) * 256 + int(segment[2], 16)


def timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
