"""The programs of a backup: which set is meant, what is compared, what is exchanged; and the recovery file."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret
from ansible_collections.django_vps.stack.plugins.action.recovery_file import ActionModule

PROGRAMS = Path(__file__).parents[2] / "roles/backup/files"
sys.path.insert(0, str(PROGRAMS))

import backup  # noqa: E402
import database  # noqa: E402
import elsewhere  # noqa: E402
import files  # noqa: E402
import migrations  # noqa: E402
import repository  # noqa: E402
import restore_point  # noqa: E402
import sets  # noqa: E402
import settings  # noqa: E402

NOW = time.time()


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site whose folders are temporary."""
    private = tmp_path / "etc/backup"
    private.mkdir(parents=True)
    facts = {
        "site": "shop",
        "parts": ["database", "files"],
        "repository": "/var/backups/shop",
        "archive": None,
        "environment": {},
        "keep": {"daily": 7},
        "exclude": [],
        "priority": ["Nice=10"],
        "database": "shop",
        "database_owner": "shop",
        "database_user": "shop",
        "user": "shop",
        "service_file": "",
        "manage": str(tmp_path / "manage"),
        "database_privileges": "/etc/shop/privileges.sql",
        "socket_dir": "/run/postgresql",
        "media": str(tmp_path / "media"),
        "home": str(tmp_path),
        "config_dir": str(tmp_path / "etc"),
    }
    (private / "settings.json").write_text(json.dumps(facts))
    (private / "secrets.json").write_text(json.dumps({"password": "p", "ssh_key": "k\n"}))
    made = settings.Site(private / "settings.json")
    made.folder = tmp_path / "state"
    made.folder.mkdir()
    return made


@pytest.fixture
def restic(site, monkeypatch):
    """A repository with a set of each of three days, the last one of the live data before a restore."""
    known = [
        {"id": f"{number}" * 64, "short_id": f"{number}" * 8, "time": iso(NOW - days * 86400), "tags": tags}
        for number, days, tags in (
            (2, 1, ["django_vps", "database", "files"]),
            (1, 2, ["django_vps", "database", "files"]),
            (3, 0, ["django_vps", "database", "files", "before-restore"]),
        )
    ]
    made = repository.Restic(site)
    monkeypatch.setattr(made, "run", lambda *argv, check=True: SimpleNamespace(stdout=json.dumps(known), returncode=0))
    return made


@pytest.mark.parametrize(
    ("which", "found"),
    [
        ("latest", "2"),
        ("1" * 8, "1"),
        ("3" * 64, "3"),
        (datetime.fromtimestamp(NOW - 1.5 * 86400, UTC).strftime("%Y-%m-%d %H:%M"), "1"),
        (datetime.fromtimestamp(NOW - 1.5 * 86400, UTC).isoformat(), "1"),
    ],
    # The same in all workers of a run.
    ids=["latest", "short id", "id", "time", "time with an offset"],
)
def test_the_set_is_found_by_time_or_id(restic, which, found):
    assert {one["short_id"][0] for one in restic.find(which, ["database", "files"]).values()} == {found}


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("yesterday", "expected latest, the id of a set, or a time"),
        ("12345678", "expected latest, the id of a set, or a time"),
        ("2999-01-01", "is in the future"),
        ("2020-01-01", "is before the first set"),
    ],
)
def test_unknown_set_is_refused(restic, which, said):
    with pytest.raises(settings.BackupError, match=said):
        restic.find(which, ["database"])


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("sftp:me@example.com:sets", "-p 22 * me@example.com"),
        ("sftp://me@example.com:2222/sets", "-p 2222 * me@example.com"),
        ("sftp://me@example.com/srv/sets", "-p 22 * me@example.com"),
        ("sftp:example.com:/srv/sets", "-p 22 * example.com"),
    ],
)
def test_sftp_uses_the_site_key_and_the_repository_address(site, address, command):
    site.repository = address
    options = repository.Restic(site).options
    first, last = command.split(" * ")
    assert first in options[1]
    assert options[1].endswith(f" {last} -s sftp")
    key = site.private / "ssh_key"
    assert key.read_text() == "k\n"


