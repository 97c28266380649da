"""The clusters of a host before, during and after an upgrade, and after a run that was killed at any command."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.django_vps.stack.plugins.filter.upgrade_plan import upgrade_plan
from ansible_collections.django_vps.stack.plugins.module_utils import postgres_clusters, postgres_upgrade
from ansible_collections.django_vps.stack.plugins.module_utils.commands import Outcome
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.postgres_upgrade import Record, Upgrade
from ansible_collections.django_vps.stack.plugins.modules import postgres_upgrade as module

ROWS = {"public.notice": "3"}


class Killed(BaseException):
    """The end of the program at a command."""


@dataclass
class Fake:
    version: str
    port: int
    rows: dict[str, str] = field(default_factory=dict)
    runs: str = ""
    is_enabled: bool = False


class Host:
    """A host that runs the commands on its own idea of clusters."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fakes, self.commands = folder, {}, []
        self.fuse, self.fails, self.loses = -1, (), False
        self.statements: dict[str, list[str]] = {}

    def add(self, version: str, port: int, *, start: str = "auto", runs: str = "unit", rows=ROWS, signal=False) -> Fake:
        fake = self.fakes[f"{version} main"] = Fake(version, port, dict(rows), runs, start == "auto")
        etc, data = self.folder / f"etc/{version}/main", self.folder / f"data/{version}/main"
        (etc / "conf.d").mkdir(parents=True, exist_ok=True)
        (data / "base" / ("16385" if rows else "5")).mkdir(parents=True, exist_ok=True)
        (etc / "postgresql.conf").write_text("")
        (etc / "start.conf").write_text(f"{start}\n")
        if signal:
            (data / "standby.signal").touch()
        return fake

    def remove(self, name: str) -> None:
        version = self.fakes.pop(name).version
        shutil.rmtree(self.folder / f"data/{version}/main")
        for file in (self.folder / f"etc/{version}/main").glob("*.conf"):
            file.unlink()

    def clear(self) -> None:
        for name in [*self.fakes]:
            self.remove(name)
        for folder in ("state", "data"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)

    def start_of(self, fake: Fake) -> str:
        return (self.folder / f"etc/{fake.version}/main/start.conf").read_text().split("\n")[-2]

    def listed(self) -> str:
        rows = []
        for fake in self.fakes.values():
            status = f"{'online' if fake.runs else 'down'},{self.start_of(fake)}"
            if not (self.folder / f"programs/{fake.version}").exists():
                status += ",binaries_missing"
            data = self.folder / f"data/{fake.version}/main"
            rows.append(f"{fake.version} main {fake.port} {status} postgres {data} /var/log/postgresql/x.log")
        return "\n".join(rows)

    def call(self, *argv: str) -> Outcome:
        self.commands.append(" ".join(argv))
        if argv[0] == "pg_lsclusters":
            return Outcome(0, self.listed(), "")
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed
        if any(word in argv for word in self.fails):
            return Outcome(1, "", "it fails")
        return self.perform([*argv])

    def run(self, step: str, argv: list[str], advice: str = "") -> str:
        done = self.call(*argv)
        if done.code:
            raise StepError(step, done.stderr, advice)
        return done.stdout

    def perform(self, argv: list[str]) -> Outcome:
        if argv[0] == "runuser":
            argv = argv[4:]
            return self.query(argv) if argv[0] == "psql" else self.control(argv)
        if argv[:2] == ["systemctl", "daemon-reload"] or argv[-1] == postgres_upgrade.UNIT:
            return Outcome(0, "", "")
        if argv[0] == "systemctl":
            version = argv[-1].removeprefix("postgresql@").partition("-")[0]
            fake = self.fakes[f"{version} main"]
            if argv[1] == "is-active":
                return Outcome(0 if fake.runs == "unit" else 3, "", "")
            if argv[1] in ("enable", "disable"):
                fake.is_enabled = argv[1] == "enable"
            elif argv[1] == "start":
                fake.runs = "unit"
            elif fake.runs == "unit":
                fake.runs = ""
        elif argv[0] == "pg_conftool":
            self.fakes[f"{argv[1]} {argv[2]}"].port = int(argv[-1])
        elif argv[0] == "pg_dropcluster":
            self.remove(" ".join(argv[1:]))
        elif argv[0] == "pg_createcluster":
            self.add(argv[-2], int(argv[-3]), start="manual", runs="", rows={})
        elif argv[0] == "systemd-run":
            return self.upgrade_cluster(argv)
        return Outcome(0, "", "")

    def upgrade_cluster(self, argv: list[str]) -> Outcome:
        old, new = self.fakes[" ".join(argv[-2:])], argv[argv.index("-v") + 1]
        assert (old.runs, f"{new} main" in self.fakes) == ("", False)
        folder = self.folder / f"data/{new}/main"
        assert not folder.exists()
        folder.mkdir(parents=True)
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed
        rows = dict.fromkeys(old.rows, "2") if self.loses else old.rows
        self.add(new, 5433, start=self.start_of(old), runs="", rows=rows)
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed
        (self.folder / f"etc/{old.version}/main/start.conf").write_text("manual\n")
        return Outcome(0, "", "")

    def control(self, argv: list[str]) -> Outcome:
        if "pg_ctl" not in argv[0]:
            return Outcome(0, "", "")
        fake = self.fakes[f"{argv[0].split('/')[-3]} main"]
        if "status" in argv:
            return Outcome(0 if fake.runs else 3, "", "")
        fake.runs = "private" if "start" in argv else ""
        return Outcome(0, "", "")

    def query(self, argv: list[str]) -> Outcome:
        socket, port, database, query = (argv[argv.index(option) + 1] for option in ("-h", "-p", "-d", "-c"))
        kind = "private" if socket == str(postgres_clusters.PRIVATE) else "unit"
        [fake] = [fake for fake in self.fakes.values() if (fake.port, fake.runs) == (int(port), kind)]
        if "server_version_num" in query:
            return Outcome(0, fake.version, "")
        if "datallowconn" in query:
            return Outcome(0, "postgres\nshop", "")
        if query == postgres_upgrade.ROWS:
            lines = [f"{table}|{number}" for table, number in fake.rows.items()] if database == "shop" else []
            return Outcome(0, "\n".join(lines), "")
        lines = self.statements.get(query, []) if database == "shop" else []
        return Outcome(1 if "BROKEN" in query else 0, "\n".join(lines), "ERROR: broken")


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Host(tmp_path)
    for version in ("15", "17"):
        (tmp_path / "programs" / version).mkdir(parents=True)
    for name, folder in (("CONFIGURATION", "etc"), ("DATA", "data"), ("PROGRAMS", "programs"), ("PRIVATE", "private")):
        monkeypatch.setattr(postgres_clusters, name, tmp_path / folder)
        monkeypatch.setattr(postgres_upgrade, name, tmp_path / folder, raising=False)
    monkeypatch.setattr(postgres_clusters, "RUNTIME", tmp_path)
    monkeypatch.setattr(postgres_clusters.shutil, "chown", lambda *_: None)
    for place in (postgres_clusters, postgres_upgrade):
        monkeypatch.setattr(place, "call", made.call)
        monkeypatch.setattr(place, "run", made.run)
    return made


