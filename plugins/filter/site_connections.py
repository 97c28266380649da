# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return the number of connections that a site opens to its database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: site_connections
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Number of connections that a site can open to its database
description:
  - Two releases run during a switch, each with a connection for each thread of gunicorn. Each service has ten, and so
    have all commands of C(manage.py) together.
options:
  _input:
    description: Topology of the site, C(site_topology).
    type: dict
    required: true
  worker_class:
    description: Class of gunicorn's workers.
    type: str
    required: true
  workers:
    description: Number of workers on each app host. 0 is one more than its processors.
    type: int
    required: true
  threads:
    description: Number of threads of each worker.
    type: int
    required: true
  services:
    description: Services of the project, C(django_services).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
limit: "{{ site_topology | django_vps.stack.site_connections('gthread', 0, 4, django_services) }}"
"""

RETURN = r"""
_value:
  description: The number. 0 if it is unknown, because an asynchronous worker opens as many as it has requests.
  type: int
"""


def site_connections(
    topology: Mapping[str, Any], worker_class: str, workers: int, threads: int, services: Sequence[Any]
) -> int:
    if worker_class not in ("gthread", "sync"):
        return 0
    hosts = len(topology["app"])
    processes = hosts * workers or topology["app_processors"] + hosts
    return 2 * threads * processes + 10 * (hosts * len(services) + 1)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"site_connections": site_connections}
