# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Manage the systemd units of a site: each release has an instance of every template unit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from ansible_collections.django_vps.stack.plugins.module_utils.commands import call, run
from ansible_collections.django_vps.stack.plugins.module_utils.output import tail_log

#: Seconds between two checks.
POLL_SECONDS = 0.25
#: Seconds to wait after the rename, because a client that connects at that moment may not be in the queue yet.
RENAME_GRACE_SECONDS = 0.5


class Instance(NamedTuple):
    """An instance that systemd has loaded."""

    unit: str
    release: str
    state: str


class ReleaseUnits:
    """The template units, without `@`: the web service, the others, and those of which only one instance may run."""

    def __init__(self, service: str, services: list[str], single: list[str]) -> None:
        self.service = service
        self.services = services
        self.single = single

    def web(self, release: str) -> list[str]:
        """Return the units that clients connect to."""
        # The socket comes first, because the next connection to it would start a stopped service again.
        return [f"{self.service}@{release}.{kind}" for kind in ("socket", "service")]

    def processes(self, release: str) -> list[str]:
        """Return the services that run before the release is live: the web service, then the others."""
        services = [name for name in self.services if name not in self.single]
        return [f"{name}@{release}.service" for name in (self.service, *services)]

    def singles(self, release: str) -> list[str]:
        return [f"{name}@{release}.service" for name in self.single]

    def list_instances(self, pattern: str) -> list[Instance]:
        lines = run("units", ["systemctl", "list-units", "--plain", "--no-legend", "--all", f"{pattern}@*"])
        units = [line.split() for line in lines.splitlines()]
        return [Instance(unit[0], unit[0].split("@")[1].rsplit(".", 1)[0], unit[2]) for unit in units]

    def running(self, pattern: str = "*") -> set[str]:
        """Return the releases of which a unit runs, starts or stops."""
        instances = self.list_instances(pattern)
        return {instance.release for instance in instances if instance.state not in ("inactive", "failed")}

    def are_active(self, release: str) -> bool:
        """Return whether all units of a release run, and no web service of another release."""
        if self.running(self.service) != {release}:
            return False
        units = {*self.web(release), *self.processes(release), *self.singles(release)}
        return set(call("systemctl", "is-active", *units).stdout.split()) == {"active"}

    def start(self, release: str, timeout: float) -> None:
        units = self.processes(release)
        call("systemctl", "reset-failed", *units)
        advice = "Where a unit is not found: site.yml sets up what is new in django_services."
        run("start", ["systemctl", "start", *units], advice=advice, timeout=timeout)

    def stop(self, release: str) -> None:
        # Workers can take long to end, and no step needs to wait for them.
        others = self.processes(release)[1:] + self.singles(release)
        if others:
            run("stop", ["systemctl", "--no-block", "stop", *others])
        self.stop_web(release)

    def stop_web(self, release: str) -> None:
        run("stop", ["systemctl", "stop", *self.web(release)])

    def hand_over(self, release: str) -> None:
        """Stop the services of which only one may run in all other releases, and start them in this one."""
        for name in self.single:
            others = [f"{name}@{other}.service" for other in sorted(self.running(name) - {release})]
            if others:
                run("stop", ["systemctl", "stop", *others])
            run("start", ["systemctl", "start", f"{name}@{release}.service"])

    def list_workers(self, release: str) -> set[tuple[str, str]]:
        """Return the processes that the web service has started, and the main processes of the other units."""
        units = self.processes(release)
        pids = run("units", ["systemctl", "show", "--property=MainPID", "--value", *units]).split()
        children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children")
        try:
            return {*(("worker", pid) for pid in children.read_text().split()), *zip(units[1:], pids[1:], strict=True)}
        except OSError:
            return set()

    def find_death(self, release: str, workers: set[tuple[str, str]]) -> str:
        """Return a worker that has ended; empty when all run."""
        gone = sorted(workers - self.list_workers(release))
        return f"{gone[0][0]} {gone[0][1]} of the release has died" if gone else ""

    def have_failed(self, units: list[str], restarts: int) -> bool:
        """Return whether one of the units has failed, or was restarted more often than `restarts`."""
        states = run("units", ["systemctl", "show", "-P", "ActiveState", "-P", "NRestarts", *units])
        return any(word == "failed" or (word.isdigit() and int(word) > restarts) for word in states.split())

    def reset_failed(self, release: str) -> None:
        """Reset the failed instances of other releases, such as after an upgrade of the distribution's Python."""
        services = (self.service, *self.services)
        instances = [instance for name in services for instance in self.list_instances(name)]
        units = [instance.unit for instance in instances if instance.state == "failed" and instance.release != release]
        if units:
            run("units", ["systemctl", "reset-failed", *units])


def drain(path: str, timeout: float) -> None:
    """Wait until the queue of a socket is empty."""
    end = time.monotonic() + timeout
    time.sleep(RENAME_GRACE_SECONDS)
    while count_queued(path) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def count_queued(path: str) -> int:
    """Return the number of connections in the queue of a socket."""
    lines = run("drain", ["ss", "--listening", "--unix", "--no-header", "src", path]).splitlines()
    return sum(int(line.split()[2]) for line in lines)


def read_log(units: list[str], since: float) -> str:
    """Return the end of the journal of some units."""
    # systemd may not have written the last lines of a process yet.
    call("journalctl", "--sync")
    options = [f"--since=@{int(since)}", "--lines=200", "--output=cat", "--no-pager"]
    return tail_log(call("journalctl", *(f"--unit={unit}" for unit in units), *options).stdout)