def test_old_set_and_old_drill_are_reported(site):
    assert "no set yet" in backup.describe_state(site)
    site.note(last={"id": "1", "time": NOW, "megabytes": 1.0}, proven={"set": NOW, "time": NOW})
    assert "!" not in backup.describe_state(site)
    site.note(last={"id": "1", "time": NOW - 3 * 86400, "megabytes": 1.0})
    assert "which is too old" in backup.describe_state(site)
    site.note(proven={"set": NOW, "time": NOW - 16 * 86400})
    assert "which is too long ago" in backup.describe_state(site)


def test_rows_and_files_that_differ_are_named(tmp_path):
    database.compare_rows({"public.a": 1}, {"public.a": 1})
    with pytest.raises(settings.BackupError, match=r"public\.a 0 instead of 1, public\.b None instead of 2"):
        database.compare_rows({"public.a": 1, "public.b": 2}, {"public.a": 0})
    (tmp_path / "a").write_text("x")
    (tmp_path / "small").mkdir()
    (tmp_path / "small/b.tmp").write_text("x")
    for exclude in (["*.tmp"], [str(tmp_path / "small")], ["small"], ["**/b.tmp"]):
        assert list(files.describe(tmp_path, NOW + 3600, exclude)["sample"]) == ["a"]
    assert len(files.describe(tmp_path, NOW + 3600, [])["sample"]) == 2
    sample = files.describe(tmp_path, NOW + 3600, ["*.tmp"])["sample"]
    files.compare(tmp_path, sample)
    changed = (tmp_path / "a").stat().st_mtime_ns
    (tmp_path / "a").write_text("y")
    # One that was written while the set was made is no error.
    files.compare(tmp_path, sample)
    os.utime(tmp_path / "a", ns=(changed, changed))
    with pytest.raises(settings.BackupError, match="the restored file a"):
        files.compare(tmp_path, sample)
    (tmp_path / "a").unlink()
    with pytest.raises(settings.BackupError, match="of 1 files that were backed up, 1 were not restored: a"):
        files.compare(tmp_path, sample)


def test_sample_has_a_few_of_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SAMPLE", 5)
    for number in range(20):
        (tmp_path / f"{number}").write_text(f"{number}")
    found = files.describe(tmp_path, NOW + 3600, [])
    assert (found["files"], len(found["sample"])) == (20, 5)
    # One that was removed in the meantime is no error; what differs is one.
    monkeypatch.setattr(files, "SAMPLE", 20)
    sample = files.describe(tmp_path, NOW + 3600, [])["sample"]
    (tmp_path / "7").unlink()
    files.compare(tmp_path, sample)
    (tmp_path / "8").unlink()
    (tmp_path / "9").unlink()
    with pytest.raises(settings.BackupError, match="3 were not restored"):
        files.compare(tmp_path, sample)


def test_restored_files_replace_the_live_files(tmp_path):
    live = tmp_path / "media"
    restored = live / files.STAGING / "new" / "media"
    restored.mkdir(parents=True)
    (restored / "kept").write_text("old")
    (restored / "folder").mkdir()
    (live / "kept").write_text("new")
    (live / "later").write_text("new")
    files.exchange(live, restored)
    assert sorted(path.name for path in live.iterdir()) == ["folder", "kept"]
    assert (live / "kept").read_text() == "old"


def test_full_disk_is_refused_with_free_and_needed_space(tmp_path):
    settings.require_room(tmp_path, 0, "the dump")
    with pytest.raises(settings.BackupError, match="MiB free, and the dump needs"):
        settings.require_room(tmp_path, 2**60, "the dump")


def keep(path: Path, found: str = "", repository: str = "/var/backups/shop", secrets=(), check_mode: bool = False):
    """Run the action as a task; return whether it changed the file, and its content."""
    loader = DataLoader()
    loader.set_vault_secrets(list(secrets))
    action = object.__new__(ActionModule)
    action._loader, action._display = loader, SimpleNamespace(display=lambda *_: None)
    action._task = SimpleNamespace(check_mode=check_mode)
    changed = action.keep(path, repository, found)
    return changed, loader.get_text_file_contents(str(path)) if path.exists() else ""


