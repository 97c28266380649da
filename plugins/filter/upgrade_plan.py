# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Combine what the hosts of a site have reported before an upgrade of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: upgrade_plan
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: What an upgrade of PostgreSQL does on which host of a site
description:
  - Each database host has reported its clusters, registered as C(__postgres_found), and each app host its releases,
    registered as C(__django_releases).
options:
  _input:
    description: Database hosts of the site, in the order of the inventory.
    type: list
    elements: str
    required: true
  hostvars:
    description: Variables of all hosts, C(hostvars).
    type: dict
    required: true
  app_hosts:
    description: App hosts of the site.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
postgres_upgrade: "{{ site_topology.database | django_vps.stack.upgrade_plan(hostvars, site_topology.app) }}"
"""

RETURN = r"""
_value:
  description: What an upgrade does.
  type: dict
  contains:
    pending:
      description: Whether a host has something to do.
      type: bool
    primary:
      description: Host whose data is upgraded.
      type: str
    problem:
      description: Why the hosts do not fit together. Empty if they do.
      type: str
    opens:
      description: Whether the live release of each app host can run, so that the site can be opened afterwards.
      type: bool
    error:
      description: Why the upgrade of the primary failed. Empty before, and if it did not fail.
      type: str
"""


def upgrade_plan(servers: Iterable[str], hostvars: Mapping[str, Any], app_hosts: Iterable[str]) -> dict[str, Any]:
    hosts = list(servers)
    found = {host: hostvars[host].get("__postgres_found") or {} for host in hosts}
    kinds = {host: facts.get("kind", "unreachable") for host, facts in found.items()}
    primaries = [host for host in hosts if kinds[host] == "primary"]
    targets = {host: facts.get("target", "") for host, facts in found.items()}
    problem = ""
    if "unreachable" in kinds.values():
        problem = "not all database hosts are in this run"
    elif len(set(targets.values())) > 1:
        problem = f"the database hosts would have clusters of different versions: {targets}"
    elif len(hosts) > 1 and len(primaries) != 1:
        problem = f"one database host must be the primary, and the hosts are: {kinds}"
    primary = (primaries or hosts or [""])[0]
    return {
        "pending": any(facts.get("pending") for facts in found.values()),
        "primary": primary,
        "problem": problem,
        "opens": all(runs_live_release(hostvars[host].get("__django_releases") or {}) for host in app_hosts),
        "error": hostvars[primary].get("__postgres_upgraded", {}).get("error", "") if primary else "",
    }


def runs_live_release(known: Mapping[str, Any]) -> bool:
    return any(release["live"] and release["runs"] for release in known.get("releases", ()))


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"upgrade_plan": upgrade_plan}
