# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return the host from which a rollback starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: furthest_host
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Host with the newest live release
description:
  - A deploy or a rollback may have stopped halfway. Of several hosts, the one with the newest live release decides
    which release is the previous one. Each host has reported its live release, registered as C(__django_known).
options:
  _input:
    description: App hosts of the site that are in the run.
    type: list
    elements: str
    required: true
  hostvars:
    description: Variables of all hosts, C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
__django_leader: "{{ site_release_hosts | django_vps.stack.furthest_host(hostvars) }}"
"""

RETURN = r"""
_value:
  description: Name of the host; of several with the same release the first.
  type: str
"""


def furthest_host(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> str:
    return max(hosts, key=lambda host: hostvars[host].get("__django_known", {}).get("live", ""))


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"furthest_host": furthest_host}
