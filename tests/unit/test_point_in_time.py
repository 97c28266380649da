"""Points in time: where pgBackRest stores, which base backup leads to a time, and what is reported."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.django_vps.stack.plugins.plugin_utils.pgbackrest import pgbackrest_options

sys.path.insert(0, str(Path(__file__).parents[2] / "roles/backup/files"))

import backup
import point_in_time
import repository
from settings import BackupError, Site, utc

NOW = time.time()
KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize(
    ("address", "environment", "expected"),
    [
        ("/var/backups/shop", {}, {"type": "posix", "path": "/var/backups/shop-pgbackrest"}),
        (
            "s3:https://s3.example.com:9000/bucket/shop/",
            {**KEYS, "RESTIC_CACERT": "/etc/ca.pem"},
            {"path": "/shop-pgbackrest", "s3-endpoint": "s3.example.com", "storage-port": "9000"}
            | {"s3-uri-style": "path", "s3-region": "us-east-1", "storage-ca-file": "/etc/ca.pem"},
        ),
        (
            "s3:s3.eu-central-1.amazonaws.com/bucket",
            KEYS,
            {"path": "/pgbackrest", "s3-uri-style": "host", "s3-region": "eu-central-1", "s3-bucket": "bucket"},
        ),
        (
            "s3:https://s3.amazonaws.com/bucket",
            {**KEYS, "AWS_DEFAULT_REGION": "eu-west-3", "AWS_SESSION_TOKEN": "t"},
            {"s3-region": "eu-west-3", "s3-key": "id", "s3-key-secret": "secret", "s3-token": "t"},
        ),
        (
            "sftp:keeper@storage:/srv/sets",
            {},
            {"type": "sftp", "path": "/srv/sets-pgbackrest", "sftp-host": "storage", "sftp-host-user": "keeper"},
        ),
        (
            "sftp://keeper@storage:2222//srv/sets",
            {},
            {"sftp-host-port": "2222", "sftp-private-key-file": "/key", "path": "/srv/sets-pgbackrest"},
        ),
    ],
)
def test_base_backups_are_stored_beside_the_repository(address, environment, expected):
    found = pgbackrest_options(address, environment, "/key")
    assert {name: found.get(name) for name in expected} == expected
    assert "" not in found.values()


class Server:
    """A server of PostgreSQL whose answers a test sets."""

    def __init__(self) -> None:
        self.standby, self.archiver, self.cluster = False, "t|0|0", "4711"

    def sql(self, query: str, _database: str = "") -> str:
        if "archive_statusdir" in query:
            return self.archiver
        return self.cluster if "system_identifier" in query else ""

    def is_standby(self) -> bool:
        return self.standby


def base(days: float, kind: str = "full", start: int = 1, cluster: int = 1) -> dict:
    return {
        "label": f"{days}{kind}",
        "type": kind,
        "database": {"id": cluster},
        "timestamp": {"stop": NOW - days * 86400},
        "archive": {"stop": f"{1:08X}{0:08X}{start:08X}"},
        "info": {"size": 1000, "repository": {"delta": 2e6}},
        "error": False,
    }


class Repository:
    """What pgBackRest says; `archived` has the number of each segment and its age in seconds."""

    def __init__(self) -> None:
        self.backups, self.code, self.ran, self.failures = [base(3), base(1, "diff", 4)], 0, [], {}
        self.archived = {number: 86400 - number * 60 for number in range(1, 60)}

    def __call__(self, *argv: str, limit: str = "0") -> str:
        self.ran.append(argv)
        if argv[0] in self.failures:
            raise BackupError(self.failures[argv[0]])
        if argv[0] == "repo-ls":
            names = {f"0000000100000000/0000000100000000{n:08X}-{'a' * 40}.zst": t for n, t in self.archived.items()}
            return json.dumps({name: {"type": "file", "time": NOW - age} for name, age in names.items()})
        ids = [{"database": {"id": number}, "id": f"17-{number}"} for number in (1, 2)]
        db = [{"id": n, "version": "17", "system-id": 4710 + n} for n in (1, 2)][
            : max((one["database"]["id"] for one in self.backups), default=0)
        ]
        info = {"archive": ids, "backup": self.backups, "db": db, "status": {"code": self.code}}
        info["repo"] = [{"status": {"message": "unable to connect\n on 9 retries"}}]
        return json.dumps([info]) if argv[0] == "info" else ""


@pytest.fixture
def pgbackrest(tmp_path, monkeypatch):
    settings = dict.fromkeys(
        ("database_owner", "database_privileges", "socket_dir", "media", "home", "config_dir"), str(tmp_path)
    )
    settings |= {"site": "shop", "parts": ["database", "files"], "repository": str(tmp_path / "sets"), "exclude": []}
    settings |= {"environment": {}, "keep": {}, "priority": [], "database": "shop"}
    settings |= {"database_user": "shop", "user": "shop", "service_file": "", "manage": "/usr/local/sbin/shop-manage"}
    settings["archive"] = {"config": "/etc/pgbackrest/shop.conf", "folder": ""}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "secrets.json").write_text(json.dumps({"password": "p"}))
    site = Site(tmp_path / "settings.json")
    site.folder = tmp_path
    made = point_in_time.PgBackRest(site)
    made.live, made.run = Server(), Repository()
    monkeypatch.setattr(point_in_time, "require_room", lambda *_: None)
    monkeypatch.setattr(point_in_time, "installed", lambda version: version == "17")
    return made


@pytest.mark.parametrize(
    ("backups", "kind"),
    [
        ([base(3)], "diff"),
        ([base(7)], "full"),
        ([base(7), base(1, "diff")], "full"),
        # One of a cluster that is no more.
        ([base(3), base(2, cluster=2), base(1, cluster=2)], "diff"),
    ],
    ids=["young", "old", "old with a new differential one", "new cluster"],
)
def test_full_base_backup_is_made_when_the_last_is_a_week_old(pgbackrest, backups, kind):
    pgbackrest.run.backups = backups
    pgbackrest.live.cluster = str(4710 + max(one["database"]["id"] for one in backups))
    assert "base backup: of " in pgbackrest.back_up()
    assert ("backup", f"--type={kind}") in pgbackrest.run.ran


@pytest.mark.parametrize(
    ("backups", "lost", "begins"),
    [(None, [], False), (None, [30], True), ([], [], True)],
    ids=["complete", "gap", "none"],
)
def test_base_backup_begins_at_once_where_points_need_it(pgbackrest, monkeypatch, backups, lost, begins):
    started = []
    monkeypatch.setattr(point_in_time.subprocess, "run", lambda argv, **_options: started.append(argv[-1]))
    for number in lost:
        del pgbackrest.run.archived[number]
    if backups is not None:
        pgbackrest.run.backups = backups
    assert ("begins" in pgbackrest.begin()) == begins
    assert started == ["shop-backup-base.service"] * begins


def test_standby_archives_nothing(pgbackrest):
    pgbackrest.live.standby = True
    for command in (pgbackrest.open, pgbackrest.back_up, pgbackrest.begin, pgbackrest.watch):
        assert "standby" in command()
    assert pgbackrest.run.ran == []
    assert "standby" in pgbackrest.describe_state()[0]


def test_repository_of_another_cluster_is_refused_unless_known(pgbackrest):
    pgbackrest.open()
    assert {command for command, *_ in pgbackrest.run.ran} == {"info"}
    (pgbackrest.site.folder / "state.json").unlink()
    pgbackrest.live.cluster = "4799"
    with pytest.raises(BackupError, match=r"WAL of another cluster.*add -e restore=latest"):
        pgbackrest.open()
    assert ("stanza-upgrade",) not in pgbackrest.run.ran
    pgbackrest.open(is_replaced=True)
    assert pgbackrest.run.ran[-1] == ("stanza-upgrade",)
    # After an upgrade of PostgreSQL this host is known.
    pgbackrest.live.cluster = "4800"
    pgbackrest.run.ran.clear()
    pgbackrest.open()
    assert pgbackrest.run.ran[-1] == ("stanza-upgrade",)


def test_repository_without_a_stanza_gets_one(pgbackrest):
    pgbackrest.run.backups = []
    pgbackrest.open()
    assert pgbackrest.run.ran[-1] == ("stanza-create",)
    pgbackrest.run.failures = {"stanza-create": "unable to find bucket"}
    with pytest.raises(BackupError, match="unable to find bucket"):
        pgbackrest.open()


def test_point_is_reached_from_the_last_base_backup_before_it(pgbackrest):
    assert pgbackrest.find(NOW - 5 * 86400) is None
    # The last second of a base backup is no point yet.
    assert pgbackrest.find(NOW - 3 * 86400) is None
    assert pgbackrest.find(NOW - 2 * 86400)["base"]["label"] == "3full"
    found = pgbackrest.find(NOW - 86400 + 600)
    assert (found["base"]["label"], found["version"]) == ("1diff", "17")
    assert pgbackrest.find(None)["point"] is None
    assert ("check", "--archive-timeout=30") in pgbackrest.run.ran


def test_recovery_takes_nothing_of_the_new_cluster(pgbackrest):
    pgbackrest.run.backups = [base(3, cluster=2), base(1)]
    assert pgbackrest.find(None)["base"]["label"] == "1full"
    assert pgbackrest.find(None, is_recovery=True)["base"]["label"] == "3full"


def test_point_without_its_wal_is_refused(pgbackrest):
    late = NOW - 60
    with pytest.raises(BackupError, match=r"cannot be restored: the WAL after \S+Z is missing from then on. Fix: name"):
        pgbackrest.find(late)
    del pgbackrest.run.archived[20], pgbackrest.run.archived[21]
    gap = f"the WAL after {utc(NOW - 86400 + 19 * 60)} is missing until {utc(NOW - 86400 + 22 * 60)}"
    with pytest.raises(BackupError, match=gap):
        pgbackrest.find(NOW - 86400 + 1500)
    assert pgbackrest.find(NOW - 86400 + 1000)


def test_point_of_a_version_that_is_gone_is_refused(pgbackrest, monkeypatch):
    monkeypatch.setattr(point_in_time, "installed", lambda version: False)
    with pytest.raises(BackupError, match=r"is of PostgreSQL 17, which this host does not have. Fix: name the id"):
        pgbackrest.find(NOW - 2 * 86400)


def test_wal_that_ends_before_the_point_is_named():
    said = point_in_time.explain(NOW, "FATAL:  recovery ended before configured recovery target was reached")
    assert said == f"restore_to: the WAL ends before {utc(NOW)}. Fix: name an earlier time, or the id of a set"
    assert "does not start on the copy" in point_in_time.explain(NOW, "FATAL:  out of memory")


@pytest.mark.parametrize(
    ("archiver", "lost", "said"),
    [
        ("t|0|0", (), ""),
        ("t|299|3", (), ""),
        ("t|3700|9", (), "9 segments of WAL wait to be archived, the first for 61 min"),
        ("f|0|0", (), "PostgreSQL does not archive its WAL; run site.yml"),
        ("t|0|0", (30,), "is missing; the next base backup ends this"),
        # Before the newest base backup.
        ("t|0|0", (3,), ""),
    ],
)
def test_watch_and_status_report_wal_that_is_not_archived(pgbackrest, archiver, lost, said):
    pgbackrest.live.archiver = archiver
    for number in lost:
        del pgbackrest.run.archived[number]
    problems = [line for line in pgbackrest.describe_state() if line.startswith("!")]
    if said:
        with pytest.raises(BackupError, match=said):
            pgbackrest.watch()
        assert said in problems[0]
    else:
        assert pgbackrest.watch() == "all WAL is archived"
        assert problems == []


def test_status_reports_old_and_damaged_base_backups(pgbackrest):
    lines = pgbackrest.describe_state()
    assert lines[0].startswith(f"point in time: from {utc(NOW - 3 * 86400)} on; WAL archived up to ")
    assert lines[1:] == [
        f"newest full base backup: of {utc(NOW - 3 * 86400)}, 2.0 MB",
        f"newest differential base backup: of {utc(NOW - 86400)}, 2.0 MB",
    ]
    pgbackrest.run.backups = [base(10), {**base(4, "diff"), "error": True}]
    problems = [line for line in pgbackrest.describe_state() if line.startswith("! ")]
    assert len(problems) == 3
    assert "damaged pages" in problems[2]
    pgbackrest.run.code = 99
    said = "backup_point_in_time: the repository cannot be read: unable to connect"
    assert pgbackrest.describe_state() == [f"! point in time: {said}"]
    with pytest.raises(BackupError, match=said):
        pgbackrest.watch()


def test_restore_to_a_time_takes_the_point_and_older_uploads(pgbackrest, monkeypatch):
    site = pgbackrest.site
    monkeypatch.setattr(backup, "PgBackRest", lambda _site: pgbackrest)
    iso = utc(NOW - 2.5 * 86400)
    sets = [{"id": "1" * 64, "short_id": "1" * 8, "time": iso, "tags": ["django_vps", "database", "files"]}]
    monkeypatch.setattr(repository.Restic, "sets", lambda self: sets)
    restic = repository.Restic(site)

    def found(which: str, **options) -> dict[str, str]:
        chosen = backup.choose(restic, which, site.parts, **options)
        return {part: backup.name_of(one) for part, one in chosen.items()}

    point = f"from the base backup of {utc(NOW - 3 * 86400)}"
    assert found(utc(NOW - 2 * 86400)) == {
        "database": f"point in time {utc(NOW - 2 * 86400)}, {point}",
        "files": f"set 11111111 of {iso}",
    }
    # No set is as old as the point, so the uploads stay.
    assert list(found(utc(NOW - 2.6 * 86400))) == ["database"]
    for which in ("1" * 8, "latest"):
        assert found(which)["database"] == f"set 11111111 of {iso}"
    pgbackrest.live.cluster = "4799"
    assert "the last moment in the archive" in found("latest", is_recovery=True)["database"]
    with pytest.raises(BackupError, match="is before the first set"):
        found(utc(NOW - 4 * 86400))