def test_the_secrets_are_made_once_and_kept(tmp_path):
    path = tmp_path / "shop-recovery.txt"
    assert keep(path, check_mode=True) == (True, "")
    changed, text = keep(path)
    assert changed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    known = json.loads(text)
    assert len(known["password"]) == 64
    assert known["ssh_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert keep(path) == (False, text)
    moved = json.loads(keep(path, repository="sftp:me@example.com:shop")[1])
    assert (moved["password"], moved["ssh_key"]) == (known["password"], known["ssh_key"])


def test_recovery_file_and_host_have_the_same_secrets(tmp_path):
    path = tmp_path / "shop-recovery.txt"
    of_host = json.dumps({"password": "of the host", "ssh_key": "key"})
    text = keep(path)[1]
    # Neither of two passwords may be lost.
    with pytest.raises(Exception, match="has another password than the host"):
        keep(path, found=of_host)
    assert path.read_text() == text
    path.unlink()
    assert json.loads(keep(path, found=of_host)[1])["password"] == "of the host"
    assert json.loads(keep(path)[1])["password"] == "of the host"


def test_a_vault_password_encrypts_the_file(tmp_path):
    path = tmp_path / "shop-recovery.txt"
    secrets = [("default", VaultSecret(b"hunter2"))]
    text = keep(path, secrets=secrets)[1]
    assert path.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    assert json.loads(text)["password"] not in path.read_text()
    assert keep(path, secrets=secrets) == (False, text)
    # Also one that was there before the vault password.
    path.write_text(text)
    assert keep(path, secrets=secrets) == (True, text)
    assert path.read_text().startswith("$ANSIBLE_VAULT")


def test_another_file_of_that_name_is_refused_and_kept(tmp_path):
    path = tmp_path / "shop-recovery.txt"
    path.write_text("a shopping list\n")
    with pytest.raises(Exception, match="is not a recovery file"):
        keep(path)
    assert path.read_text() == "a shopping list\n"
    with pytest.raises(Exception, match="name a file in a folder that you can write to"):
        keep(Path(os.devnull) / "shop-recovery.txt")


def test_no_password_in_an_address_is_shown():
    assert repository.hide("rest:https://me:hunter2@example.com/shop") == "rest:https://example.com/shop"
    assert repository.hide("sftp://me@example.com:2222/shop") == "sftp://me@example.com:2222/shop"


@pytest.mark.parametrize(
    ("code", "said", "counts"),
    [
        (0, "", True),
        (3, '{"message_type":"error","error":{"Op":"lstat","Path":"/a","Err":2}}', True),
        (3, '{"message_type":"error","error":{"message":"lstat /a: no such file or directory"}}', True),
        (3, '{"message_type":"error","error":{"message":"read /a: input/output error"}}', False),
        (1, "Fatal: unable to save snapshot", False),
    ],
    ids=["all", "vanished, restic 0.14", "vanished, restic 0.18", "unreadable", "failed"],
)
def test_set_that_misses_an_unreadable_file_is_removed(restic, monkeypatch, code, said, counts):
    ran = []

    def run(*argv, check=True):
        ran.append(argv)
        return SimpleNamespace(returncode=code, stderr=said, stdout='{"snapshot_id": "abc"}')

    monkeypatch.setattr(restic, "run", run)
    if counts:
        assert sets.snapshot(restic)["snapshot_id"] == "abc"
        assert len(ran) == 1
    else:
        with pytest.raises(settings.BackupError):
            sets.snapshot(restic)
        assert ran[1] == ("forget", "abc")


def test_a_name_of_an_upload_is_no_pattern(restic, monkeypatch):
    ran = []
    monkeypatch.setattr(
        restic, "run", lambda *argv, check: ran.append(argv) or SimpleNamespace(returncode=0, stderr="")
    )
    restic.restore({"id": "abc"}, "/x", "/srv/a[1]*?\\b.png")
    assert ran == [("restore", "abc", "--target=/x", "--include=/srv/a\\[1]\\*\\?\\\\b.png")]


def test_a_part_that_a_set_does_not_have_is_said_to_stay(site, restic, monkeypatch):
    monkeypatch.setattr(backup, "active_parts", lambda site: ["database", "files", "certificates"])
    monkeypatch.setattr(backup, "Restic", lambda site: restic)
    restic.sets = lambda: [{"id": "4" * 64, "short_id": "4" * 8, "time": iso(NOW), "tags": ["django_vps", "database"]}]
    found, stays = backup.find(site, "4" * 8).splitlines()
    assert found.startswith("database: set 44444444 of ")
    assert stays == "files: not in this set, so a restore does not change them"


@pytest.fixture
def server(site, monkeypatch):
    """A primary with one table, and a repository that has a set of 8 hours ago."""
    facts = SimpleNamespace(standby=False, tables=["public.a"], size=10**9)
    monkeypatch.setattr(database.Database, "is_standby", lambda self: facts.standby)
    monkeypatch.setattr(database.Database, "tables", lambda self, begin="": facts.tables)
    monkeypatch.setattr(database.Database, "size", lambda self: facts.size)
    facts.sets = [{"id": "5" * 64, "short_id": "5" * 8, "time": iso(NOW - 8 * 3600), "tags": ["database", "files"]}]
    monkeypatch.setattr(repository.Restic, "sets", lambda self: facts.sets)
    return facts


@pytest.fixture
def set_of(monkeypatch):
    """Let a set end in some way after some seconds; the commands that were to make one."""

    def end(code: int = 0, seconds: float = 4, stderr: str = "") -> list[list[str]]:
        ran, clock = [], iter([0, seconds])
        made = {"id": "9" * 8, "began": NOW, "seconds": seconds, "megabytes": 12.3}

        def run(argv, **options):
            ran.append(argv)
            return SimpleNamespace(returncode=code, stdout=json.dumps(made), stderr=stderr)

        monkeypatch.setattr(restore_point, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
        monkeypatch.setattr(restore_point, "time", SimpleNamespace(monotonic=lambda: next(clock), time=lambda: NOW))
        return ran

    return end


def test_restore_point_is_a_new_set_of_a_small_database(site, server, set_of):
    ran = set_of()
    found = json.loads(restore_point.make_restore_point(site))
    assert (found["set"], found["made"], found["time"]) == ("9" * 8, True, settings.utc(NOW))
    assert found["message"].startswith("restore point: set 99999999 of 2")
    [argv] = ran
    assert {"--property=RuntimeMaxSec=90", "--property=Nice=10", "--collect"} <= set(argv)
    assert argv[-1] == "quick-set"


@pytest.mark.parametrize("facts", [{"standby": True}, {"tables": []}], ids=["standby", "empty"])
def test_standby_and_empty_database_have_no_restore_point(site, server, set_of, facts):
    vars(server).update(facts)
    ran = set_of()
    assert restore_point.make_restore_point(site) == "{}"
    assert ran == []


def test_restore_point_of_a_large_database_is_the_newest_set(site, server, set_of):
    ran = set_of()
    server.size = 20 * 10**9
    found = json.loads(restore_point.make_restore_point(site))
    assert ran == []
    assert (found["set"], found["made"]) == ("5" * 8, False)
    assert "8 h old; a new one of the database (20.0 GB) would take about 20 min" in found["message"]


def test_set_that_takes_too_long_is_ended_and_the_newest_named(site, server, set_of):
    set_of(code=1, seconds=90.2)
    found = json.loads(restore_point.make_restore_point(site))
    assert (found["set"], found["made"]) == ("5" * 8, False)
    assert "was not complete after 90 s" in found["message"]
    # Without any set there is no restore point.
    server.sets = []
    set_of(code=1, seconds=90.2)
    with pytest.raises(settings.BackupError, match="has no set of shop with its database"):
        restore_point.make_restore_point(site)


def test_set_that_fails_is_no_restore_point(site, server, set_of):
    set_of(code=1, stderr="restic backup: connection refused\n")
    with pytest.raises(settings.BackupError, match="connection refused"):
        restore_point.make_restore_point(site)


def test_expected_duration_follows_the_growth_since_the_last_set(site):
    assert restore_point.expect_seconds(site, 2**30) == 64
    site.note(dump={"bytes": 2**30, "seconds": 20})
    assert restore_point.expect_seconds(site, 2**30) == 20
    assert restore_point.expect_seconds(site, 2**30 + 2**28) == 36


def test_quick_set_that_is_ended_is_not_tried_again(site, server, monkeypatch):
    made = {"id": "9" * 8, "began": NOW, "seconds": 4, "megabytes": 12.3}
    monkeypatch.setattr(restore_point.signal, "signal", lambda *_: None)
    monkeypatch.setattr(restore_point, "make_set", lambda restic, parts, tag: {**made, "parts": parts, "tag": tag})
    assert json.loads(restore_point.quick_set(site)) == {**made, "parts": ["database"], "tag": "before-migrations"}
    assert restore_point.expect_seconds(site, server.size) == 4

    def end(*_):
        sys.exit(1)

    monkeypatch.setattr(restore_point, "make_set", end)
    with pytest.raises(SystemExit):
        restore_point.quick_set(site)
    assert restore_point.expect_seconds(site, server.size) == 90


@pytest.mark.parametrize(
    ("restoring", "more"), [(0, []), (NOW, ["before-restore"])], ids=["", "after a failed restore"]
)
def test_set_of_the_database_leaves_out_the_uploads(site, server, restic, monkeypatch, restoring, more):
    ran = []
    site.note(restoring=restoring)
    site.media.mkdir()
    monkeypatch.setattr(database.Database, "dump", lambda self, path: path.write_text("dump") and {"public.a": 1})
    monkeypatch.setattr(database.Database, "roles", lambda self: [])
    monkeypatch.setattr(sets, "require_room", lambda *_: None)
    summary = {"snapshot_id": "abcdef0123", "total_bytes_processed": 2e6, "data_added": 1e6}
    monkeypatch.setattr(sets, "snapshot", lambda restic, *options: ran.append(options) or summary)
    site.set = site.folder / "set"
    made = sets.make_set(restic, ["database"], "before-migrations")
    assert made["id"] == "abcdef01"
    [options] = ran
    tags = [option.removeprefix("--tag=") for option in options if option.startswith("--tag")]
    assert tags == ["django_vps", "database", "before-migrations", *more]
    assert [option for option in options if not option.startswith("--")] == [str(site.set)]
    assert not site.set.exists()


def test_restic_with_a_timeout_waits_for_no_lock_and_no_server(site, tmp_path, monkeypatch):
    program = tmp_path / "bin/restic"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = --no-lock ] && exec sleep 30\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(settings.BackupError, match=r"restic snapshots: /var/backups/shop: no answer within 0\.2 s"):
        repository.Restic(site, timeout=0.2).sets()
    assert repository.Restic(site).options == []


@pytest.fixture
def release(site, tmp_path):
    """Let a release be live, and its manage.py answer; the command line is in a file."""

    def answer(output: str = "", code: int = 0, errors: str = "", name: str = "2") -> Path:
        folder = tmp_path / "releases" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "release.json").write_text(json.dumps({"migrations": ["notes.0001_initial", f"notes.{name}"]}))
        (tmp_path / "current").unlink(missing_ok=True)
        (tmp_path / "current").symlink_to(folder)
        said, wrong = tmp_path / "said", tmp_path / "wrong"
        said.write_text(output)
        wrong.write_text(errors)
        program = f'#!/bin/sh\necho "$@" > {tmp_path}/argv\ncat {said}\ncat {wrong} >&2\nexit {code}\n'
        Path(site.manage).write_text(program)
        Path(site.manage).chmod(0o755)
        return tmp_path / "argv"

    return answer


