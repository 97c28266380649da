# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write several files as one change, judged together."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import grp
import hashlib
import os
import pwd
import re
import shlex
import stat
import subprocess
from dataclasses import dataclass

from ansible_collections.django_vps.stack.plugins.module_utils.locks import open_lock_file

#: Held while files change.
LOCK = "/run/django_vps-files.lock"
FILE = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"]},
    "content": {"type": "str"},
    # The action plugin makes content of it.
    "template": {"type": "path"},
    "target": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "raw"},
    "secret": {"type": "bool", "default": False, "no_log": False},
    "pristine": {"type": "str"},
}
DEFAULT_MODES = {"file": "0644", "directory": "0755"}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
#: Where dpkg notes the configuration files of packages, with their checksums.
DPKG_STATUS = "/var/lib/dpkg/status"
# Target of the link that is kept in place of a path that was not there.
NOTHING = "/nothing/was/here"


class Refused(Exception):
    """The change cannot be made; the message is for the user, the rest for the result."""

    def __init__(self, msg, **result):
        super().__init__(msg)
        self.result = result


@dataclass(frozen=True)
class Entry:
    """What stands at a path, or shall; a uid or gid of None is not known on this host yet."""

    path: str
    state: str
    content: bytes = b""
    target: str = ""
    mode: int = 0
    uid: int | None = None
    gid: int | None = None

    def describe(self, secret):
        """The entry as a header and a text, to be compared by eye."""
        if self.state == "absent":
            return f"{self.path} (absent)", ""
        owner = f"{name_of(pwd.getpwuid, self.uid)}:{name_of(grp.getgrgid, self.gid)}"
        if self.state == "link":
            return f"{self.path} ({owner})", f"link to {self.target}\n"
        header = f"{self.path} ({self.mode:04o} {owner})"
        if self.state != "file":
            return header, f"{self.state}\n"
        if secret:
            return header, "(secret content)\n"
        try:
            text = self.content.decode()
        except UnicodeDecodeError:
            text = "\0"
        return header, "(binary content)\n" if "\0" in text else text


def name_of(lookup, number):
    if number is None:
        return "unknown"
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def id_of(lookup, name, kind, may_lack):
    if name.isdigit():
        return int(name)
    try:
        return lookup(name)[2]
    except KeyError:
        if may_lack:
            return None
        raise Refused(f"There is no {kind} {name!r} on this host") from None


def wanted(spec, may_lack=False):
    """Read one element of `files`; all that can be wrong with it is said here."""
    path = os.path.normpath(spec["path"])
    if not os.path.isabs(path) or not os.path.basename(path):
        raise Refused(f"{spec['path']!r} is no absolute path of a file")

    def refuse(why):
        raise Refused(f"{path}: {why}")

    content, target, mode = spec["content"], spec["target"], spec["mode"]
    state = spec["state"] or ("link" if target is not None else None)
    state = state or ("file" if content is not None else None)
    if state is None:
        refuse("give content, target or state")
    if state == "absent":
        return Entry(path, state)
    if (state == "file") != (content is not None):
        refuse("content and state: file need each other")
    if (state == "link") != bool(target):
        refuse("target and state: link need each other")
    mode = DEFAULT_MODES.get(state, "0000") if mode is None else mode
    if not isinstance(mode, str) or not re.fullmatch("[0-7]{4}", mode):
        refuse(f'mode must be four octal digits in quotes, such as "0640", not {mode!r}')
    return Entry(
        path,
        state,
        (content or "").encode(errors="surrogateescape"),
        target or "",
        # The kernel gives every link the mode 0777, and it means nothing.
        0 if state == "link" else int(mode, 8),
        id_of(pwd.getpwnam, spec["owner"] or "root", "user", may_lack),
        id_of(grp.getgrnam, spec["group"] or "root", "group", may_lack),
    )


