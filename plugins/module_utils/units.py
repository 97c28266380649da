# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep a systemd unit enabled, running and up to date with its files."""

from __future__ import annotations

import glob
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from ansible_collections.django_vps.stack.plugins.module_utils.commands import call
from ansible_collections.django_vps.stack.plugins.module_utils.errors import ModuleError

PATHS = {"type": "list", "elements": "path", "default": []}
UNIT = {
    "name": {"type": "str", "required": True},
    "enabled": {"type": "bool", "default": True},
    "restart_when_newer": PATHS,
    "reload_when_newer": PATHS,
    "conditional": {"type": "bool", "default": False},
}
STAMPS = ("InactiveExitTimestamp", "ActiveEnterTimestamp", "StateChangeTimestamp")
PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "ConditionResult",
    "DropInPaths",
    "CanReload",
    "Type",
    "Result",
    "ReloadResult",
    *STAMPS,
    *(f"{stamp}Monotonic" for stamp in STAMPS),
)
DROP_INS = "/etc/systemd/system"
#: Longest time between a change of a file and its timestamp, which is that of the last tick of the kernel (100 Hz).
TICK_NS = 10_000_000
#: Seconds that a process must live to count as started, if it does not notify systemd.
START_GRACE_SECONDS = 0.5


class UnitError(ModuleError):
    """A unit that is not in the wanted state."""

    #: Name of the unit, and the files that could not be restored after its failure.
    unit = ""
    not_put_back: Sequence[str] = ()


#: A path, its stat, and whether its link was followed.
Hit = tuple[str, os.stat_result, bool]


def wall_ns() -> int:
    return time.time_ns()