PLAN = "Planned operations:\nnotes.2\n    Add field colour to notice\n"


@pytest.fixture
def restored(tmp_path):
    (tmp_path / "sockets").mkdir()
    return database.Database(str(tmp_path / "sockets"), "shop")


def test_migrations_of_restored_database_fit_the_live_release(site, release, restored, tmp_path):
    argv = release("Planned operations:\n  No planned migration operations.\n")
    assert migrations.live_release(site) == {"release": "2", "migrations": ["notes.0001_initial", "notes.2"]}
    assert migrations.check_migrations(site, {"release": "2"}, restored) == "its migrations fit release 2"
    assert argv.read_text().startswith(f"--release=2 --scratch-database={tmp_path}/sockets migrate --check ")
    assert "host=/run/postgresql\ndbname=shop\n" in (tmp_path / "sockets/pg_service.conf").read_text()


def test_migrations_of_a_later_release_are_named(site, release, restored):
    release(PLAN, 1)
    manifest = {"release": "1", "migrations": ["notes.0001_initial"]}
    found = migrations.check_migrations(site, manifest, restored)
    assert found == "the set is of release 1; release 2 applies to it: notes.2"
    # One of an earlier version of the role.
    assert "names no release; release 2 applies" in migrations.check_migrations(site, {}, restored)


