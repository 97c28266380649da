#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: releases
short_description: List the releases of a site, and select the one for a rollback
version_added: 1.0.0
description:
  - Reads the releases that are kept on a host, and the journal of switches.
options:
  home:
    description: Folder of the site on the host.
    type: path
    required: true
  wanted:
    description:
      - Id of the release to roll back to. It must be complete and not bad.
      - When empty, the rollback selects the previous release.
    type: str
  required:
    description: Whether to fail when there is no release to roll back to.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Changes no files.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: List the releases
  django_vps.stack.releases:
    home: /srv/shop
"""

RETURN = r"""
live:
  description: Id of the live release. Empty before the first release.
  returned: always
  type: str
previous:
  description: Id of the release to roll back to. Empty when there is none.
  returned: success
  type: str
left:
  description:
    - Id of the release with migrations that the release to roll back to may not have. It is the live release, except if
      the wanted release is live already, after a rollback that was interrupted or kept the migrations. Then it is the
      release that was live before.
  returned: success
  type: str
releases:
  description: >-
    Complete releases, newest first, each with C(id), C(version), C(built), C(live), the reason why it is C(bad), and
    the number of C(restarts) of its units in the last hour, if they still restart.
  returned: success
  type: list
  elements: dict
journal:
  description: >-
    Switches, newest first, each with C(at), C(who), C(what), C(from), C(to) and C(seconds), and C(restore_points) if
    the database was migrated.
  returned: success
  type: list
  elements: dict
restore_points:
  description: >-
    The sets of the backup that restore the database as it was for the release to roll back to, the oldest first, each
    with C(set) and C(time).
  returned: success
  type: list
  elements: dict
restarts:
  description: Units of the site that restart repeatedly, each with the number of restarts in the last hour.
  returned: success
  type: dict
lines:
  description: Releases and journal as lines of text for people to read.
  returned: success
  type: list
  elements: str
"""

from collections import Counter

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.commands import call
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

#: The number of switches to list.
LAST = 20
#: The message id in systemd's journal for a unit that will restart (SD_MESSAGE_UNIT_RESTART_SCHEDULED).
RESTART = "5eb03494b6584870a536b337290809b3"
#: Fewest restarts of a unit in an hour that are reported.
MANY = 3


def count_restarts() -> dict[str, int]:
    """Return the units that restarted often in the last hour and were not stopped since, each with the number."""
    units = call("journalctl", "--since=-1h", f"MESSAGE_ID={RESTART}", "--output=cat", "--output-fields=UNIT").stdout
    often = {unit: count for unit, count in Counter(units.split()).items() if count >= MANY}
    return {unit: count for unit, count in sorted(often.items()) if is_restarting(unit)}


def is_restarting(unit: str) -> bool:
    return call("systemctl", "show", "--property=ActiveState", "--value", "--", unit).stdout.strip().startswith("activ")


def read(site: Site, restarts: dict[str, int]) -> list[dict]:
    return [
        {
            "id": name,
            "version": facts.get("version", ""),
            "built": facts.get("built", ""),
            "live": name == site.live,
            "bad": facts.get("bad", ""),
            "runs": bool(site.find_interpreter(name)),
            "restarts": {unit: count for unit, count in restarts.items() if unit.endswith(f"@{name}.service")},
        }
        for name, facts in ((name, site.facts(name)) for name in reversed(site.complete_releases()))
    ]


def choose(site: Site, releases: list[dict], wanted: str) -> str:
    """Return the release to roll back to; StepError when the wanted one cannot run."""
    chosen = wanted or site.previous(site.live or "") or ""
    if not chosen:
        return ""
    found = next((release for release in releases if release["id"] == chosen), None)
    good = [release["id"] for release in releases if release["runs"] and not release["bad"] and not release["live"]]
    advice = f"Good ones: {', '.join(good)}." if good else "There is no other good one."
    if found is None:
        raise StepError("rollback", f"there is no release {chosen!r}", advice)
    if found["bad"]:
        raise StepError("rollback", f"{chosen} is bad: {found['bad']}", advice)
    if not found["runs"]:
        advice = f"{advice} Or deploy its version anew: playbooks/deploy.yml -e django_version={found['version']}"
        raise StepError("rollback", f"{chosen} cannot run: the Python that it was built for is gone", advice)
    return chosen


def leaves(site: Site, previous: str) -> str:
    """Return the release that a rollback replaces, or has replaced."""
    live = site.live or ""
    return site.last_left if previous == live and site.facts(site.last_left) is not None else live


def lines(releases: list[dict], previous: str, journal: list[dict]) -> list[str]:
    def state(release: dict) -> str:
        if release["bad"]:
            return f"bad: {release['bad']}"
        if not release["runs"]:
            return "its Python is gone"
        states = ["live" if release["live"] else "the one before" if release["id"] == previous else ""]
        states += [f"{unit} restarted {count} times in the last hour" for unit, count in release["restarts"].items()]
        return ", ".join(filter(None, states))

    versions = {release["id"]: release["version"] for release in releases}
    width = max((len(version) for version in versions.values()), default=0)
    kept = [f"{release['id']}  {release['version']:{width}}  {state(release)}".rstrip() for release in releases]
    switches = [
        f"{entry['at']}  {entry['who']}  {entry['from'] or 'nothing'} -> {entry['to']}"
        f"  {entry.get('what', '')}  in {entry['seconds']} s"
        + "".join(f", restore point {one['set']}" for one in entry.get("restore_points", []))
        for entry in journal[:LAST]
    ]
    return (
        [*(kept or ["there is no release yet"]), "switches:", *switches]
        if switches
        else kept or ["there is no release yet"]
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "wanted": {"type": "str"},
            "required": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    site = Site(module.params["home"])
    releases, journal = read(site, count_restarts()), site.switches()[::-1]
    try:
        previous = choose(site, releases, module.params["wanted"] or "")
        if module.params["required"] and not previous:
            raise StepError(
                "rollback",
                f"there is no release before {site.live or 'the first one'} to go back to",
                "playbooks/releases.yml lists what is there.",
            )
    except StepError as error:
        # Without a rollback in view, a previous release that cannot run is none.
        if module.params["required"] or module.params["wanted"]:
            module.fail_json(msg=str(error), live=site.live or "")
        previous = ""
    module.exit_json(
        changed=False,
        live=site.live or "",
        previous=previous,
        left=leaves(site, previous),
        releases=releases,
        journal=journal,
        restore_points=site.restore_points(previous),
        restarts={unit: count for release in releases for unit, count in release["restarts"].items()},
        lines=lines(releases, previous, journal),
    )


if __name__ == "__main__":
    main()
