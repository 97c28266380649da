# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Select the files of a source that are sent to the hosts, and pack them."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ansible_collections.django_vps.stack.plugins.plugin_utils.folder_files import (
    ignored_by_export,
    ignored_by_git,
    names_in,
)
from ansible_collections.django_vps.stack.plugins.plugin_utils.private_files import (
    NOISE,
    find_noise,
    is_private,
    name_noise,
    read_head,
    shorten,
)

#: Most bytes of a source on the disk, because all of it is sent and the host keeps several releases of it.
LARGEST = 1 << 30
#: Fewest bytes that a file needs on the disk.
BLOCK = 4096

#: The beginning of a file that Git LFS has not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

#: The commit in the header of an archive that git has packed.
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")

#: Exceptions that reading a source can raise.
UNREADABLE = (OSError, ValueError, OverflowError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)

#: A file or link of the source, and the content of a file.
Entries = Iterator[tuple[tarfile.TarInfo, bytes | None]]


class SourceError(ValueError):
    """A source that cannot be sent, with what to do."""

    def __init__(self, cause: str, advice: str) -> None:
        super().__init__(f"{cause}. Fix: {advice}")
        self.cause, self.advice = cause, advice


class Packed(NamedTuple):
    """The digest of names, modes and contents, the names, and the names and folders that were kept back."""

    digest: str
    names: list[str]
    kept_back: list[str]


def pack(path: Path, archive, files: dict[str, str], includes: list[str]) -> Packed:
    """Write the source as a gzipped tar in a fixed order.

    Each of `files` replaces the file of that name in the source. Files that match a pattern of `includes` are packed
    even if they look like a secret or git ignores them.
    """
    if not path.exists():
        raise ValueError("there is no such folder or archive on the controller")
    kept_back: list[str] = []
    entries = (from_folder if path.is_dir() else from_archive)(path, includes, kept_back)
    digest = hashlib.sha256()
    names, pointers = [], []
    # Fast compression, because the transfer takes little time in comparison with the installation of packages.
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as packed:
        for info, content in with_files(entries, files):
            if content is not None and is_pointer(content):
                pointers.append(info.name)
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
            facts = f"{info.name}\0{info.mode:o}\0{info.type!r}\0{info.linkname}\0{info.size}\0"
            try:
                digest.update(facts.encode())
            except UnicodeEncodeError:
                raise ValueError(f"the name {info.name!a}, or what it links to, is not in UTF-8") from None
            if content is None:
                packed.addfile(info)
            else:
                digest.update(content)
                packed.addfile(info, io.BytesIO(content))
            names.append(info.name)
    if len(names) == len(files):
        raise ValueError("it is empty")
    refuse_pointers(path, pointers)
    return Packed(digest.hexdigest(), names, [name for name in kept_back if name not in files])


def is_pointer(content: bytes) -> bool:
    return content.startswith(LFS_POINTER)


def refuse_pointers(path: Path, names: list[str]) -> None:
    """Refuse a source in which these files have only the pointer of Git LFS."""
    if names:
        where = f"in {path} run" if path.is_dir() else "before the archive is packed, run"
        advice = f"install git-lfs on the machine that runs Ansible (git lfs install), and {where} git lfs pull"
        raise SourceError(f"{shorten(names, 5)}: only the pointer of Git LFS is there", advice)


def refuse_empty_submodules(listed: str, names: Collection[str], is_folder: Callable[[str], bool]) -> None:
    """Refuse a submodule of .gitmodules without files; archives of forges have its folder and nothing in it."""
    for path in re.findall(r'^\s*path\s*=\s*"?(.+?)"?\s*$', listed, re.MULTILINE):
        # A submodule that the source leaves out on purpose has no folder.
        if is_folder(path) and not any(name.startswith(f"{path}/") for name in names):
            advice = "write the address of the repository as django_source, or use a clone with all submodules"
            raise SourceError(f"the submodule {path} is empty, as in archives of forges", advice)


class Scale:
    """The size of the files of a source, which is checked before they are read, as they may not fit into memory."""

    def __init__(self) -> None:
        self.total, self.largest = 0, ("", 0)

    def add(self, name: str, size: int) -> None:
        self.total += max(size, BLOCK)
        self.largest = max(self.largest, (name, size), key=lambda item: item[1])
        if self.total > LARGEST:
            raise ValueError(
                f"it has more than {LARGEST >> 20} MiB of files, which is the most that a release may have (the largest"
                f" so far is {self.largest[0]} with {self.largest[1] >> 20} MiB); keep data elsewhere, such as in"
                " site_media_root or django_shared_paths"
            )


def untranslated(names: list[str], commands: list[str]) -> list[str]:
    """Return the translations that are not compiled, and that no command of the build compiles."""
    if any("compilemessages" in command for command in commands):
        return []
    known = set(names)
    return [
        name for name in names if "/LC_MESSAGES/" in name and name.endswith(".po") and f"{name[:-2]}mo" not in known
    ]


