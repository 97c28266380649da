# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return a secret that several hosts share."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: shared_secret
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Secret of an existing host, or a new one for all hosts
description:
  - A new host gets the secret of the others, so that sessions and connections stay valid.
options:
  _input:
    description: Hosts that share the secret.
    type: list
    elements: str
    required: true
  hostvars:
    description: Variables of all hosts, C(hostvars).
    type: dict
    required: true
  known:
    description: Variable in which each host has registered its file, as M(ansible.builtin.slurp) returns it.
    type: str
    required: true
  new:
    description:
      - Variable with a new secret. The filter uses that of the first host.
      - By default the filter returns an empty string when no host has a secret.
    type: str
    default: ""
"""

EXAMPLES = r"""
content: "{{ site_release_hosts | django_vps.stack.shared_secret(hostvars, '__django_key', '__django_new_key') }}"
"""

RETURN = r"""
_value:
  description: The secret.
  type: str
"""


def shared_secret(hosts: Iterable[str], hostvars: Mapping[str, Any], known: str, new: str = "") -> str:
    names = list(hosts)
    files = (hostvars[host].get(known, {}).get("content", "") for host in names)
    secrets = (base64.b64decode(content).decode().strip() for content in files)
    return next(filter(None, secrets), None) or (hostvars[names[0]][new] if new else "")


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"shared_secret": shared_secret}
