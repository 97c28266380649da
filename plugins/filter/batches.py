# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return how many app hosts switch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DOCUMENTATION = r"""
name: batches
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Value of serial for the play that makes a release live
description:
  - Ansible reads C(serial) before a play has hosts and before the defaults of roles are known.
  - Where each app host runs a different site, the order does not matter, and all switch at once.
options:
  _input:
    description: Groups of the inventory, C(groups).
    type: dict
    required: true
  hostvars:
    description: >-
      Variables of all hosts, C(hostvars). The filter reads C(site_name) and C(django_batches). It is empty in a
      syntax check.
    type: dict
    required: true
"""

EXAMPLES = r"""
serial: "{{ groups | django_vps.stack.batches(hostvars | default({})) }}"
"""

RETURN = r"""
_value:
  description: C(django_batches), or V(100%) where each app host runs a different site.
  type: raw
"""

#: The default of the role django; a unit test compares the two.
DEFAULT = ["1", "34%"]


def batches(groups: Mapping[str, list[str]], hostvars: Mapping[str, Any]) -> list[str] | str:
    app = groups.get("app", []) if hostvars else []
    if len({hostvars[host]["site_name"] for host in app}) == len(app):
        return "100%"
    return hostvars[app[0]].get("django_batches", DEFAULT)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"batches": batches}
