# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pack the source on the controller, and bring it to the host only when the host lacks that release."""

from __future__ import annotations

import base64
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# What a folder without git holds beside the source.
NOISE = {
    *(".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "node_modules", ".tox", ".nox", ".idea", ".vscode"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store", "db.sqlite3"),
}

MODULE = "django_vps.stack.release"

#: What a file begins with that Git LFS has not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

#: A file or link of the source, and the content of a file.
Entries = Iterator[tuple[tarfile.TarInfo, bytes | None]]

#: Bytes of a packed source that are sent without asking first whether they are needed.
SMALL = 1 << 20


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        source = self._task.args.get("source")
        if not source or not isinstance(source, str):
            raise AnsibleActionFail("source is required: a folder or a .tar.gz on the controller.")
        path = Path(self._loader.path_dwim(os.path.expanduser(source)))
        with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
            try:
                digest, names = pack(path, archive, self._task.args.get("files") or {})
            except (OSError, ValueError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
                where = getattr(error, "filename", None) or path
                raise AnsibleActionFail(f"source: {where}: {getattr(error, 'strerror', None) or error}") from error
            arguments = {**self._task.args, "source": str(path), "digest": digest}
            # They are in the packed source by now.
            arguments.pop("files", None)
            # One round trip is worth more than a few bytes.
            small = archive.tell() <= SMALL and not self._task.check_mode
            if small:
                archive.seek(0)
                arguments["content"] = base64.b64encode(archive.read()).decode()
            result = self._execute_module(MODULE, module_args=arguments, task_vars=task_vars)
            commands = [*(arguments.get("before_collectstatic") or ()), *(arguments.get("after_collectstatic") or ())]
            if result.get("changed") and (lacking := untranslated(names, commands)):
                self._display.warning(
                    f"{', '.join(lacking[:5])}: there is no .mo beside it, so visitors do not see that translation;"
                    " write django_build: {before_collectstatic: [python manage.py compilemessages]} and"
                    " django_system_packages: [gettext]"
                )
            if result.get("changed") and not small and not self._task.check_mode:
                archive.flush()
                # The module takes away what it finds as its own folder; this one is kept until it has ended.
                folder = self._make_tmp_path()
                remote = self._connection._shell.join_path(folder, "source.tar.gz")
                self._transfer_file(archive.name, remote)
                arguments["archive"] = remote
                try:
                    result = self._execute_module(MODULE, module_args=arguments, task_vars=task_vars)
                finally:
                    self._remove_tmp_path(folder, force=True)
        return result


def pack(path: Path, archive, files: dict[str, str]) -> tuple[str, list[str]]:
    """Write the source as a gzipped tar in one order; the digest of names, modes and contents, and the names.

    Of `files`, each takes the place of the file of that name in the source.
    """
    if not path.exists():
        raise ValueError("there is no such folder or archive on the controller")
    entries = from_folder(path) if path.is_dir() else from_archive(path)
    digest = hashlib.sha256()
    names, pointers = [], []
    # Fast compression: the way to the host is short beside an install.
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as packed:
        for info, content in with_files(entries, files):
            if content is not None and content.startswith(LFS_POINTER):
                pointers.append(info.name)
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
            digest.update(f"{info.name}\0{info.mode:o}\0{info.type!r}\0{info.linkname}\0{info.size}\0".encode())
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
    return digest.hexdigest(), names


def untranslated(names: list[str], commands: list[str]) -> list[str]:
    """The translations that nobody has compiled, and that no command of the build will."""
    if any("compilemessages" in command for command in commands):
        return []
    known = set(names)
    return [
        name for name in names if "/LC_MESSAGES/" in name and name.endswith(".po") and f"{name[:-2]}mo" not in known
    ]


def with_files(entries: Entries, files: dict[str, str]) -> Entries:
    """The source, with further files in it."""
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


def from_folder(top: Path) -> Entries:
    names = sorted(names_in(top))
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


def names_in(top: Path) -> list[str]:
    """The files of a folder: what git does not ignore, or without git all but the usual noise."""
    if not shutil.which("git"):
        if any((folder / ".git").exists() for folder in (top, *top.resolve().parents)):
            raise ValueError("git says which of its files are ignored, and is not installed on this machine")
        return all_in(top)
    listed = subprocess.run(
        ["git", "-C", str(top), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if listed.returncode and b"not a git repository (or any" not in listed.stderr:
        # Taking everything instead would take what git was told to ignore, such as secrets.
        raise ValueError(listed.stderr.decode(errors="replace").strip())
    if listed.returncode == 0 and listed.stdout:
        names = []
        for name in {os.fsdecode(name) for name in listed.stdout.split(b"\0") if name}:
            if (top / name).is_dir() and not (top / name).is_symlink():  # a submodule
                if not (top / name / ".git").exists():
                    raise ValueError(f"the submodule {name} is not checked out: git submodule update --init")
                names += [os.path.join(name, below) for below in names_in(top / name)]
            elif os.path.lexists(top / name):
                names.append(name)
        return names
    return all_in(top)


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
        members = {}
        for member in source.getmembers():
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
                content = source.extractfile(member).read()
                info.size = len(content)
                yield info, content


def check_link(name: str, links: dict[str, str]) -> None:
    """A link has to stay inside, also where it leads on through others: the host's files are not the project's."""
    here, steps = name.split("/")[:-1], [name.rpartition("/")[2], "."]
    # More of them than this go in a circle.
    for _ in range(1000):
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