def found(path):
    """What stands at a path now, links not followed."""
    try:
        st = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entry(path, "absent")
    mode = stat.S_IMODE(st.st_mode)
    if stat.S_ISLNK(st.st_mode):
        return Entry(path, "link", b"", os.readlink(path), 0, st.st_uid, st.st_gid)
    if stat.S_ISDIR(st.st_mode):
        return Entry(path, "directory", b"", "", mode, st.st_uid, st.st_gid)
    if not stat.S_ISREG(st.st_mode):
        return Entry(path, "special file", b"", "", mode, st.st_uid, st.st_gid)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return Entry(path, "file", file.read(), "", mode, st.st_uid, st.st_gid)


def obstacle(old, new):
    """Why one cannot become the other, or None."""
    if old.state == "special file":
        return "neither a file, a link nor a folder stands there"
    if old.state == "directory" and new.state == "absent":
        return "the folder is not empty" if os.listdir(old.path) else None
    if "directory" in (old.state, new.state) and old.state not in ("absent", new.state):
        return f"a {old.state} stands where a {new.state} is wanted"
    parent = os.path.dirname(new.path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    return None if os.path.isdir(parent) or new.state == "absent" else f"{parent} is no folder"


def foreign(old, mark):
    """Why a file is neither ours, as it bears a mark, nor as its package brought it; or None."""
    if old.state == "absent" or (old.state == "file" and mark.encode() in old.content):
        return None
    shipped = hashlib.md5(old.content, usedforsecurity=False).hexdigest()
    with open(DPKG_STATUS, encoding="utf-8") as status:
        if old.state == "file" and f" {old.path} {shipped}" in (line.rstrip("\n") for line in status):
            return None
    return "somebody else wrote what stands there, and it is not replaced"


def beside(path, kind):
    """A name in the same folder that `include *` and `*.conf` pass over."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{kind}.config_files")


def remove(path):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def sync_folder(path):
    """A rename outlives a power cut only once the folder is on disk."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def keep(path):
    """Keep what stands at a path under another name: going back then needs no space on the disk."""
    if os.path.lexists(path):
        os.link(path, beside(path, "before"), follow_symlinks=False)
    else:
        os.symlink(NOTHING, beside(path, "before"))


def put_back(path):
    """Undo the change to a path, made by this run or by one that was killed; False if none was."""
    remove(beside(path, "new"))
    before = beside(path, "before")
    if not os.path.lexists(before):
        return False
    if os.path.islink(before) and os.readlink(before) == NOTHING:
        remove(path)
    else:
        os.replace(before, path)
    # Renaming one name of a file over another of the same file leaves both.
    remove(before)
    sync_folder(path)
    return True


def own(path, uid, gid):
    st = os.lstat(path)
    if (st.st_uid, st.st_gid) != (uid, gid):
        os.chown(path, uid, gid, follow_symlinks=False)


def make_parents(path, undo):
    parent = os.path.dirname(path)
    if os.path.isdir(parent):
        return
    make_parents(parent, undo)
    make_folder(parent, 0o755, os.geteuid(), os.getegid(), undo)


def make_folder(path, mode, uid, gid, undo):
    os.mkdir(path)
    undo.append((path, functools.partial(os.rmdir, path)))
    set_folder(path, mode, uid, gid)
    sync_folder(path)


def set_folder(path, mode, uid, gid):
    own(path, uid, gid)
    os.chmod(path, mode)


def change(old, new, undo):
    """Bring one path from what it is to what it shall be; each step says first how it is undone."""
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
        fresh = beside(path, "new")
        if new.state == "link":
            os.symlink(new.target, fresh)
            own(fresh, new.uid, new.gid)
        else:
            write(fresh, new)
        os.replace(fresh, path)
    sync_folder(path)


def write(path, new):
    """Nobody may read the file before it has its owner and mode."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(new.content)
        file.flush()
        own(path, new.uid, new.gid)
        os.fchmod(fd, new.mode)
        os.fsync(fd)


def words(command):
    if isinstance(command, str):
        try:
            return shlex.split(command)
        except ValueError as error:
            raise Refused(f"validate cannot be split into words: {error}") from None
    if command is None or isinstance(command, list):
        return [str(word) for word in command or []]
    raise Refused("validate must be a string or a list")


def brief(argv):
    """The command for a message, without the text of a script."""
    return shlex.join([word if "\n" not in word else "..." for word in argv])


def judge(argv):
    """Ask the command whether the files are right; its output, or Refused."""
    if not argv:
        return ""
    try:
        done = subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": f"{os.environ.get('PATH', os.defpath)}:{SBIN}"},
        )
    except OSError as error:
        why = f"{brief(argv)} cannot be run: {error.strerror}"
        raise Refused(why, cmd=argv, rc=127, validation="") from None
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        why = f"{brief(argv)} refused the files (rc {done.returncode}): {output}"
        raise Refused(why, cmd=argv, rc=done.returncode, validation=output)
    return output


def apply(changes, argv):
    """Make all changes and have them judged, or leave everything as it was."""
    undo = []
    try:
        for old, new in changes:
            try:
                change(old, new, undo)
            except OSError as error:
                raise Refused(f"Cannot write {new.path}: {error.strerror}") from None
        validation = judge(argv)
    except BaseException as error:
        stuck = []
        for path, step in reversed(undo):
            try:
                step()
            except OSError as failure:
                stuck.append(f"{path} ({failure.strerror})")
        if stuck:
            why = f"{error} - and these could NOT be put back: {', '.join(stuck)}"
            raise Refused(why, **getattr(error, "result", {})) from None
        if isinstance(error, Refused) and undo:
            raise Refused(f"{error} - everything was put back", **error.result) from None
        raise
    for _old, new in changes:
        remove(beside(new.path, "before"))
    return validation


def take_back(changes):
    """Make changes undone that were accepted before; what cannot be.

    Their copies are gone by now: while one is there its folder changes once more when it goes, and units that read the
    folder would be restarted for that.
    """
    stuck = []
    for old, new in reversed(changes):
        try:
            # One by one, as a folder is removed only once it is empty.
            apply([(new, old)], [])
        except (Refused, OSError) as failure:
            stuck.append(str(failure))
    return stuck


def difference(old, new, secret):
    before_header, before = old.describe(secret)
    after_header, after = new.describe(secret)
    if before == after and old.content != new.content:
        after = after.replace("(", "(other ", 1)
    elif before == after:
        before, after = f"{before_header}\n", f"{after_header}\n"
    return {"before_header": before_header, "before": before, "after_header": after_header, "after": after}


def run(specs, command, check_mode=False, prove=None):
    """The whole module; returns its result.

    `prove` is called once the files stand, with whether they have changed. Where it raises, they go back to what they
    were; what cannot is in the `not_put_back` of what it raised.
    """
    argv = words(command)
    entries = [wanted(spec, may_lack=check_mode) for spec in specs]
    secrets = {entry.path for entry, spec in zip(entries, specs, strict=True) if spec["secret"]}
    seen = set()
    for entry in entries:
        folder, name = os.path.split(entry.path)
        real = os.path.join(os.path.realpath(folder), name)
        if real in seen:
            raise Refused(f"{entry.path} is given twice")
        seen.add(real)

    # The module of a run whose controller died may still be at work: wait for it.
    lock = open_lock_file(LOCK) if not check_mode else None
    try:
        mended = []
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            mended = [entry.path for entry in entries if put_back(entry.path)]
        changes = [(old, new) for new in entries if (old := found(new.path)) != new]
        marks = {entry.path: spec["pristine"] for entry, spec in zip(entries, specs, strict=True)}
        for old, new in changes:
            if why := obstacle(old, new) or (marks.get(new.path) and foreign(old, marks[new.path])):
                raise Refused(f"{new.path}: {why}")
        result = {
            "changed": bool(changes or mended),
            "paths": list(dict.fromkeys([*mended, *(new.path for _old, new in changes)])),
            "diff": [difference(old, new, new.path in secrets) for old, new in changes],
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
            result["validation"] = judge(argv)
        return result
    except OSError as error:
        raise Refused(f"{error.filename or 'The host'}: {error.strerror}") from None
    finally:
        if lock is not None:
            os.close(lock)