def upgrade_of(host: Host) -> Upgrade:
    return Upgrade("vps1", "17", "/run/postgresql", Record(host.folder / "state/record.json"))


def state(host: Host) -> dict[str, tuple]:
    """What is there of each cluster: port, at boot, how it runs, rows."""
    for fake in host.fakes.values():
        assert fake.is_enabled == (host.start_of(fake) == "auto")
    return {name: (fake.port, host.start_of(fake), fake.runs, fake.rows) for name, fake in host.fakes.items()}


BEFORE = {"15 main": (5432, "auto", "unit", ROWS)}
AFTER = {"15 main": (5433, "manual", "", ROWS), "17 main": (5432, "auto", "unit", ROWS)}


def test_upgrade_keeps_the_old_cluster_and_the_way_back(host):
    host.add("15", 5432)
    (host.folder / "etc/15/main/conf.d/own.conf").write_text("work_mem = 8MB")
    upgrade = upgrade_of(host)
    outcome = upgrade.upgrade(True)
    assert outcome.rows == {"shop public.notice": "3"}
    assert state(host) == AFTER
    assert (host.folder / "etc/17/main/conf.d/own.conf").exists()
    assert any("vacuumdb" in command and "--analyze-only" in command for command in host.commands)
    # Until the site is open again.
    assert upgrade_of(host).plan().pending
    upgrade_of(host).finish()
    assert not upgrade_of(host).plan().pending
    assert not (host.folder / "state/record.json").exists()

    host.commands.clear()
    upgrade_of(host).upgrade(True)
    assert not [command for command in host.commands if "lsclusters" not in command]

    upgrade_of(host).back()
    assert state(host) == {"15 main": (5432, "auto", "unit", ROWS), "17 main": (5433, "manual", "", ROWS)}
    upgrade_of(host).finish()
    assert not upgrade_of(host).plan_back().pending
    # The new cluster has the data that the way back has given up.
    host.fakes["17 main"].rows = {"public.notice": "9"}
    upgrade_of(host).upgrade(True)
    assert state(host) == AFTER


