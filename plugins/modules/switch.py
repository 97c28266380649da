#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: switch
short_description: Make a release live once it is healthy, and stop the previous one
version_added: 1.0.0
description:
  - Starts the release on its own socket, checks it over that socket until it has been healthy for some seconds and its
    processes have lived as long, and only then lets C(current) point to it, by one atomic rename. nginx uses the paths
    in C(current), so this one rename switches code, assets and traffic.
  - A release that is not healthy is stopped, the message shows its last journal lines, and C(current) is unchanged. If
    the release was never live, it is marked bad.
  - An answer in JSON that names a release must name this one.
  - Then drains the previous release, stops it gracefully, and removes old releases.
  - When the release is live, runs and answers over its socket, and nginx, if the host has it, runs and has access to
    this socket, nothing changes. A live release that does not answer is restarted with its socket, and checked again.
options:
  home:
    description: Folder of the site on the host.
    type: path
    required: true
  release:
    description: Id of the release to make live.
    type: str
    required: true
  service:
    description: Name of the template units, without C(@).
    type: str
    required: true
  socket:
    description: Name of the socket inside a release.
    type: str
    required: true
  host:
    description: Canonical name of the site, which the check requests. nginx redirects the other names to it.
    type: str
    required: true
  names:
    description: Names of the site that nginx redirects to O(host).
    type: list
    elements: str
    default: []
  served:
    description: Names of the site that nginx passes to the release without a redirect.
    type: list
    elements: str
    default: []
  health_path:
    description:
      - Path that must answer 200.
      - When empty, the check requests C(/), follows redirects within the site, and accepts any final answer of a
        working site, that is, a status below 500 except 400.
    type: str
    default: ""
  web_service:
    description:
      - Unit of nginx on this host, which must run and have access to the socket of the live release.
      - Empty if the host has no nginx.
    type: str
    default: ""
  timeout:
    description: Seconds in which the release must become healthy.
    type: int
    default: 60
  services:
    description: Other template units, without C(@), that start with the release and must keep running.
    type: list
    elements: str
    default: []
  single:
    description:
      - Those of O(services) of which only one instance may run. They stop in every other release before they start in
        this one, and they start after it went live, so that none of a refused release runs.
    type: list
    elements: str
    default: []
  probation:
    description: Seconds for which the release must be healthy and its processes must live.
    type: int
    default: 3
  drain:
    description: Most seconds to drain the previous release.
    type: int
    default: 30
  keep:
    description: Number of releases to keep. The live release and the previous one are always kept.
    type: int
    default: 5
  who:
    description: Name of the user for the journal.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Reports whether the release would go live.
  diff_mode:
    support: full
    description: Shows the live release and the next one.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Make the release live
  django_vps.stack.switch:
    home: /srv/shop
    release: 20261121T081500Z
    service: shop-gunicorn
    socket: gunicorn.sock
    host: shop.example.com
    health_path: /health/
"""

RETURN = r"""
live:
  description: Id of the live release.
  returned: always
  type: str
before:
  description: Id of the release that was live before. Empty before the first release.
  returned: always
  type: str
wrong:
  description: Complaint about the live release. Empty if it was healthy and nginx could pass requests to it.
  returned: success
  type: str
removed:
  description: Ids of the removed releases.
  returned: success
  type: list
  elements: str
