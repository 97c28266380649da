"""Describe, compare and replace the uploads."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from settings import BackupError

#: Files of which the manifest has the digest.
SAMPLE = 200
#: Files of this size in bytes and larger are in no sample.
LARGE = 1 << 26
#: Folder inside the uploads for what replaces them; it is on the same file system.
STAGING = ".restore"


def files_in(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(where, name) != folder / STAGING]
        yield from (path for name in names if not (path := Path(where, name)).is_symlink())


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_excluded(path: Path, patterns: list[str]) -> bool:
    """Return whether restic may leave out a file, by all readings of its patterns."""
    return any(
        fnmatch.fnmatch(str(part), form)
        for pattern in patterns
        for form in (pattern, f"*/{pattern}")
        for part in (path, *path.parents)
    )


def describe(folder: Path, began: float, exclude: list[str]) -> dict[str, object]:
    """Return what the manifest has of the uploads; a few of them are drawn as a sample."""
    count, drawn, sample = 0, 0, []
    for path in files_in(folder):
        count += 1
        # A visitor can remove a file at any time, or be changing it.
        with contextlib.suppress(FileNotFoundError):
            entry = path.stat()
            if entry.st_ctime < began - 60 and entry.st_size < LARGE and not is_excluded(path, exclude):
                drawn += 1
                if len(sample) < SAMPLE:
                    sample.append(path)
                elif (place := random.randrange(drawn)) < SAMPLE:
                    sample[place] = path
    digests = {}
    for path in sample:
        with contextlib.suppress(FileNotFoundError):
            entry = path.stat()
            digests[str(path.relative_to(folder))] = [digest(path), entry.st_mtime_ns, entry.st_size]
    owner = folder.stat()
    return {"files": count, "sample": digests, "owner": [owner.st_uid, owner.st_gid]}


def compare(folder: Path, sample: dict[str, tuple[str, int, int]]) -> None:
    """Fail if a restored file differs from the sample, or more than a tenth of the sample is missing."""
    missing = [name for name in sample if not (folder / name).exists()]
    # One can have been removed while the set was made.
    if len(missing) * 10 > len(sample):
        raise BackupError(f"of {len(sample)} files that were backed up, {len(missing)} were not restored: {missing[0]}")
    for name in sample.keys() - set(missing):
        expected, changed, _size = sample[name]
        # A file that was written while the set was made has another time.
        if (folder / name).stat().st_mtime_ns == changed and digest(folder / name) != expected:
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


def remove_staged(live: Path) -> None:
    """Remove what is staged, unless the exchange has begun: then live files are there too."""
    if not (live / STAGING / "old").exists():
        shutil.rmtree(live / STAGING, ignore_errors=True)


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