def kill_at_each_command(host: Host, prepare, action):
    """Kill the action at one command after the other, until it gets through."""
    for fuse in range(1, 200):
        host.clear()
        prepare()
        host.fuse = fuse
        try:
            action()
        except Killed:
            host.fuse = -1
            yield
        else:
            host.fuse = -1
            assert fuse > 10
            return


def test_killed_upgrade_is_completed_by_the_next(host):
    for _ in kill_at_each_command(host, lambda: host.add("15", 5432), lambda: upgrade_of(host).upgrade(True)):
        assert upgrade_of(host).plan().pending
        upgrade_of(host).upgrade(True)
        assert state(host) == AFTER
        upgrade_of(host).finish()
        assert not upgrade_of(host).plan().pending
        assert not (host.folder / "state/record.json").exists()


def test_killed_upgrade_can_be_given_up(host):
    for _ in kill_at_each_command(host, lambda: host.add("15", 5432), lambda: upgrade_of(host).upgrade(True)):
        upgrade_of(host).back()
        assert state(host)["15 main"] == BEFORE["15 main"]
        assert host.fakes.get("17 main", Fake("17", 0)).runs == ""
        upgrade_of(host).finish()
        upgrade_of(host).upgrade(True)
        assert state(host) == AFTER


def test_killed_way_back_is_completed_by_the_next(host):
    def prepare():
        host.add("15", 5433, start="manual", runs="")
        host.add("17", 5432)

    for _ in kill_at_each_command(host, prepare, lambda: upgrade_of(host).back()):
        upgrade_of(host).back()
        assert state(host)["15 main"] == BEFORE["15 main"]
        assert state(host)["17 main"][1:] == ("manual", "", ROWS)
        upgrade_of(host).finish()
        assert not upgrade_of(host).plan_back().pending


def test_no_series_of_killed_runs_loses_a_row(host):
    chance = random.Random(5)
    for _trial in range(40):
        host.clear()
        host.add("15", 5432)
        for _run in range(4):
            host.fuse = chance.randrange(1, 70)
            # There is no way back from a run that was killed early.
            with contextlib.suppress(Killed, StepError):
                upgrade = upgrade_of(host)
                upgrade.back() if chance.random() < 0.3 else upgrade.upgrade(True)
                upgrade.finish()
            host.fuse = -1
            assert all(fake.rows in (ROWS, {}) for fake in host.fakes.values())
        upgrade_of(host).upgrade(True)
        upgrade_of(host).finish()
        assert state(host) == AFTER
        upgrade_of(host).back()
        assert state(host)["15 main"] == BEFORE["15 main"]


