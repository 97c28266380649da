"""The settings of a site's backup, its state on this host, and what all of its programs need."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

#: Name of the dump in the folder `set`, and of the manifest: what the set has, and what it must be like when restored.
DUMP, MANIFEST = "database.dump", "manifest.json"

#: A set or a base backup is too old after this many seconds, two nights and a day.
OLD = 60 * 3600

#: A restore that began within so many seconds may be the one that this run repeats.
RECENT = 86400


class BackupError(Exception):
    """A failure; the message is for the user."""


def utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Site:
    """The settings that the role has written, and the state on this host."""

    def __init__(self, path: Path) -> None:
        settings = json.loads(path.read_text())
        self.name: str = settings["site"]
        #: What this host has of the site: database, files, certificates.
        self.parts: list[str] = settings["parts"]
        self.repository: str = settings["repository"]
        #: Where pgBackRest keeps the WAL; None without points in time.
        self.archive: dict[str, str] | None = settings["archive"]
        self.environment: dict[str, str] = settings["environment"]
        self.keep: dict[str, int] = settings["keep"]
        self.exclude: list[str] = settings["exclude"]
        #: Directives of systemd for the priority of a backup.
        self.priority: list[str] = settings["priority"]
        self.database: str = settings["database"]
        self.owner: str = settings["database_owner"]
        #: Role of the running site in the database, and its system user.
        self.role: str = settings["database_user"]
        self.user: str = settings["user"]
        #: How libpq connects to a database that the stack does not manage; empty for one on this host.
        self.service_file: str = settings["service_file"]
        #: Command that runs manage.py of a release.
        self.manage: str = settings["manage"]
        #: Script for psql that gives a database to its owner, and the other roles their privileges.
        self.privileges = Path(settings["database_privileges"])
        self.socket_dir: str = settings["socket_dir"]
        self.media = Path(settings["media"])
        self.home = Path(settings["home"])
        self.config_dir = Path(settings["config_dir"])
        self.private = path.parent
        self.folder = Path("/var/lib/django_vps/backup", self.name)
        self.set = self.folder / "set"

    @property
    def uploads(self) -> list[Path]:
        """The folders that visitors fill."""
        return [path for path in (self.media, self.home / "shared") if path.exists()]

    @property
    def certificates(self) -> list[Path]:
        """What certbot needs on a new host: its accounts, and the certificates of this site."""
        folder, of_site = Path("/etc/letsencrypt"), f"{self.name}-{'[0-9a-f]' * 8}"
        found = [path for part in ("live", "archive") for path in folder.glob(f"{part}/{of_site}")]
        return [folder / "accounts", *found, *folder.glob(f"renewal/{of_site}.conf")]

    @property
    def state(self) -> dict:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((self.folder / "state.json").read_text())
        return {}

    def note(self, **facts: object) -> None:
        write(self.folder / "state.json", json.dumps({**self.state, **facts}, indent=1) + "\n")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one command for this site run at a time; a lock ends with its process."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another backup or restore of this site", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Provide an empty folder until the block ends."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.rename(path)


def require_room(folder: Path, size: int, what: str) -> None:
    """Fail unless a file system has room for `size` bytes, a tenth more, and 128 MiB for everything else."""
    free, needed = shutil.disk_usage(folder).free, int(size * 1.1) + 2**27
    if free < needed:
        raise BackupError(
            f"disk: {folder} has {free // 2**20} MiB free, and {what} needs {needed // 2**20}."
            " Fix: remove files, or enlarge the disk."
        )
