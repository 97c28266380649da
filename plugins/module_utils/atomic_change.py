# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Change several files as one: all changes stay if a command accepts them, else none."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shlex
import subprocess
from collections.abc import Callable

from ansible_collections.django_vps.stack.plugins.module_utils.commands import execute
from ansible_collections.django_vps.stack.plugins.module_utils.file_entries import (
    ChangeError,
    Entry,
    describe_difference,
    find_foreign,
    find_obstacle,
    parse_entry,
    read_entry,
)
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import create_file, sync_directory
from ansible_collections.django_vps.stack.plugins.module_utils.locks import open_lock_file

#: The lock that is held while files change.
LOCK = "/run/django_vps-files.lock"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
#: Target of the link that stands for the old state of a path that did not exist.
NOTHING = "/nothing/was/here"

#: The functions that undo the steps of a change, each with its path.
UndoSteps = list[tuple[str, Callable[[], object]]]


def hidden_name(path: str, kind: str) -> str:
    """Return a name in the same folder that `include *` and `*.conf` do not match."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{kind}.config_files")


def remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def keep(path: str) -> None:
    """Keep the old file under another name, so that restoring it needs no space on the disk."""
    if os.path.lexists(path):
        os.link(path, hidden_name(path, "before"), follow_symlinks=False)
    else:
        os.symlink(NOTHING, hidden_name(path, "before"))


def put_back(path: str) -> bool:
    """Undo the change that this run or an interrupted one made to a path; False if there is none."""
    remove_file(hidden_name(path, "new"))
    before = hidden_name(path, "before")
    if not os.path.lexists(before):
        return False
    if os.path.islink(before) and os.readlink(before) == NOTHING:
        remove_file(path)
    else:
        os.replace(before, path)
    # A rename to another name of the same file keeps both names.
    remove_file(before)
    sync_directory(os.path.dirname(path))
    return True


def set_owner(path: str, uid: int, gid: int) -> None:
    st = os.lstat(path)
    if (st.st_uid, st.st_gid) != (uid, gid):
        os.chown(path, uid, gid, follow_symlinks=False)


def make_parents(path: str, undo: UndoSteps) -> None:
    parent = os.path.dirname(path)
    if os.path.isdir(parent):
        return
    make_parents(parent, undo)
    make_folder(parent, 0o755, os.geteuid(), os.getegid(), undo)


def make_folder(path: str, mode: int, uid: int, gid: int, undo: UndoSteps) -> None:
    os.mkdir(path)
    undo.append((path, functools.partial(os.rmdir, path)))
    set_folder(path, mode, uid, gid)
    sync_directory(os.path.dirname(path))


def set_folder(path: str, mode: int, uid: int, gid: int) -> None:
    set_owner(path, uid, gid)
    os.chmod(path, mode)


def change(old: Entry, new: Entry, undo: UndoSteps) -> None:
    """Change one path from its old entry to the new one; each step first records how to undo it."""
    path = new.path
    if "directory" in (old.state, new.state):
        back = (path, old.mode, old.uid, old.gid)
        if new.state == "absent":
            os.rmdir(path)
            undo.append((path, functools.partial(make_folder, *back, [])))
        elif old.state == "absent":
            make_parents(path, undo)
            make_folder(path, new.mode, new.uid, new.gid, undo)
        else:
            undo.append((path, functools.partial(set_folder, *back)))
            set_folder(path, new.mode, new.uid, new.gid)
        return
    make_parents(path, undo)
    undo.append((path, functools.partial(put_back, path)))
    keep(path)
    if new.state == "absent":
        os.unlink(path)
    else:
        fresh = hidden_name(path, "new")
        if new.state == "link":
            os.symlink(new.target, fresh)
            set_owner(fresh, new.uid, new.gid)
        else:
            create_file(fresh, new.content, new.mode, (new.uid, new.gid))
        os.replace(fresh, path)
    sync_directory(os.path.dirname(path))


def split_command(command: str | list | None) -> list[str]:
    if isinstance(command, str):
        try:
            return shlex.split(command)
        except ValueError as error:
            raise ChangeError(f"validate cannot be split into words: {error}") from None
    if command is None or isinstance(command, list):
        return [str(word) for word in command or []]
    raise ChangeError("validate must be a string or a list")


def shorten_command(argv: list[str]) -> str:
    """Return the command for a message, without the text of a script."""
    return shlex.join([word if "\n" not in word else "..." for word in argv])


def validate(argv: list[str]) -> str:
    """Return the output of the command that validates the files; ChangeError when it refuses them."""
    if not argv:
        return ""
    try:
        path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
        done = execute(*argv, stderr=subprocess.STDOUT, PATH=path)
    except OSError as error:
        why = f"{shorten_command(argv)} cannot be run: {error.strerror}"
        raise ChangeError(why, cmd=argv, rc=127, validation="") from None
    output = done.stdout.strip()
    if done.code:
        why = f"{shorten_command(argv)} refused the files (rc {done.code}): {output}"
        raise ChangeError(why, cmd=argv, rc=done.code, validation=output)
    return output


def apply(changes: list[tuple[Entry, Entry]], argv: list[str]) -> str:
    """Make all changes and validate them, or restore every path; returns the output of the command."""
    undo: UndoSteps = []
    try:
        for old, new in changes:
            try:
                change(old, new, undo)
            except OSError as error:
                raise ChangeError(f"Cannot write {new.path}: {error.strerror}") from None
        validation = validate(argv)
    except BaseException as error:
        stuck = []
        for path, step in reversed(undo):
            try:
                step()
            except OSError as failure:
                stuck.append(f"{path} ({failure.strerror})")
        if stuck:
            why = f"{error} - and these could NOT be put back: {', '.join(stuck)}"
            raise ChangeError(why, **getattr(error, "result", {})) from None
        if isinstance(error, ChangeError) and undo:
            raise ChangeError(f"{error} - everything was put back", **error.result) from None
        raise
    for _old, new in changes:
        remove_file(hidden_name(new.path, "before"))
    return validation


def take_back(changes: list[tuple[Entry, Entry]]) -> list[str]:
    """Revert changes that were accepted before; returns a line for each one that cannot be reverted.

    It cannot use the kept copies: they are removed by now, because a later removal would change their folder again and
    restart the units that read it.
    """
    stuck = []
    for old, new in reversed(changes):
        try:
            # One at a time, because a folder can only be removed once it is empty.
            apply([(new, old)], [])
        except (ChangeError, OSError) as failure:
            stuck.append(str(failure))
    return stuck


def run(
    specs: list[dict], command: str | list | None, check_mode: bool = False, prove: Callable[[bool], None] | None = None
) -> dict:
    """Change the files, and return the result of the module.

    It calls `prove` once the files are in place, with whether they have changed. When `prove` raises an exception, the
    files are restored, and the attribute `not_put_back` of the exception names those that could not be.
    """
    argv = split_command(command)
    entries = [parse_entry(spec, may_lack=check_mode) for spec in specs]
    secrets = {entry.path for entry, spec in zip(entries, specs, strict=True) if spec["secret"]}
    seen = set()
    for entry in entries:
        folder, name = os.path.split(entry.path)
        real = os.path.join(os.path.realpath(folder), name)
        if real in seen:
            raise ChangeError(f"{entry.path} is given twice")
        seen.add(real)

    # Wait for the module of an earlier run, which can still work although its controller has died.
    lock = open_lock_file(LOCK) if not check_mode else None
    try:
        restored = []
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            restored = [entry.path for entry in entries if put_back(entry.path)]
        changes = [(old, new) for new in entries if (old := read_entry(new.path)) != new]
        marks = {entry.path: spec["pristine"] for entry, spec in zip(entries, specs, strict=True)}
        for old, new in changes:
            if why := find_obstacle(old, new) or (marks.get(new.path) and find_foreign(old, marks[new.path])):
                raise ChangeError(f"{new.path}: {why}")
        result = {
            "changed": bool(changes or restored),
            "paths": list(dict.fromkeys([*restored, *(new.path for _old, new in changes)])),
            "diff": [describe_difference(old, new, new.path in secrets) for old, new in changes],
            "validation": "",
        }
        if not check_mode:
            result["validation"] = apply(changes, argv)
            try:
                if prove:
                    prove(bool(changes))
            except BaseException as error:
                error.not_put_back = take_back(changes)
                raise
        elif not changes:
            result["validation"] = validate(argv)
        return result
    except OSError as error:
        raise ChangeError(f"{error.filename or 'The host'}: {error.strerror}") from None
    finally:
        if lock is not None:
            os.close(lock)