@pytest.mark.parametrize(
    ("fails", "loses", "message"),
    [
        (("pg_upgradecluster",), False, "it fails"),
        ((), True, "another number of rows: shop public.notice has 2 instead of 3"),
        (("--analyze-only",), False, "it fails"),
        # The folder of the private socket cannot be created.
        (("OSError",), False, "No such file"),
        (("postgresql@17-main.service",), False, "it fails"),
    ],
)
def test_failed_upgrade_leaves_the_old_cluster_serving(host, monkeypatch, fails, loses, message):
    host.add("15", 5432)
    host.fails, host.loses = fails, loses
    if fails == ("OSError",):
        monkeypatch.setattr(postgres_clusters, "PRIVATE", host.folder / "not/there")
    if fails == ("postgresql@17-main.service",):
        # It can be stopped, and does not start.
        host.fails = ()
        perform = host.perform
        host.perform = lambda argv: (
            Outcome(1, "", "it fails") if argv == ["systemctl", "start", *fails] else perform(argv)
        )
    with pytest.raises(StepError, match=message):
        upgrade_of(host).upgrade(True)
    assert state(host) == BEFORE
    assert not (host.folder / "state/record.json").exists()


def test_indexes_and_extensions_follow_the_new_libraries(host):
    host.add("15", 5432)
    host.statements = {
        postgres_upgrade.EXTENSIONS: ["ALTER EXTENSION hstore UPDATE", "ALTER EXTENSION BROKEN UPDATE"],
        postgres_upgrade.INDEXES: ["REINDEX INDEX public.by_name"],
    }
    notes = upgrade_of(host).upgrade(True).notes
    assert notes == [
        "shop: ALTER EXTENSION hstore UPDATE",
        "shop: ALTER EXTENSION BROKEN UPDATE failed: shop: ERROR: broken",
        "shop: REINDEX INDEX public.by_name",
    ]
    assert any("REINDEX INDEX public.by_name" in command for command in host.commands)


def test_standby_gets_an_empty_cluster_and_keeps_the_old_one(host):
    host.add("15", 5432, signal=True)
    upgrade_of(host).upgrade(False)
    assert state(host) == {**AFTER, "17 main": (5432, "auto", "unit", {})}
    upgrade_of(host).finish()
    # As the role makes it a standby.
    (host.folder / "data/17/main/standby.signal").touch()
    upgrade_of(host).back()
    assert state(host)["15 main"] == BEFORE["15 main"]


def refuse(host: Host, back: bool = False) -> str:
    with pytest.raises(StepError) as error:
        upgrade_of(host).plan_back() if back else upgrade_of(host).plan()
    return str(error.value)


def test_two_clusters_with_data_are_refused(host):
    host.add("15", 5432)
    host.add("17", 5433)
    assert "upgrade: 15 main and 17 main both have databases on vps1.\nFix: remove 17 main" in refuse(host)
    # One without data is no obstacle.
    host.remove("17 main")
    host.add("17", 5433, rows={})
    upgrade_of(host).upgrade(True)
    assert state(host) == AFTER


def test_data_that_no_tool_knows_is_refused(host):
    host.add("15", 5432)
    (host.folder / "data/17/main/base/16385").mkdir(parents=True)
    assert f"if nothing in it is needed: sudo rm -r {host.folder}/data/17/main" in refuse(host)


def test_two_clusters_with_the_port_are_refused(host):
    host.add("15", 5432)
    host.add("17", 5432)
    assert "15 main and 17 main both have port 5432 on vps1.\nFix: " in refuse(host)
    assert "both have port 5432" in refuse(host, back=True)


def test_newer_cluster_is_refused(host):
    (host.folder / "programs/18").mkdir()
    host.add("18", 5432)
    assert "PostgreSQL 18 main has port 5432 on vps1, and this distribution ships 17." in refuse(host)


def test_full_disk_is_refused(host, monkeypatch):
    host.add("15", 5432)
    (host.folder / "data/15/main/base/file").write_bytes(b"x" * 5_000_000)
    monkeypatch.setattr(postgres_upgrade.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 514 << 20))
    assert "has 514 MiB free on vps1, and the copy of 15 main needs 516.\nFix: " in refuse(host)


def test_missing_programs_are_refused(host):
    host.add("15", 5432)
    (host.folder / "programs/15").rmdir()
    assert "the package postgresql-15, which reads the data of 15 main, is not on vps1.\nFix: " in refuse(host)


def test_way_back_without_an_old_cluster_is_refused(host):
    host.add("17", 5432)
    assert "17 main is the only cluster with data on vps1.\nFix: " in refuse(host, back=True)