def monotonic_ns() -> int:
    """Read the clock of systemd's Monotonic timestamps."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def wall_stamp(text: str) -> int:
    """Convert `Tue 2026-01-06 12:00:00.123456 UTC`, as `--timestamp=us+utc` prints it, to nanoseconds."""
    _weekday, day, clock, _zone = text.split()
    moment = datetime.fromisoformat(f"{day}T{clock}+00:00")
    # A float cannot hold nanoseconds exactly, so the result is rounded to microseconds.
    return round(moment.timestamp() * 10**6) * 1000


def walk(paths: Iterable[str] | None) -> Iterator[Hit]:
    """Yield each path with its stat: links as well as their targets, folders with their content."""
    todo, seen = list(paths or []), set()
    while todo:
        path = todo.pop()
        for follow in (False, True):
            try:
                st = os.stat(path, follow_symlinks=follow)
                yield path, st, follow
                # Links can form circles.
                if stat.S_ISDIR(st.st_mode) and (st.st_dev, st.st_ino) not in seen:
                    seen.add((st.st_dev, st.st_ino))
                    todo += [entry.path for entry in os.scandir(path)]
            except (FileNotFoundError, NotADirectoryError):
                break


class Unit:
    def __init__(self, name: str) -> None:
        self.name = name
        self.read_status()

    def read_status(self) -> None:
        """Read all properties of the unit by one call of systemctl."""
        code, out, err = call(
            "systemctl", "show", "--timestamp=us+utc", f"--property={','.join(PROPERTIES)}", "--", self.name
        )
        if code:
            raise UnitError(f"systemctl show {self.name} failed: {err.strip()}", stderr=err)
        self.status = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def __getitem__(self, key: str) -> str:
        return self.status.get(key, "")

    def monotonic(self, stamp: str) -> int:
        return int(self[f"{stamp}Monotonic"] or 0)

    def since(self, stamp: str) -> int | None:
        """Return the time of a timestamp in nanoseconds of the wall clock; None if it is unset.

        If the clock was stepped since, there are two times, by the old and the present clock. The earlier one causes
        an unnecessary restart at worst; the later one would miss a change.
        """
        if not self.monotonic(stamp):
            return None
        ago = monotonic_ns() - self.monotonic(stamp) * 1000
        return min(wall_stamp(self[stamp]), wall_ns() - ago)

    @property
    def started(self) -> int | None:
        """Return when the start began, because the unit may not have read a file that changed during the start."""
        return self.since("InactiveExitTimestamp")

    @property
    def loaded(self) -> int | None:
        """Return when the unit last began to read its files, as far as systemd knows."""
        reloaded = (
            self["CanReload"] == "yes"
            # Empty for a unit that is no service; a failed reload changes the timestamp like a successful one.
            and self["ReloadResult"] in ("", "success")
            and self.monotonic("StateChangeTimestamp") > self.monotonic("ActiveEnterTimestamp")
        )
        return self.since("StateChangeTimestamp") if reloaded else self.started

    @property
    def up(self) -> bool:
        """Return whether the unit runs, or is a job that has succeeded."""
        ended_well = (
            self["Type"] == "oneshot"
            and self["ActiveState"] == "inactive"
            and self["Result"] == "success"
            and self.started is not None
        )
        return self["ActiveState"] in ("active", "reloading", "refreshing") or ended_well

    @property
    def outdated(self) -> bool:
        """Return whether systemd must still read files of the unit.

        Up to version 252, systemd does not notice a drop-in in a new folder.
        """
        read = self["DropInPaths"].split()
        names = {self.name, re.sub("@[^.]*", "@", self.name)}
        there = (path for name in names for path in glob.glob(f"{DROP_INS}/{name}.d/*.conf"))
        return self["NeedDaemonReload"] == "yes" or any(path not in read for path in there)

    @property
    def missing(self) -> bool:
        return self["LoadState"] == "not-found"

    def journal(self) -> list[str]:
        argv = ("journalctl", "--no-pager", "--lines=20", "--output=short-iso")
        return call(*argv, f"--unit={self.name}")[1].splitlines()

    def do(self, verb: str) -> None:
        argv = ["systemctl", verb, *([] if verb == "daemon-reload" else ["--", self.name])]
        code, _out, err = call(*argv)
        if code:
            journal = self.journal()
            why = f"{' '.join(argv)} failed: {err.strip()}"
            raise UnitError("\n".join([why, *journal]), stderr=err, journal=journal)


def is_up(name: str) -> bool:
    """Return whether the unit runs; a unit that does not exist does not run."""
    try:
        return Unit(name).up
    except UnitError:
        return False


def newer(paths: Iterable[str] | None, than: int | None) -> list[Hit]:
    """Return the paths that changed after a time."""
    if than is None:
        # systemd has no start time for units such as the root slice, which exist before it records times.
        return []
    return [hit for hit in walk(paths) if hit[1].st_ctime_ns + TICK_NS >= than]


def bring_to_present(changed: list[Hit]) -> None:
    """Correct timestamps in the future, which would cause a restart in every run until that time."""
    for path, st, follow in changed:
        if st.st_ctime_ns > wall_ns():
            # Setting the times to their present values changes only the ctime.
            os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=follow)


def run_all(wanted: list[dict], check_mode: bool) -> list[str]:
    """Bring several units to their wanted state; returns the actions."""
    done = []
    for options in wanted:
        try:
            done += [f"{verb} {options['name']}" for verb in run(**options, check_mode=check_mode)["action"]]
        except UnitError as error:
            error.unit = options["name"]
            raise
    return done


def run(
    name: str,
    enabled: bool | None,
    restart_when_newer: list[str],
    reload_when_newer: list[str],
    conditional: bool = False,
    check_mode: bool = False,
) -> dict:
    """Bring a unit to its wanted state, and return the result of the module."""
    unit = Unit(name)
    before = {"enabled": unit["UnitFileState"], "active": unit["ActiveState"], "action": []}
    action: list[str] = []

    def act(verb: str) -> None:
        action.append(verb)
        if not check_mode:
            unit.do(verb)

    def result(after: dict, **more) -> dict:
        return {
            "changed": bool(action),
            "action": action,
            "status": unit.status,
            "diff": {"before": before, "after": {**after, "action": action}},
            **more,
        }

    if unit.missing and not check_mode:
        # Not counted as an action yet, because systemd may not have read an existing unit, or there is none.
        unit.do("daemon-reload")
        unit.read_status()
        if unit.missing:
            raise UnitError(f"There is no unit {name} on this host")
        action.append("daemon-reload")
    if unit.missing:
        action += ["enable", "start"] if enabled else ["start"]
        msg = f"{name} is not there yet: it would be {'enabled and ' if enabled else ''}started"
        after = {"enabled": "enabled" if enabled else before["enabled"], "active": "active"}
        return result(after, msg=msg)
    if unit.outdated:
        act("daemon-reload")
        if not check_mode:
            unit.read_status()

    # Units in other states (static, generated, alias, indirect, …) cannot be enabled or disabled.
    state = unit["UnitFileState"]
    if enabled and state in ("disabled", "enabled-runtime", "linked", "linked-runtime", "masked"):
        act("enable")
    elif enabled is False and state in ("enabled", "enabled-runtime"):
        act("disable")

    # A start that another process began is no change of this module; a second start waits for its end.
    starting = unit["ActiveState"] == "activating" and "auto-restart" not in unit["SubState"]
    if starting and not check_mode:
        unit.do("start")
        unit.read_status()
    if not unit.up and not (starting and check_mode):
        if unit["ActiveState"] == "failed" and not check_mode:
            # Otherwise systemd refuses a unit that crashed too often even after its files were fixed.
            unit.do("reset-failed")
        if conditional and not check_mode:
            # systemd evaluates the conditions of a unit only when it starts the unit.
            unit.do("start")
            unit.read_status()
        if conditional and not unit.up and unit["ConditionResult"] == "no":
            after = {"enabled": unit["UnitFileState"], "active": unit["ActiveState"]}
            return result(after, msg=f"{name} has a condition that is not met here, and is left alone")
        act("start")
    else:
        to_restart = newer(restart_when_newer, unit.started)
        to_reload = newer(reload_when_newer, unit.loaded)
        if not check_mode:
            bring_to_present(to_restart + to_reload)
        if to_restart or (to_reload and unit["CanReload"] != "yes"):
            act("restart")
        elif to_reload:
            act("reload")

    if check_mode:
        enable = {"enable": "enabled", "disable": "disabled"}
        states = [enable[verb] for verb in action if verb in enable]
        active = "active" if "start" in action else before["active"]
        return result({"enabled": (states or [before["enabled"]])[0], "active": active})
    if unit["Type"] in ("simple", "exec") and {"start", "restart"} & set(action):
        # systemd only knows that the process of such a unit exists; a process that cannot run ends at once.
        time.sleep(START_GRACE_SECONDS)
    if action:
        unit.read_status()
    if not unit.up:
        journal = unit.journal()
        why = f"{name} is {unit['ActiveState']} ({unit['SubState']}) after {', '.join(action)}"
        raise UnitError("\n".join([why, *journal]), journal=journal)
    return result({"enabled": unit["UnitFileState"], "active": unit["ActiveState"]})