"""

import contextlib
import os
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.advice import WEB_SERVER_ADVICE, WRITABLE_ADVICE
from ansible_collections.django_vps.stack.plugins.module_utils.commands import call
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import replace_link
from ansible_collections.django_vps.stack.plugins.module_utils.health import HealthCheck
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.probation import Probation
from ansible_collections.django_vps.stack.plugins.module_utils.release_units import (
    POLL_SECONDS,
    ReleaseUnits,
    drain,
    read_log,
)
from ansible_collections.django_vps.stack.plugins.module_utils.retention import prune_releases
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

#: The complaint when units of the live release do not run, or those of another one do.
UNITS_DIFFER = "not all of its units run, or those of another release still do"

ARGUMENTS = {
    "home": {"type": "path", "required": True},
    "release": {"type": "str", "required": True},
    "service": {"type": "str", "required": True},
    "socket": {"type": "str", "required": True},
    "host": {"type": "str", "required": True},
    "names": {"type": "list", "elements": "str", "default": []},
    "served": {"type": "list", "elements": "str", "default": []},
    "health_path": {"type": "str", "default": ""},
    "web_service": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 60},
    "services": {"type": "list", "elements": "str", "default": []},
    "single": {"type": "list", "elements": "str", "default": []},
    "probation": {"type": "int", "default": 3},
    "drain": {"type": "int", "default": 30},
    "keep": {"type": "int", "default": 5},
    "who": {"type": "str", "default": ""},
}


class Switch:
    """The switch to one release."""

    def __init__(self, options: dict) -> None:
        self.options = options
        self.site = Site(options["home"])
        self.release = options["release"]
        self.units = ReleaseUnits(options["service"], options["services"], options["single"])
        self.health = HealthCheck(options, self.site.releases / self.release)
        #: The reason why files of old releases could not be removed.
        self.left = ""

    def serves(self) -> bool:
        """Return whether the release is live, all its units run, and no units of other releases do."""
        return self.site.live == self.release and self.units.are_active(self.release)

    def wrong(self) -> str:
        """Return the complaint about the live release; empty if it is healthy and nginx can pass requests to it."""
        return self.health.ask(time.monotonic() + self.options["timeout"]) or self.health.find_obstacle()

    def clear_socket(self) -> None:
        """Stop the web service and the socket of the live release, because nginx has no access to this socket."""
        (self.site.releases / self.release).chmod(0o755)
        self.units.stop_web(self.release)

    def make_live(self) -> None:
        start = time.time()
        before = self.site.live
        try:
            self.units.start(self.release, self.options["timeout"])
            self._wait_for_answers()
        except StepError as error:
            log = read_log(self.units.processes(self.release), start)
            if before != self.release:
                self._put_away(error)
            advice = error.advice
            if re.search(r"(PermissionError|OSError): .*(Permission denied|Read-only file system)", log):
                advice = WRITABLE_ADVICE
            if (self.site.facts(before or "") or {}).get("undone"):
                advice = (
                    f"{before} goes on serving, but migrations that it needs may have been undone for {self.release}:"
                    f" bring them again by playbooks/deploy.yml.\n{advice}"
                )
            raise StepError(error.step, error.cause, advice, details=log) from None
        if before != self.release:
            replace_link(self.site.current, f"releases/{self.release}")
        # The next run records the switch of an interrupted run.
        if self.site.last_recorded != self.release:
            who = self.options["who"] or os.environ.get("SUDO_USER", "root")
            self.site.record_switch(self.site.last_recorded, self.release, who, time.time() - start)

    def _put_away(self, error: StepError) -> None:
        """Stop a release that is not healthy, and mark it bad unless it was live before."""
        self.units.stop(self.release)
        # The message reports the failure, so systemd need not report it any more.
        call("systemctl", "reset-failed", *self.units.web(self.release), *self.units.processes(self.release))
        # A full disk must not hide the earlier error.
        with contextlib.suppress(OSError, StepError):
            # A release that was live can be good, because the database or another service can have caused the failure.
            if not any(entry["to"] == self.release for entry in self.site.switches()):
                self.site.note(self.release, bad=f"{error.step}: {error.cause.splitlines()[0]}")
            self.prune()

    def _wait_for_answers(self) -> None:
        probation = Probation(time.monotonic(), self.options["timeout"], self.options["probation"])
        workers: set[tuple[str, str]] = set()
        while True:
            death = self.units.find_death(self.release, workers)
            complaint = death or self.health.ask(probation.end)
            now = time.monotonic()
            if complaint != probation.complaint:
                # The processes at the first good answer must be the same at the last one.
                workers = self.units.list_workers(self.release)
            gave_up = bool(complaint) and self.units.have_failed(self.units.processes(self.release), restarts=1)
            if probation.observe(now, complaint, bool(death), gave_up):
                return
            time.sleep(POLL_SECONDS)

    def watch_singles(self) -> None:
        """Fail when a single service does not keep running; it cannot run before its release is live."""
        start, end = time.time(), time.monotonic() + self.options["probation"]
        units = self.units.singles(self.release)
        while units:
            if self.units.have_failed(units, restarts=0):
                raise StepError(
                    "start",
                    f"{self.release} is live, but {', '.join(self.options['single'])} does not keep running",
                    "Correct its command in django_services, or the project, and deploy again.",
                    details=read_log(units, start - 1),
                )
            if time.monotonic() > end:
                return
            time.sleep(POLL_SECONDS)

    def retire_others(self) -> None:
        """Stop the instances of other releases once they are drained."""
        for release in sorted(self.units.running(self.options["service"]) - {self.release}):
            drain(str(self.site.releases / release / self.options["socket"]), self.options["drain"])
            self.units.stop(release)
        self.units.reset_failed(self.release)

    def prune(self) -> list[str]:
        """Remove the releases beyond the number to keep."""
        removed, self.left = prune_releases(self.site, self.release, self.options["keep"], self.units.running())
        return removed


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    switch = Switch(module.params)
    before = switch.site.live or ""
    diff = {"before": f"{before}\n", "after": f"{switch.release}\n"}
    try:
        if module.check_mode:
            serves = switch.serves()
            wrong = switch.wrong() if serves else UNITS_DIFFER if before == switch.release else ""
            changed = not serves or bool(wrong) or switch.site.removed.exists()
            module.exit_json(changed=changed, live=before, before=before, wrong=wrong, removed=[], diff=diff)
        if switch.site.facts(switch.release) is None:
            raise StepError(
                "switch",
                f"there is no complete release {switch.release!r} in {switch.site.releases}",
                "Run playbooks/deploy.yml again; playbooks/releases.yml lists those there are.",
            )
        with lock_site(switch.site.home):
            done = switch.serves() and switch.site.last_recorded == switch.release
            wrong = switch.wrong() if done else ""
            curable = bool(wrong) and not switch.health.is_reachable()
            if done and not wrong and not switch.site.removed.exists():
                module.exit_json(changed=False, live=before, before=before, wrong="", removed=[])
            if curable:
                switch.clear_socket()
            if wrong or not done:
                switch.make_live()
                switch.units.hand_over(switch.release)
                switch.retire_others()
                switch.watch_singles()
            removed = switch.prune()
            if switch.left:
                module.warn(switch.left)
            if wrong:
                if still := switch.health.find_obstacle():
                    raise StepError("health", still, WEB_SERVER_ADVICE)
                module.warn(
                    f"{switch.release} was live, but {wrong}; {'it was started anew' if curable else 'now it is well'}"
                )
        result = {"live": switch.release, "before": before, "wrong": wrong, "removed": removed}
        # Each run tries to remove the remaining files again.
        changed = not (done and not wrong and switch.left)
        module.exit_json(changed=changed, **result, diff=diff if changed else {})
    except StepError as error:
        module.fail_json(msg=str(error), step=error.step, live=switch.site.live or "", before=before)
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or 'switch'}: {error.strerror}", live=switch.site.live or "", before=before
        )


if __name__ == "__main__":
    main()
