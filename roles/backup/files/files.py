"""Describe, compare and replace the uploads."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from settings import BackupError

#: Files of which the manifest has the digest.
SAMPLE = 200
#: Folder inside the uploads for what replaces them; it is on the same file system.
STAGING = ".restore"


def files_in(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(where, name) != folder / STAGING]
        yield from (path for name in names if not (path := Path(where, name)).is_symlink())


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(folder: Path, began: float) -> dict[str, object]:
    """Return what the manifest has of the uploads."""
    files = {path: path.stat().st_ctime for path in files_in(folder)}
    # Visitors may still be changing the others.
    settled = [path for path, changed in files.items() if changed < began - 60]
    sample = random.sample(settled, min(SAMPLE, len(settled)))
    owner = folder.stat()
    return {
        "files": len(files),
        "sample": {str(path.relative_to(folder)): digest(path) for path in sample},
        "owner": [owner.st_uid, owner.st_gid],
    }


def compare(folder: Path, sample: dict[str, str]) -> None:
    for name, expected in sample.items():
        path = folder / name
        if not path.exists() or digest(path) != expected:
            raise BackupError(f"the restored file {name} is not the one that was backed up")


def change_owner(folder: Path, was: list[int], live: os.stat_result) -> None:
    """Give the files of the site's user on an earlier host to that of this host, who can have another number."""
    if was == [live.st_uid, live.st_gid]:
        return
    for path in (folder, *folder.rglob("*")):
        entry = path.lstat()
        user = live.st_uid if entry.st_uid == was[0] else entry.st_uid
        group = live.st_gid if entry.st_gid == was[1] else entry.st_gid
        os.lchown(path, user, group)


def exchange(live: Path, restored: Path) -> None:
    """Replace the entries of a folder by those of another one, which is below its staging folder."""
    old = live / STAGING / "old"
    old.mkdir(exist_ok=True)
    for entry in live.iterdir():
        if entry.name != STAGING:
            entry.rename(old / entry.name)
    for entry in restored.iterdir():
        entry.rename(live / entry.name)
    shutil.rmtree(live / STAGING)
