# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare the present state of a path with the wanted one."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from ansible_collections.django_vps.stack.plugins.module_utils.errors import ModuleError

FILE = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"]},
    "content": {"type": "str"},
    # The action plugin renders it to `content`.
    "template": {"type": "path"},
    "target": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "raw"},
    "secret": {"type": "bool", "default": False, "no_log": False},
    "pristine": {"type": "str"},
}
DEFAULT_MODES = {"file": "0644", "directory": "0755"}
#: The file in which dpkg records the configuration files of packages with their checksums.
DPKG_STATUS = "/var/lib/dpkg/status"


class ChangeError(ModuleError):
    """An error that makes the change impossible."""


@dataclass(frozen=True)
class Entry:
    """The present or wanted state of a path; a uid or gid of None does not exist on this host yet."""

    path: str
    state: str
    content: bytes = b""
    target: str = ""
    mode: int = 0
    uid: int | None = None
    gid: int | None = None

    def describe(self, secret: bool) -> tuple[str, str]:
        """Return a header and a text for the difference that Ansible displays."""
        if self.state == "absent":
            return f"{self.path} (absent)", ""
        owner = f"{find_name(pwd.getpwuid, self.uid)}:{find_name(grp.getgrgid, self.gid)}"
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


def find_name(lookup: Callable, number: int | None) -> str:
    if number is None:
        return "unknown"
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def find_id(lookup: Callable, name: str, kind: str, may_lack: bool) -> int | None:
    if name.isdigit():
        return int(name)
    try:
        return lookup(name)[2]
    except KeyError:
        if may_lack:
            return None
        raise ChangeError(f"There is no {kind} {name!r} on this host") from None


def parse_entry(spec: dict, may_lack: bool = False) -> Entry:
    """Parse one element of the option `files`; ChangeError when it is invalid."""
    path = os.path.normpath(spec["path"])
    if not os.path.isabs(path) or not os.path.basename(path):
        raise ChangeError(f"{spec['path']!r} is no absolute path of a file")

    def refuse(why: str) -> NoReturn:
        raise ChangeError(f"{path}: {why}")

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
        # The kernel gives every link the mode 0777 and ignores it.
        0 if state == "link" else int(mode, 8),
        find_id(pwd.getpwnam, spec["owner"] or "root", "user", may_lack),
        find_id(grp.getgrnam, spec["group"] or "root", "group", may_lack),
    )


def read_entry(path: str) -> Entry:
    """Return the present state of a path; links are not followed."""
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


def find_obstacle(old: Entry, new: Entry) -> str | None:
    """Return why the old entry cannot become the new one; None if it can."""
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


def find_foreign(old: Entry, mark: str) -> str | None:
    """Return why a file is foreign: it does not have the mark of this collection, and is not as dpkg installed it."""
    if old.state == "absent" or (old.state == "file" and mark.encode() in old.content):
        return None
    shipped = hashlib.md5(old.content, usedforsecurity=False).hexdigest()
    with open(DPKG_STATUS, encoding="utf-8") as status:
        if old.state == "file" and f" {old.path} {shipped}" in (line.rstrip("\n") for line in status):
            return None
    return "the file is not that of its package, and is not replaced"


def describe_difference(old: Entry, new: Entry, secret: bool) -> dict[str, str]:
    before_header, before = old.describe(secret)
    after_header, after = new.describe(secret)
    if before == after and old.content != new.content:
        after = after.replace("(", "(other ", 1)
    elif before == after:
        before, after = f"{before_header}\n", f"{after_header}\n"
    return {"before_header": before_header, "before": before, "after_header": after_header, "after": after}
