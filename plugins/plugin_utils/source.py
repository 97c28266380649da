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
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

#: Files in a folder without git that do not belong to the source.
NOISE = {
    *(".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "node_modules", ".tox", ".nox", ".idea", ".vscode"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store", "db.sqlite3"),
}

#: Names of secrets and of dumps, in any case; files that git tracks are sent nevertheless.
PRIVATE = re.compile(
    r"""
    \.env(rc|\..*)? | .*\.env
    | \.git-credentials | [._]netrc | \.pgpass | \.my\.cnf | \.pypirc | \.htpasswd
    | \.?vault[_-]pass.* | secrets?\.(json|ya?ml|toml|ini) | client_secret.*\.json | service[_-]account.*\.json
    | id_(rsa|dsa|ecdsa|ed25519)(_sk)? | .*\.(ppk|p12|pfx|jks|keystore|kdbx|tfstate|tfvars)
    | .*\.(dump|pgdump) | .*\.sql\.(gz|bz2|xz|zst) | (.*[_-])?(dump|backup)\.sql | .*\.sqlite3?-(journal|wal|shm)
    | \.(bash|python|psql|node_repl)_history
    """,
    re.IGNORECASE | re.VERBOSE,
)
PRIVATE_FOLDERS = {".ssh", ".aws", ".azure", ".envs", ".gnupg", ".kube"}
#: Names of examples, such as .env.example, which are no secrets.
EXAMPLE = re.compile(r".*[._-](example|sample|template|dist|defaults?)", re.IGNORECASE)
#: The beginning of private keys and dumps of databases.
PRIVATE_CONTENT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|PGDMP|(--\s*)+PostgreSQL database (cluster )?dump"
    rb"|(/\*.*\*/;?\s*)?-- (MySQL|MariaDB) dump"
)

#: Most bytes of a source on the disk, because all of it is sent and the host keeps several releases of it.
LARGEST = 1 << 30
#: Fewest bytes that a file needs on the disk.
BLOCK = 4096

#: The beginning of a file that Git LFS has not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

#: Exceptions that reading a source can raise.
UNREADABLE = (OSError, ValueError, OverflowError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)

#: A file or link of the source, and the content of a file.
Entries = Iterator[tuple[tarfile.TarInfo, bytes | None]]


class Packed(NamedTuple):
    """The digest of names, modes and contents, the names, and the files that were left out because of their names."""

    digest: str
    names: list[str]
    kept_back: list[str]


def pack(path: Path, archive, files: dict[str, str], includes: list[str]) -> Packed:
    """Write the source as a gzipped tar in a fixed order.

    Each of `files` replaces the file of that name in the source. Files of a folder that match a pattern of `includes`
    are packed even if they have the name of a secret or git ignores them.
    """
    if not path.exists():
        raise ValueError("there is no such folder or archive on the controller")
    kept_back: list[str] = []
    entries = from_folder(path, includes, kept_back) if path.is_dir() else from_archive(path)
    digest = hashlib.sha256()
    names, pointers = [], []
    # Fast compression, because the transfer takes little time in comparison with the installation of packages.
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as packed:
        for info, content in with_files(entries, files):
            if content is not None and content.startswith(LFS_POINTER):
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
    if pointers:
        raise ValueError(f"{', '.join(pointers[:5])}: only the pointer of Git LFS is there: git lfs pull")
    return Packed(digest.hexdigest(), names, [name for name in kept_back if name not in files])


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
    """Return the names of a folder to pack; add untracked names of secrets and dumps to `kept_back`."""
    found = names_in(top)
    exported = found.keys() - ignored_by_export(top, found)
    there = found.keys() | ignored_by_git(top) if includes else set()
    wanted = set()
    for pattern in includes:
        fitting = set(fnmatch.filter(there, pattern))
        if not fitting:
            raise ValueError(f"nothing in it fits {pattern}, of django_source_includes")
        wanted |= fitting
    kept_back += sorted(
        name for name, tracked in found.items() if not tracked and name not in wanted and is_private(top, name)
    )
    names = sorted((exported | wanted) - set(kept_back))
    scale = Scale()
    for name in names:
        scale.add(name, (top / name).lstat().st_size)
    return names


def from_folder(top: Path, includes: list[str], kept_back: list[str]) -> Entries:
    names = selection(top, includes, kept_back)
    links = {name: os.readlink(top / name) for name in names if (top / name).is_symlink()}
    for name in names:
        path = top / name
        info = tarfile.TarInfo(name)
        status = path.lstat()
        info.mode, info.mtime = status.st_mode, int(status.st_mtime)
        if path.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, links[name]
            check_link(name, links)
            yield info, None
        elif path.is_file():
            content = path.read_bytes()
            info.size = len(content)
            yield info, content


def is_private(top: Path, name: str) -> bool:
    *folders, last = PurePosixPath(name).parts
    if PRIVATE_FOLDERS & set(folders) or (PRIVATE.fullmatch(last) and not EXAMPLE.fullmatch(last)):
        return True
    path = top / name
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(PRIVATE_CONTENT.match(file.read(100)))


