"""The programs of a backup: which set is meant, what is compared, what is exchanged; and the recovery file."""

from __future__ import annotations

import json
import os
import stat
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
import files  # noqa: E402
import repository  # noqa: E402
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
        "environment": {},
        "keep": {"daily": 7},
        "exclude": [],
        "database": "shop",
        "database_user": "shop",
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
def test_a_set_that_is_not_there_is_refused(restic, which, said):
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
def test_sftp_uses_the_key_of_the_site_and_the_address_of_the_repository(site, address, command):
    site.repository = address
    options = repository.Restic(site).options
    first, last = command.split(" * ")
    assert first in options[1]
    assert options[1].endswith(f" {last} -s sftp")
    key = site.private / "ssh_key"
    assert key.read_text() == "k\n"


def test_an_old_set_and_an_old_test_are_problems(site):
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


def test_of_many_files_a_few_are_in_the_sample(tmp_path, monkeypatch):
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


def test_files_are_exchanged_with_what_is_in_their_folder(tmp_path):
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


def test_a_full_disk_is_said_with_the_numbers(tmp_path):
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


def test_the_file_has_the_secrets_of_the_host_and_a_bare_one_gets_those_of_the_file(tmp_path):
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
def test_a_set_without_a_file_that_could_not_be_read_is_removed(restic, monkeypatch, code, said, counts):
    ran = []

    def run(*argv, check=True):
        ran.append(argv)
        return SimpleNamespace(returncode=code, stderr=said, stdout='{"snapshot_id": "abc"}')

    monkeypatch.setattr(restic, "run", run)
    if counts:
        assert backup.snapshot(restic)["snapshot_id"] == "abc"
        assert len(ran) == 1
    else:
        with pytest.raises(settings.BackupError):
            backup.snapshot(restic)
        assert ran[1] == ("forget", "abc")


def test_a_name_of_an_upload_is_no_pattern(restic, monkeypatch):
    ran = []
    monkeypatch.setattr(
        restic, "run", lambda *argv, check: ran.append(argv) or SimpleNamespace(returncode=0, stderr="")
    )
    restic.restore({"id": "abc"}, "/x", "/srv/a[1]*?\\b.png")
    assert ran == [("restore", "abc", "--target=/x", "--include=/srv/a\\[1]\\*\\?\\\\b.png")]