def test_way_back_after_a_promotion_is_refused(host):
    host.add("15", 5433, start="manual", runs="")
    host.add("17", 5432, signal=True)
    assert "vps1 was the primary when it was upgraded, and is the standby now.\nFix: " in refuse(host, back=True)


def run_module(capsys, **options) -> dict:
    with patch_module_args({"version": "17", **options}), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def record(host, monkeypatch):
    monkeypatch.setattr(module, "Record", lambda: Record(host.folder / "state/record.json"))
    monkeypatch.setattr(module.os, "chdir", lambda _: None)


@pytest.mark.usefixtures("record")
def test_module_says_what_it_did_and_a_dry_run_what_it_would_do(host, capsys):
    host.add("15", 5432)
    told = run_module(capsys, _ansible_check_mode=True)
    assert (told["changed"], told["serving"], told["target"], told["kind"]) == (True, "15 main", "17 main", "primary")
    assert state(host) == BEFORE
    told = run_module(capsys)
    assert told["rows"] == ["shop public.notice: 3 rows before, 3 after"]
    assert told["error"] == ""
    assert not run_module(capsys, state="finished")["changed"]
    told = run_module(capsys)
    assert (told["changed"], told["serving"], told["target"]) == (False, "17 main", "17 main")
    told = run_module(capsys, state="back")
    assert (told["changed"], told["serving"], told["target"]) == (True, "17 main", "15 main")


@pytest.mark.usefixtures("record")
def test_failed_module_leaves_the_old_cluster_serving(host, capsys):
    host.add("15", 5432)
    host.loses = True
    told = run_module(capsys)
    assert not told.get("failed")
    assert "another number of rows" in told["error"]
    assert told["error"].endswith("PostgreSQL 15 main serves.")
    assert state(host) == BEFORE


@pytest.mark.usefixtures("record")
def test_module_fails_when_nothing_serves(host, capsys):
    host.add("15", 5432)
    perform = host.perform
    host.perform = lambda argv: Outcome(1, "", "it fails") if argv[:2] == ["systemctl", "start"] else perform(argv)
    assert run_module(capsys)["failed"]


def test_host_without_postgresql_has_nothing_to_do(host):
    assert not upgrade_of(host).plan().pending
    assert not upgrade_of(host).plan_back().pending


def found(kind: str, target: str = "17 main", pending: bool = True) -> dict:
    return {"__postgres_found": {"kind": kind, "target": target, "pending": pending}}


@pytest.mark.parametrize(
    ("hosts", "primary", "problem"),
    [
        ({"db1": found("primary")}, "db1", ""),
        ({"db1": found("new")}, "db1", ""),
        ({"db1": found("standby"), "db2": found("primary")}, "db2", ""),
        # A run that was interrupted between the two.
        ({"db1": found("primary", pending=False), "db2": found("standby")}, "db1", ""),
        ({"db1": found("primary"), "db2": found("primary")}, "db1", "one database host must be the primary"),
        ({"db1": found("standby"), "db2": found("standby")}, "db1", "one database host must be the primary"),
        ({"db1": found("primary"), "db2": {}}, "db1", "not all database hosts are in this run"),
        ({"db1": found("primary"), "db2": found("standby", "15 main", False)}, "db1", "different versions"),
    ],
)
def test_hosts_of_a_site_fit_together_or_are_refused(hosts, primary, problem):
    plan = upgrade_plan(hosts, hosts, [])
    assert (plan["primary"], plan["pending"]) == (primary, True)
    assert problem in plan["problem"]
    assert bool(problem) == bool(plan["problem"])


@pytest.mark.parametrize(
    ("releases", "opens"),
    [
        ([{"live": True, "runs": True}], True),
        ([{"live": True, "runs": False}, {"live": False, "runs": True}], False),
        ([], False),
    ],
)
def test_site_opens_if_its_release_can_run(releases, opens):
    hosts = {"vps1": {**found("primary"), "__django_releases": {"releases": releases}}}
    assert upgrade_plan(["vps1"], hosts, ["vps1"])["opens"] == opens