def git(*argv: str | Path, **options) -> subprocess.CompletedProcess:
    """Run git without the programs in the configuration of a repository, which is not trusted."""
    trust = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    without = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    environment = {**os.environ, **trust}
    return subprocess.run(["git", *without, *argv], capture_output=True, check=False, env=environment, **options)


def ignored_by_git(top: Path) -> set[str]:
    if not shutil.which("git"):
        return set()
    listed = git("-C", top, "ls-files", "-z", "--others", "--ignored", "--exclude-standard").stdout
    return {os.fsdecode(name) for name in listed.split(b"\0") if name}


def ignored_by_export(top: Path, names: dict[str, bool]) -> set[str]:
    """Return the names that `git archive` would leave out because of export-ignore in .gitattributes."""
    told = [name for name in names if PurePosixPath(name).name == ".gitattributes" and (top / name).is_file()]
    if not shutil.which("git") or not any(b"export-ignore" in (top / name).read_bytes() for name in told):
        return set()
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents if folder.name}
    with tempfile.TemporaryDirectory() as empty:
        # A temporary repository, because the source may not be in one; only .gitattributes in its folder count.
        git("init", "--quiet", "--bare", empty)
        # Each folder with and without a slash, because patterns can have both forms.
        asked = b"\0".join(map(os.fsencode, [*names, *folders, *(f"{folder}/" for folder in folders)]))
        where = (f"--git-dir={empty}", f"--work-tree={top}", "-C", top)
        answered = git(*where, "check-attr", "-z", "--stdin", "export-ignore", input=asked + b"\0")
    if answered.returncode:
        raise ValueError(answered.stderr.decode(errors="replace").strip())
    fields = answered.stdout.split(b"\0")
    ignored = {
        os.fsdecode(name).rstrip("/") for name, value in zip(fields[::3], fields[2::3], strict=False) if value == b"set"
    }
    return {
        name
        for name in names
        if name in ignored or any(str(folder) in ignored for folder in PurePosixPath(name).parents)
    }


def names_in(top: Path) -> dict[str, bool]:
    """Return the files of a folder and whether git tracks them: those that git does not ignore, else all but NOISE."""
    if not shutil.which("git"):
        if any((folder / ".git").exists() for folder in (top, *top.resolve().parents)):
            raise ValueError("git says which of its files are ignored, and is not installed on this machine")
        return dict.fromkeys(all_in(top), False)
    listed = git("-C", top, "ls-files", "-z", "-t", "--cached", "--others", "--exclude-standard")
    if listed.returncode and b"not a git repository (or any" not in listed.stderr:
        # Packing all files instead would include those that git ignores, such as secrets.
        raise ValueError(listed.stderr.decode(errors="replace").strip())
    if listed.returncode or not listed.stdout:
        return dict.fromkeys(all_in(top), False)
    names = {}
    for line in filter(None, listed.stdout.split(b"\0")):
        # A line has a tag, a space and the name.
        name, tracked = os.fsdecode(line[2:]), not line.startswith(b"?")
        if (top / name).is_dir() and not (top / name).is_symlink():  # a submodule
            if not (top / name / ".git").exists():
                raise ValueError(f"the submodule {name} is not checked out: git submodule update --init")
            names |= {os.path.join(name, below): known for below, known in names_in(top / name).items()}
        elif os.path.lexists(top / name):
            names[name] = tracked or names.get(name, False)
    return names


def all_in(top: Path) -> list[str]:
    found = []
    for base, folders, files in os.walk(top):
        if "pyvenv.cfg" in files:  # a virtual environment, whatever its name
            folders.clear()
            continue
        folders[:] = [name for name in folders if name not in NOISE]
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        found += [
            os.path.relpath(os.path.join(base, name), top)
            for name in files + links
            if name not in NOISE and not name.endswith(".pyc")
        ]
    return found


def from_archive(path: Path) -> Entries:
    with tarfile.open(path, mode="r:*") as source:
        members, scale = {}, Scale()
        for member in source:
            scale.add(member.name, member.size)
            name = str(PurePosixPath(member.name))
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{member.name} leads out of the archive")
            if member.isfile() or member.issym() or member.islnk():
                members[name] = member
        tops = {PurePosixPath(name).parts[0] for name in members}
        if len(tops) == 1 and not (tops & set(members)):
            members = {"/".join(PurePosixPath(name).parts[1:]): member for name, member in members.items()}
        links = {name: member.linkname for name, member in members.items() if member.issym()}
        for name in sorted(members):
            member = members[name]
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = member.mode, member.mtime
            if member.issym():
                info.type, info.linkname = tarfile.SYMTYPE, member.linkname
                check_link(name, links)
                yield info, None
            else:
                try:
                    content = source.extractfile(member).read()
                except (KeyError, AttributeError):
                    raise ValueError(f"{name} is a link to {member.linkname}, which is no file of it") from None
                if member.islnk():
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
