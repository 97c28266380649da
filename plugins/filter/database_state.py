# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find the primary among a site's database hosts, and the standby to promote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: database_state
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Primary, standbys and candidate of a site's database hosts
description:
  - Each host has reported C(STATE POSITION), registered as C(__postgres_asked). The state is C(primary), C(replica)
    for a standby, C(new) without data, or C(down). A host without a report is C(unreachable).
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
  hosts_in_run:
    description: Hosts that can be promoted, C(ansible_play_hosts).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
__postgres_state: "{{ __postgres_servers | django_vps.stack.database_state(hostvars, ansible_play_hosts) }}"
"""

RETURN = r"""
_value:
  description: State of the database hosts.
  type: dict
  contains:
    states:
      description: State of each host.
      type: dict
    primaries:
      description: Hosts that are a primary. More than one is an error.
      type: list
      elements: str
    primary:
      description: >-
        The primary: the host that this run has promoted, else the one that is a primary, else the first.
      type: str
    readable:
      description: >-
        Standbys whose data can be read. A host that is not in the run does not count, because it can be down and
        return with old data.
      type: list
      elements: str
    candidate:
      description: >-
        The host to promote: the standby with the most data, of two with the same data the later one. Where one host is
        down and there is no standby, an interrupted run has promoted the other host. Empty if there is none.
      type: str
"""


def database_state(servers: Iterable[str], hostvars: Mapping[str, Any], hosts_in_run: Iterable[str]) -> dict[str, Any]:
    hosts = list(servers)
    answers = {
        host: hostvars[host].get("__postgres_asked", {}).get("stdout", "unreachable 0").split() for host in hosts
    }
    states = {host: answer[0] for host, answer in answers.items()}
    positions = {host: int(answer[1]) for host, answer in answers.items() if states[host] == "replica"}
    primaries = [host for host in hosts if states[host] == "primary"]
    promoted = [name for host in hosts if (name := hostvars[host].get("__postgres_promoted_host"))]
    primary = (promoted or (primaries if len(hosts) > 1 else []) or hosts or [""])[0]
    standbys = [host for host in positions if host in set(hosts_in_run)]
    candidates = primaries if "down" in states.values() else []
    candidates = candidates + [host for host in standbys if positions[host] == max(map(positions.get, standbys))]
    return {
        "states": states,
        "primaries": primaries,
        "primary": primary,
        "readable": [host for host in hosts if states[host] != "unreachable" and host != primary],
        "candidate": (candidates or [""])[-1],
    }


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"database_state": database_state}
