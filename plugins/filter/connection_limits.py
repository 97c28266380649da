# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Share the connections of a PostgreSQL server between a site and the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DOCUMENTATION = r"""
name: connection_limits
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Connections of a site to its server
description:
  - Without a limit of the inventory a site gets what its processes need. Asynchronous workers open as many connections
    as they have requests, so such a site gets half of what the server has, which leaves another site as many.
  - Through a pooler the processes share a pool of four connections for each processor of the server, but at least 20,
    because a transaction can wait for something else. Ten more are for C(manage.py), which connects directly.
options:
  _input:
    description: Number of connections that the processes of the site need. 0 if it is unknown.
    type: int
    required: true
  limit:
    description: Limit of the inventory, C(postgres_connection_limit). 0 for none.
    type: int
    required: true
  usable:
    description: Number of connections that the server has for all sites.
    type: int
    required: true
  allowed:
    description: Number of connections that the server already allows the roles of other sites, and that of this one.
    type: list
    elements: int
    required: true
  pooled:
    description: Whether the processes connect through a pooler.
    type: bool
    required: true
  processors:
    description: Number of processors of the server.
    type: int
    required: true
"""

EXAMPLES = r"""
limits: "{{ 42 | django_vps.stack.connection_limits(0, 87, [42, 0], false, 2) }}"
"""

RETURN = r"""
_value:
  description: The limits.
  type: dict
  contains:
    role:
      description:
        - Limit of the role. While a pooler is set up it stays as high as it is, because the live release connects
          directly until the switch.
      type: int
    pool:
      description: Size of the pool.
      type: int
    wanted:
      description: Number of connections that the site must have.
      type: int
    has_room:
      description:
        - Whether the server has that many. A site that wants no more than it has is no reason to refuse a run, whatever
          other sites have got since.
      type: bool
"""

#: Connections for the commands of manage.py.
MANAGE = 10
SMALLEST_POOL = 20
PER_PROCESSOR = 4


def connection_limits(
    needed: int, limit: int, usable: int, allowed: Sequence[int], pooled: bool, processors: int
) -> dict[str, Any]:
    others, own = allowed
    if pooled:
        pool = max(SMALLEST_POOL, PER_PROCESSOR * processors) + MANAGE
        needed = min(needed or pool, pool)
    connections = min(limit or needed or max(usable // 2, 1), usable)
    wanted = connections if limit else max(connections, needed)
    return {
        "role": max(connections, min(own, usable)) if pooled and not limit else connections,
        "pool": max(connections - MANAGE, 1),
        "wanted": wanted,
        "has_room": wanted <= usable and (wanted + others <= usable or wanted <= own),
    }


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"connection_limits": connection_limits}
