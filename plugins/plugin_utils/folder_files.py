# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""List the files of a folder, and which of them git tracks, ignores or does not export."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path, PurePosixPath

from ansible_collections.django_vps.stack.plugins.plugin_utils.private_files import NOISE


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
