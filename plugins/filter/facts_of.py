# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return what several hosts have registered under one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: facts_of
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: One variable of several hosts
description:
  - Tasks read other hosts by this filter or by one that decides more, such as P(django_vps.stack.topology#filter), so
    that a search for it finds all that hosts learn from each other.
options:
  _input:
    description: Names of the hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: Variables of all hosts, C(hostvars).
    type: dict
    required: true
  name:
    description: Name of the variable, such as a registered result.
    type: str
    required: true
"""

EXAMPLES = r"""
live: "{{ (['app1', 'app2'] | django_vps.stack.facts_of(hostvars, '__django_release')).app1.live }}"
"""

RETURN = r"""
_value:
  description: For each host the value of its variable, or an empty dictionary if it has none.
  type: dict
"""


def facts_of(hosts: Iterable[str], hostvars: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {host: hostvars[host].get(name, {}) for host in hosts}


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"facts_of": facts_of}