@pytest.mark.parametrize("made_by", [{"release": "2"}, {"release": "3", "migrations": ["notes.2"]}])
def test_set_without_migrations_of_its_own_release_is_told(site, release, restored, made_by):
    release(PLAN, 1)
    with pytest.raises(settings.BackupError, match=f"lacks migrations of release {made_by['release']}, .*: notes.2"):
        migrations.check_migrations(site, made_by, restored)


def test_release_that_cannot_read_the_restored_database_is_told(site, release, restored):
    assert "this host has no release" in migrations.check_migrations(site, {}, restored)
    release("", 1, "InconsistentMigrationHistory: notes.2 is applied before its dependency\n")
    with pytest.raises(settings.BackupError, match="release 2 fails with the restored database: Inconsistent"):
        migrations.check_migrations(site, {}, restored)
    # Without DATABASE_URL the settings name the live server, which cannot be reached in the test.
    release("", 1, "OperationalError: could not translate host name")
    with pytest.raises(settings.BackupError):
        migrations.check_migrations(site, {}, restored)
    site.service_file = "/etc/shop/pg_service.conf"
    assert "do not read DATABASE_URL" in migrations.check_migrations(site, {}, restored)


def test_failed_test_of_a_set_is_in_the_status(site, monkeypatch):
    def fail(site):
        raise settings.BackupError("the restored database lacks migrations")

    monkeypatch.setattr(backup, "drill", fail)
    with pytest.raises(settings.BackupError):
        backup.run(site, SimpleNamespace(command="drill"))
    assert "! the last test failed: the restored database lacks migrations" in backup.describe_state(site)
    site.note(failed_test="", last={"id": "1", "time": NOW, "megabytes": 1.0})
    site.note(proven={"set": NOW, "time": NOW, "database": ["its migrations fit release 2"]})
    assert re.search(
        r"restored in a test: of \S+, on \S+; its migrations fit release 2$", backup.describe_state(site), re.M
    )