def with_files(entries: Entries, files: dict[str, str]) -> Entries:
    """Yield the entries of the source with additional files."""
    for info, content in entries:
        if info.name in files:
            continue
        if info.issym() and any(name.startswith(f"{info.name}/") for name in files):
            raise ValueError(f"{info.name} is a link, and a file of django_files would lie behind it")
        yield info, content
    for name, text in sorted(files.items()):
        info = tarfile.TarInfo(name)
        content = text.encode()
        info.size = len(content)
        yield info, content


def selection(top: Path, includes: list[str], kept_back: list[str]) -> list[str]:
    """Return the names of a folder to pack; add untracked secrets, dumps and caches to `kept_back`."""
    found = names_in(top)
    if ".gitmodules" in found:
        listed = (top / ".gitmodules").read_text(errors="replace")
        refuse_empty_submodules(listed, found, lambda name: (top / name).is_dir())
    exported = found.keys() - ignored_by_export(top, found)
    wanted = matching(found.keys() | ignored_by_git(top) if includes else set(), includes)
    untracked = [name for name, tracked in found.items() if not tracked and name not in wanted]
    noise = find_noise(untracked)
    private = {name for name in untracked if name not in noise and is_private(name, read_head(top / name))}
    kept_back += [*sorted(private), *name_noise(noise.values())]
    names = sorted((exported | wanted) - private - noise.keys())
    links = {name: os.readlink(top / name) for name in names if (top / name).is_symlink()}
    scale = Scale()
    for name in names:
        scale.add(name, (top / name).lstat().st_size)
        if name in links:
            check_link(name, links)
    return names


def matching(names: Collection[str], includes: list[str]) -> set[str]:
    """Return the names that match a pattern of django_source_includes."""
    wanted = set()
    for pattern in includes:
        fitting = set(fnmatch.filter(names, pattern))
        if not fitting:
            raise ValueError(f"nothing in it fits {pattern}, of django_source_includes")
        wanted |= fitting
    return wanted


def from_folder(top: Path, includes: list[str], kept_back: list[str]) -> Entries:
    for name in selection(top, includes, kept_back):
        path = top / name
        info = tarfile.TarInfo(name)
        status = path.lstat()
        info.mode, info.mtime = status.st_mode, int(status.st_mtime)
        if path.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
            yield info, None
        elif path.is_file():
            content = path.read_bytes()
            info.size = len(content)
            yield info, content


def from_archive(path: Path, includes: list[str], kept_back: list[str]) -> Entries:
    """Yield the entries of an archive: all that git has packed, and else the same as of a folder without git."""
    with tarfile.open(path, mode="r:*") as source:
        # `git archive`, which forges use as well, writes the commit into the header; what it packs is tracked.
        tracked = bool(COMMIT.fullmatch(source.pax_headers.get("comment", "")))
        members, folders, scale = {}, set(), Scale()
        for member in source:
            name = str(PurePosixPath(member.name))
            parts = PurePosixPath(name).parts
            if tracked or not NOISE.intersection(parts):
                scale.add(member.name, member.size)
            if name.startswith("/") or ".." in parts:
                raise ValueError(f"{member.name} leads out of the archive")
            if member.isfile() or member.issym() or member.islnk():
                members[name] = member
            elif member.isdir():
                folders.add(name)
        tops = {PurePosixPath(name).parts[0] for name in members}
        if len(tops) == 1 and not (tops & set(members)):
            members = {"/".join(PurePosixPath(name).parts[1:]): member for name, member in members.items()}
            folders = {"/".join(PurePosixPath(name).parts[1:]) for name in folders}

        def read(name: str) -> bytes:
            member = members[name]
            try:
                return source.extractfile(member).read()
            except (KeyError, AttributeError):
                raise ValueError(f"{name} is a link to {member.linkname}, which is no file of it") from None

        if ".gitmodules" in members:
            refuse_empty_submodules(read(".gitmodules").decode(errors="replace"), members, folders.__contains__)
        wanted = set(members) if tracked else matching(members, includes)
        for name in find_noise(members.keys() - wanted):
            del members[name]
        links = {name: member.linkname for name, member in members.items() if member.issym()}
        for name in sorted(members):
            member = members[name]
            content = b"" if member.issym() else read(name)
            if name not in wanted and is_private(name, content):
                kept_back.append(name)
                continue
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = member.mode, member.mtime
            if member.issym():
                info.type, info.linkname = tarfile.SYMTYPE, member.linkname
                check_link(name, links)
                yield info, None
            else:
                if member.islnk() or (not tracked and NOISE.intersection(PurePosixPath(name).parts)):
                    scale.add(name, len(content))
                info.size = len(content)
                yield info, content


def check_link(name: str, links: dict[str, str]) -> None:
    """Refuse a link that leads outside of the source, also through others, because it would show files of the host."""
    here, steps = name.split("/")[:-1], [name.rpartition("/")[2], "."]
    # A path with more steps than this goes in a circle.
    for _step in range(1000):
        if not steps:
            return
        step = steps.pop(0)
        path = "/".join([*here, step])
        if path in links and steps:
            if links[path].startswith("/"):
                break
            steps = [*links[path].split("/"), *steps]
        elif step == "..":
            if not here:
                break
            here.pop()
        elif step not in ("", "."):
            here.append(step)
    raise ValueError(f"the link {name} leads out of the source, to {links[name]}")
