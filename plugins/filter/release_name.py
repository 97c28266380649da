# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return the name that a release has on all hosts of a site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: release_name
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Name of a release that is the same on several hosts
description:
  - Each host has looked for the same release in check mode, registered as C(__django_survey).
  - The name is that of a release with the same content on each host that has it, preferably of a live release, else of
    the newest. If there is none, it is the latest of the names for a new release.
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
id: "{{ site_release_hosts | django_vps.stack.release_name(hostvars) }}"
"""

RETURN = r"""
_value:
  description: Id of the release.
  type: str
"""


def release_name(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> str:
    surveys = [hostvars[host]["__django_survey"] for host in hosts]
    others = {name for survey in surveys for name in survey["others"]}
    same = sorted({name for survey in surveys for name in survey["same"]} - others)
    live = {survey["live"] for survey in surveys}
    return ([name for name in same if name in live] or same or [max(survey["next"] for survey in surveys)])[-1]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"release_name": release_name}