LIST = """;
; Archive created at 2026-11-30
;
3431; 0 0 COMMENT - EXTENSION pg_trgm
3432; 0 0 COMMENT - SCHEMA public pg_database_owner
3433; 0 0 COMMENT public TABLE a shop
"""
DUMP = r"""BEGIN;

SET statement_timeout = 0;
SET transaction_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);
COMMENT ON TABLE public.a IS 'letters';
COPY public.a (id, text) FROM stdin;
1\tSET transaction_timeout = 0;
SET transaction_timeout = 0;\t2
\.
COPY public."B c" (id) FROM stdin;
\.
CREATE PROCEDURE public.p() LANGUAGE plpgsql AS $$ BEGIN
COMMIT;
-- and more
END $$;
SELECT pg_catalog.setval('public.a_id_seq', 2, true);
COMMIT;

-- PostgreSQL database dump complete
\unrestrict abc
"""


@pytest.fixture
def outside(site, tmp_path, monkeypatch):
    """A site with a database that the stack does not manage, and programs of PostgreSQL 15 and 17."""
    site.service_file = "/etc/shop/pg_service.conf"
    monkeypatch.setattr(elsewhere, "INSTALLED", tmp_path / "postgresql")
    monkeypatch.setattr(elsewhere, "programs_of_server", lambda version: tmp_path / f"postgresql/{version}/bin")
    (tmp_path / "sql").write_text(DUMP)
    (tmp_path / "list").write_text(LIST)
    (tmp_path / "dump").write_text("PGDMP")
    (tmp_path / "path").mkdir()
    (tmp_path / "path/runuser").write_text('#!/bin/sh\nshift 3; exec "$@"\n')
    (tmp_path / "path/runuser").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/path:{os.environ['PATH']}")
    for version in (15, 17):
        folder = tmp_path / f"postgresql/{version}/bin"
        folder.mkdir(parents=True)
        (folder / "pg_dump").touch()
        for name, program in (
            (
                "pg_restore",
                f'for o; do case $o in --use*) exec cat "${{o#*=}}" {tmp_path}/sql;; esac; done; cat {tmp_path}/list',
            ),
            (
                "psql",
                f'[ "$*" ] && cat > {tmp_path}/ran; test ! -e {tmp_path}/refuse || {{ echo no room >&2; exit 3; }}',
            ),
        ):
            (folder / name).write_text(f"#!/bin/sh\n{program}\n")
            (folder / name).chmod(0o755)
    found = elsewhere.database_of(site)
    found.version = 16
    return found


