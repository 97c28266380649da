# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep a systemd unit enabled, running and as new as its files."""

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
#: The kernel stamps files with its last tick, which may be this far back (100 Hz).
TICK_NS = 10_000_000
#: Seconds that a process must live to count as started, where it cannot report it itself.
START_GRACE_SECONDS = 0.5


class UnitError(ModuleError):
    """The unit is not as it should be."""

    #: Name of the unit, and the files that could not be put back after its failure.
    unit = ""
    not_put_back: Sequence[str] = ()


#: A path, its stat, and whether its link was followed.
Hit = tuple[str, os.stat_result, bool]


def wall_ns() -> int:
    return time.time_ns()


def monotonic_ns() -> int:
    """Read the clock that systemd's Monotonic stamps are read from."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def wall_stamp(text: str) -> int:
    """Convert `Tue 2026-01-06 12:00:00.123456 UTC`, as `--timestamp=us+utc` prints it, to nanoseconds."""
    _weekday, day, clock, _zone = text.split()
    moment = datetime.fromisoformat(f"{day}T{clock}+00:00")
    # A float holds more than microseconds, but not all of them exactly.
    return round(moment.timestamp() * 10**6) * 1000


def walk(paths: Iterable[str] | None) -> Iterator[Hit]:
    """Yield each path with its stat: links and their targets both, folders with all that is in them."""
    todo, seen = list(paths or []), set()
    while todo:
        path = todo.pop()
        for follow in (False, True):
            try:
                st = os.stat(path, follow_symlinks=follow)
                yield path, st, follow
                # Links may lead in circles.
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
        """Read all properties by one call."""
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
        """Return the time of a stamp in nanoseconds of the wall clock; None if it never was.

        If the clock was stepped since, there are two times, by the clock of then and by that of now. The earlier one
        at worst causes a needless restart; the later one would miss a change.
        """
        if not self.monotonic(stamp):
            return None
        ago = monotonic_ns() - self.monotonic(stamp) * 1000
        return min(wall_stamp(self[stamp]), wall_ns() - ago)

    @property
    def started(self) -> int | None:
        """When the start began: a file that changed during the start may not have been read."""
        return self.since("InactiveExitTimestamp")

    @property
    def loaded(self) -> int | None:
        """When the unit last began to read its files, as far as systemd knows."""
        reloaded = (
            self["CanReload"] == "yes"
            # Empty where a unit is no service; a failed reload moves the stamp as a good one does.
            and self["ReloadResult"] in ("", "success")
            and self.monotonic("StateChangeTimestamp") > self.monotonic("ActiveEnterTimestamp")
        )
        return self.since("StateChangeTimestamp") if reloaded else self.started

    @property
    def up(self) -> bool:
        """Whether it runs, or is a job that has ended well."""
        ended_well = (
            self["Type"] == "oneshot"
            and self["ActiveState"] == "inactive"
            and self["Result"] == "success"
            and self.started is not None
        )
        return self["ActiveState"] in ("active", "reloading", "refreshing") or ended_well

    @property
    def outdated(self) -> bool:
        """Whether systemd has yet to read files of the unit.

        Up to version 252 it does not see a drop-in of which the folder is new too.
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
    """Whether the unit runs now; one that does not exist does not."""
    try:
        return Unit(name).up
    except UnitError:
        return False


def newer(paths: Iterable[str] | None, than: int | None) -> list[Hit]:
    """Return what changed after a moment."""
    if than is None:
        # A unit that was up before systemd records times, such as the root slice, has no time to compare.
        return []
    return [hit for hit in walk(paths) if hit[1].st_ctime_ns + TICK_NS >= than]


def bring_to_present(changed: list[Hit]) -> None:
    """Correct stamps in the future, which would cause a restart in every run until that time."""
    for path, st, follow in changed:
        if st.st_ctime_ns > wall_ns():
            # Setting the times to what they are moves the ctime and nothing else.
            os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=follow)


def run_all(wanted: list[dict], check_mode: bool) -> list[str]:
    """Bring several units to what they should be; returns what was done."""
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
    """Bring a unit to what it should be, and return the result of the module."""
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
        # Not counted as done: it may be there all the same, or not at all.
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

    # Other states (static, generated, alias, indirect, …) are no matter of choice.
    state = unit["UnitFileState"]
    if enabled and state in ("disabled", "enabled-runtime", "linked", "linked-runtime", "masked"):
        act("enable")
    elif enabled is False and state in ("enabled", "enabled-runtime"):
        act("disable")

    # A start that another process began is no change of ours; to start again is to wait for its end.
    starting = unit["ActiveState"] == "activating" and "auto-restart" not in unit["SubState"]
    if starting and not check_mode:
        unit.do("start")
        unit.read_status()
    if not unit.up and not (starting and check_mode):
        if unit["ActiveState"] == "failed" and not check_mode:
            # Else systemd refuses a unit that crashed too often even after its files were repaired.
            unit.do("reset-failed")
        if conditional and not check_mode:
            # Whether its conditions are met is known once it has been asked to start.
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
        # Of these systemd knows only that the process exists; one that cannot run dies at once.
        time.sleep(START_GRACE_SECONDS)
    if action:
        unit.read_status()
    if not unit.up:
        journal = unit.journal()
        why = f"{name} is {unit['ActiveState']} ({unit['SubState']}) after {', '.join(action)}"
        raise UnitError("\n".join([why, *journal]), journal=journal)
    return result({"enabled": unit["UnitFileState"], "active": unit["ActiveState"]})
