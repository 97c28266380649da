# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read and write the folder of a site: its releases, the live release, and the journal of the switches."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import remove_tree, write_file

#: The file that marks a release as complete.
MARKER = "release.json"


class Site:
    """The releases of a site, the live one, and the journal."""

    def __init__(self, home: str) -> None:
        self.home = Path(home)
        self.releases = self.home / "releases"
        self.current = self.home / "current"
        self.journal = self.home / "journal"
        #: The folder of releases to remove; the next run removes those that an interrupted run has left here.
        self.removed = self.home / ".removed"

    def discard(self, release: str) -> str:
        """Remove the files of a build; if they cannot be removed, move them away and return a message."""
        path = self.releases / release
        try:
            remove_tree(path)
        except StepError as error:
            self.removed.mkdir(mode=0o700, exist_ok=True)
            aside = self.removed / f"{release}.{time.time_ns()}"
            os.rename(path, aside)
            return f"{path} cannot be removed, and is {aside} now: {error.cause}"
        return ""

    @property
    def live(self) -> str | None:
        """Return the id of the release that `current` points to."""
        try:
            return Path(os.readlink(self.current)).name
        except OSError:
            return None

    def describe_live(self) -> str:
        """Return a sentence about the live release for the message of a failed step."""
        return f"{self.live} goes on serving." if self.live else "No release is live yet."

    def facts(self, release: str) -> dict | None:
        """Return the content of the marker of a release; None when the release is not complete."""
        try:
            return json.loads((self.releases / release / MARKER).read_text())
        except (OSError, ValueError):
            return None

    def complete_releases(self) -> list[str]:
        """Return the ids of the complete releases, oldest first."""
        if not self.releases.is_dir():
            return []
        return sorted(entry.name for entry in self.releases.iterdir() if self.facts(entry.name) is not None)

    def find_interpreter(self, release: str) -> str:
        """Return the interpreter that a release was built with; empty when it is missing or has another version."""
        venv = self.releases / release / "venv"
        python = os.path.realpath(venv / "bin/python")
        versions = [path.name for path in (venv / "lib").glob("python3.*")]
        name = re.search(r"python3\.\d+$", python)
        other = name and versions and name.group() not in versions
        return python if os.access(python, os.X_OK) and not other else ""

    def note(self, release: str, **facts) -> None:
        """Add facts to the marker of a release."""
        known = {**(self.facts(release) or {}), **facts}
        write_file(self.releases / release / MARKER, json.dumps(known, indent=2) + "\n")

    def add_restore_point(self, release: str, restore_point: dict) -> None:
        """Note the set that restores the database as it is for a live release, until the journal has its successor."""
        known = (self.facts(release) or {}).get("restore_points", [])
        added = {name: restore_point[name] for name in ("set", "time")}
        self.note(release, restore_points=[*known, *([] if added in known else [added])])

    def restore_points(self, release: str) -> list[dict]:
        """Return the sets that restore the database as it was when a release was live last, the oldest first."""
        switches = self.switches()
        left = max((number for number, entry in enumerate(switches) if entry["from"] == release), default=None)
        since = [] if left is None else switches[left:]
        return [restore_point for entry in since for restore_point in entry.get("restore_points", [])]

    def previous(self, release: str) -> str | None:
        """Return the good release that was live before this one; releases that were rolled back do not count."""
        switches, name = self.switches(), release
        while name:
            before = [entry["from"] for entry in switches if entry["to"] == name and entry["from"] < name]
            name = before[-1] if before else ""
            facts = self.facts(name) if name else None
            if facts is not None and not facts.get("bad"):
                return name
        return None

    @property
    def last_left(self) -> str:
        """Return the release that was live until the last switch, which an interrupted run may not have recorded."""
        last = (self.switches() or [{"from": "", "to": ""}])[-1]
        return last["from"] if last["to"] == self.live else last["to"]

    def switches(self) -> list[dict]:
        """Read the journal: one entry for each switch, oldest first. A line that a crash truncated is no entry."""
        entries = []
        with contextlib.suppress(OSError):
            for line in self.journal.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    entries.append(json.loads(line))
        return entries

    def record_switch(self, before: str, release: str, who: str, seconds: float) -> None:
        """Add a switch to the journal."""
        entry = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "who": who,
            "what": (self.facts(release) or {}).get("version", ""),
            "from": before,
            "to": release,
            "seconds": round(seconds, 1),
        }
        if restore_points := (self.facts(before) or {}).get("restore_points") if before else None:
            entry["restore_points"] = restore_points
        with self.journal.open("a+") as journal:
            os.fchmod(journal.fileno(), 0o600)
            journal.seek(0)
            # Begin a new line after a line that a crash truncated.
            begun = not f"\n{journal.read()}".endswith("\n")
            journal.write("\n" * begun + json.dumps(entry) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        if restore_points:
            self.note(before, restore_points=[])

    @property
    def last_recorded(self) -> str:
        """Return the id of the release that went live last, according to the journal."""
        return next((entry["to"] for entry in reversed(self.switches())), "")