def test_database_elsewhere_is_read_by_the_role_of_the_site(outside, tmp_path):
    assert outside.user == "shop"
    assert outside.environment["PGSERVICEFILE"] == "/etc/shop/pg_service.conf"
    # pg_dump reads no newer server, and what a newer one writes cannot always be restored to an older server.
    assert outside.argv("pg_dump", "-a") == (f"{tmp_path}/postgresql/17/bin/pg_dump", "-w", "-d", "service=shop", "-a")
    outside.version = 15
    assert outside.argv("pg_dump")[0] == f"{tmp_path}/postgresql/15/bin/pg_dump"
    assert not outside.is_standby()


def test_newer_server_is_refused_with_the_package_to_install(outside):
    outside.version = 18
    with pytest.raises(settings.BackupError, match=r"PostgreSQL 18, .* of 15, 17\. Fix: install postgresql-client-18"):
        outside.argv("pg_dump")


def test_dump_is_restored_without_statements_of_superusers(outside, tmp_path):
    outside.replace(tmp_path / "dump", {"public.a": 2, 'public."B c"': 0})
    ran = (tmp_path / "ran").read_text()
    assert ran.startswith("BEGIN;\n")
    assert ran.index("\\gexec") < ran.index("COMMENT ON TABLE") < ran.index("COPY public.a")
    assert "SELECT count(*) FROM public.a) <> 2" in ran
    assert "COMMENT public TABLE a" in ran
    assert "COMMENT - " not in ran
    # The end of the transaction comes after the check; the body of a procedure stays.
    assert [line for line in ran.splitlines() if line in ("BEGIN;", "COMMIT;")] == ["BEGIN;", "COMMIT;", "COMMIT;"]
    assert ran.index("BEGIN\nCOMMIT;\n-- and more\nEND $$;") < ran.index("DO $check$") < ran.rindex("COMMIT;")
    # Rows are not statements.
    assert ran.count("SET transaction_timeout = 0;") == 2
    assert elsewhere.count_dump(tmp_path / "dump", outside) == {"public.a": 2, 'public."B c"': 0}


def test_failed_restore_elsewhere_is_reported_as_undone(outside, tmp_path):
    (tmp_path / "refuse").touch()
    with pytest.raises(settings.BackupError, match="restore: the database shop is as it was: no room"):
        outside.replace(tmp_path / "dump", {})


def test_damaged_dump_elsewhere_is_not_restored(outside, tmp_path):
    for version in (15, 17):
        (tmp_path / f"postgresql/{version}/bin/pg_restore").write_text(
            '#!/bin/sh\n[ "$*" = --list ] || { echo BEGIN; echo bad >&2; exit 1; }\n'
        )
    with pytest.raises(settings.BackupError, match="the dump is damaged: bad"):
        outside.replace(tmp_path / "dump", {})
    assert "COMMIT" not in (tmp_path / "ran").read_text()


def test_database_beside_that_cannot_be_created_has_a_fix(outside, monkeypatch):
    def refuse(self, query, database=""):
        raise settings.BackupError("psql: ERROR:  permission denied to create database")

    monkeypatch.setattr(elsewhere.Elsewhere, "sql", refuse)
    with pytest.raises(settings.BackupError, match="Fix: create an empty database shop_restored"):
        outside.create_beside("shop_restored")


def test_dump_with_an_extension_that_this_host_lacks_is_only_read(outside, tmp_path):
    (tmp_path / "postgresql/17/bin/initdb").touch()
    listed = tmp_path / "postgresql/17/bin/pg_restore"
    listed.write_text("#!/bin/sh\necho '7; 3079 16385 EXTENSION - nothing_known '\n")
    assert elsewhere.version_for_test(tmp_path / "dump", outside) == 0
    listed.write_text("#!/bin/sh\ntrue\n")
    assert elsewhere.version_for_test(tmp_path / "dump", outside) == 17
