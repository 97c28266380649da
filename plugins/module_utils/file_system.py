# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write and remove files so that a crash at any moment leaves the old state or the new one."""

from __future__ import annotations

import grp
import os
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.commands import run


def create_file(path: str | os.PathLike[str], content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Create a new file; only root can read it until it has its owner (uid and gid) and its mode."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if owner:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def write_file(path: Path, content: bytes | str, mode: int = 0o600) -> None:
    """Write a file so that a crash leaves the complete old or new content; only root can open it unless told."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    create_file(beside, content.encode() if isinstance(content, str) else content, mode)
    os.replace(beside, path)
    sync_directory(path.parent)


def replace_link(link: Path, target: str) -> None:
    """Change the target of a symbolic link by one atomic rename."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)
    sync_directory(link.parent)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Write a directory to the disk, so that the renames in it survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder with its content by rm, which has no limit for the depth of the folders in it."""
    run("disk", ["rm", "-rf", "--", str(path)], advice=f"Remove {path} by hand.")


def give_to_root(folder: Path, group: str, public: bool = False) -> None:
    """Make root the owner of a tree; links are changed, not their targets. nginx can read a public tree."""
    gid = grp.getgrnam(group).gr_gid
    for base, folders, files in os.walk(folder):
        os.lchown(base, 0, gid)
        if public:
            os.chmod(base, 0o755)
        for path in (Path(base, name) for name in folders + files):
            if path.is_symlink() or not path.is_dir():
                os.lchown(path, 0, gid)
            if public and path.is_file() and not path.is_symlink():
                path.chmod(0o644)
