#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: switch
short_description: Make a release live once it has answered, and stop the one before
version_added: 1.0.0
description:
  - Starts the release on its own socket, asks it over that socket until it has answered well for some seconds and its
    processes have lived as long, and only then lets C(current) name it, by one atomic rename. The web server goes
    through C(current), so this one rename moves code, assets and traffic.
  - A release that does not answer well is stopped, its last journal lines are shown, and C(current) stays where it was.
    One that never was live is marked bad.
  - An answer in JSON that names a release has to name this one.
  - Then waits until no connection is queued for the release before, stops it gracefully, and removes old releases.
  - When the release is live, runs and answers, over its socket and where there is a web server also as visitors ask,
    nothing changes. One that does not answer is started anew, with its socket, and asked again.
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
    description: Name of the site that is asked for. The web server redirects the others to it.
    type: str
    required: true
  names:
    description: Names of the site that the web server redirects to O(host).
    type: list
    elements: str
    default: []
  served:
    description: Names of the site that the web server passes on as they are.
    type: list
    elements: str
    default: []
  health_path:
    description:
      - Path that has to answer 200.
      - When empty, C(/) is asked, redirects within the site are followed, and any answer will do in the end that shows
        a working site, that is, one below 500 but not 400.
    type: str
    default: ""
  front:
    description: Name by which the web server of this host is asked for the site as well. Empty where it has none.
    type: str
    default: ""
  closed:
    description: File by which the site is closed to visitors; while it is there the web server is not asked.
    type: path
  timeout:
    description: Seconds in which the release has to answer well.
    type: int
    default: 60
  services:
    description: Further template units, without C(@), that are started along and have to keep running.
    type: list
    elements: str
    default: []
  single:
    description:
      - Those of O(services) of which there may never be two. They end in every other release before they start in this
        one, which is after it went live, so that none of a refused release runs.
    type: list
    elements: str
    default: []
  probation:
    description: Seconds for which the release has to answer well and its processes have to live.
    type: int
    default: 3
  drain:
    description: Seconds that queued connections of the release before may take to be accepted.
    type: int
    default: 30
  keep:
    description: Releases to keep. The live one and the one before stay in any case.
    type: int
    default: 5
  who:
    description: Who does it, for the journal.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Tells whether the release would be made live.
  diff_mode:
    support: full
    description: Shows the release that is live and the one that would be.
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
  description: Id of the release that is live.
  returned: always
  type: str
before:
  description: Id of the release that was live, empty before the first.
  returned: always
  type: str
wrong:
  description: What was wrong with the answer of the live release; empty where it answered well.
  returned: success
  type: str
removed:
  description: Ids of the releases that were removed.
  returned: success
  type: list
  elements: str
"""

import contextlib
import os
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.advice import WRITABLE_ADVICE
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

#: What is wrong where the live release is not all that runs.
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
    "front": {"type": "str", "default": ""},
    "closed": {"type": "path"},
    "timeout": {"type": "int", "default": 60},
    "services": {"type": "list", "elements": "str", "default": []},
    "single": {"type": "list", "elements": "str", "default": []},
    "probation": {"type": "int", "default": 3},
    "drain": {"type": "int", "default": 30},
    "keep": {"type": "int", "default": 5},
    "who": {"type": "str", "default": ""},
}


class Switch:
    """The way of one release to being live."""

    def __init__(self, options: dict) -> None:
        self.options = options
        self.site = Site(options["home"])
        self.release = options["release"]
        self.units = ReleaseUnits(options["service"], options["services"], options["single"])
        self.health = HealthCheck(options, self.site.releases / self.release)
        #: Why files of old releases could not be removed.
        self.left = ""

    def serves(self) -> bool:
        """Whether the release is live, all its units run, and no other release does."""
        return self.site.live == self.release and self.units.are_active(self.release)

    def wrong(self) -> str:
        """Return what is wrong with the answer of the live release; empty where it is good."""
        return self.health.ask(time.monotonic() + self.options["timeout"]) or self.health.ask_front()

    def clear_socket(self) -> None:
        """Have the socket of the live release made anew; the web server has no access to the old one anyway."""
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
        # The next run records a switch whose run died before it could.
        if self.site.last_recorded != self.release:
            who = self.options["who"] or os.environ.get("SUDO_USER", "root")
            self.site.record_switch(self.site.last_recorded, self.release, who, time.time() - start)

    def _put_away(self, error: StepError) -> None:
        """Stop a release that does not answer well."""
        self.units.stop(self.release)
        # The user knows it now; systemd need not go on reporting it.
        call("systemctl", "reset-failed", *self.units.web(self.release), *self.units.processes(self.release))
        # A full disk must not hide what was wrong before.
        with contextlib.suppress(OSError, StepError):
            # A release that was live may be good: the failure may be the database's, or that of a service.
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
                # The processes there are when the good answers begin have to be there when they end.
                workers = self.units.list_workers(self.release)
            gave_up = bool(complaint) and self.units.have_failed(self.units.processes(self.release), restarts=1)
            if probation.observe(now, complaint, bool(death), gave_up):
                return
            time.sleep(POLL_SECONDS)

    def watch_singles(self) -> None:
        """Fail when a single service does not stay up; it cannot run before its release is live."""
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
        """Stop the instances of other releases once no connection waits for them."""
        for release in sorted(self.units.running(self.options["service"]) - {self.release}):
            drain(str(self.site.releases / release / self.options["socket"]), self.options["drain"])
            self.units.stop(release)
        self.units.reset_failed(self.release)

    def prune(self) -> list[str]:
        """Remove the releases beyond those to keep."""
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
                f"there is no whole release {switch.release!r} in {switch.site.releases}",
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
                if still := switch.health.ask_front():
                    raise StepError(
                        "health", still, "The release answers over its socket. See nginx's error.log, or run site.yml."
                    )
                module.warn(
                    f"{switch.release} was live, but {wrong}; {'it was started anew' if curable else 'now it is well'}"
                )
        result = {"live": switch.release, "before": before, "wrong": wrong, "removed": removed}
        # What cannot be removed is tried again by each run.
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
