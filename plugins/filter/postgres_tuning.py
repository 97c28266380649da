# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Derive settings of PostgreSQL from the memory, the processors and the disk of its host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: postgres_tuning
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Settings of PostgreSQL that fit a host
description:
  - PostgreSQL may use half of the memory of a host that runs app servers too, else all of it. The rules for the parts
    of it are those of PostgreSQL's manual, "Resource Consumption", and of its wiki, "Tuning Your PostgreSQL Server".
  - Memory is rounded up to the size that a server was sold with, so that another kernel does not lead to a restart.
  - All database hosts of a site have the C(max_connections) of the smallest one, because a standby cannot have fewer
    than its primary.
options:
  _input:
    description: >-
      Variables of all hosts, C(hostvars), with the facts of M(django_vps.stack.check_host) and the result of
      M(django_vps.stack.claim) as C(__claim).
    type: dict
    required: true
  host:
    description: The host in the inventory.
    type: str
    required: true
  servers:
    description: Database hosts of the site.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
settings: "{{ hostvars | django_vps.stack.postgres_tuning(inventory_hostname, ['db1', 'db2']) }}"
"""

RETURN = r"""
_value:
  description: Settings by their own names. Empty without the facts.
  type: dict
"""


def postgres_tuning(hostvars: Mapping[str, Any], host: str, servers: Iterable[str]) -> dict[str, Any]:
    # Ansible collects the variables of a host each time that they are looked up.
    variables = {name: hostvars[name] for name in {host, *servers}}
    facts = {name: each.get("ansible_facts", {}) for name, each in variables.items()}
    if not all("memory_mb" in each for each in facts.values()):
        return {}
    memory = {name: rounded(each["memory_mb"]) for name, each in facts.items()}
    connections = between(100, min(memory.values()) // 40, 1000)
    # Only site.yml claims names; other playbooks know the groups of the host alone.
    known = variables[host]
    has_app = known.get("__claim", {}).get("has_app", "app" in known.get("group_names", ()))
    share = memory[host] // 2 if has_app else memory[host]
    buffers = between(64, share // 4, 8192)
    wal = between(256, facts[host]["data_disk_mb"] // 20, 4096)
    processors = facts[host]["processors"]
    # A spinning disk needs 4 times as long for a random page, and answers few requests at once.
    page_cost, requests, vacuum = (4, 2, 200) if facts[host]["data_disk_spins"] else (1.1, 200, 1000)
    return {
        "max_connections": connections,
        "shared_buffers": f"{buffers}MB",
        "effective_cache_size": f"{share * 3 // 4}MB",
        # A quarter of the rest, for half of the connections at the same time.
        "work_mem": f"{between(4, (share - buffers) * 2 // connections // 4, 64)}MB",
        "maintenance_work_mem": f"{between(32, share // 16, 1024)}MB",
        "max_wal_size": f"{wal}MB",
        "min_wal_size": f"{wal // 4}MB",
        "random_page_cost": page_cost,
        "effective_io_concurrency": requests,
        "max_parallel_workers": min(processors, 8),
        "max_parallel_workers_per_gather": between(0, processors // 2, 4),
        "max_parallel_maintenance_workers": between(0, processors // 2, 4),
        # The defaults wait for a fifth of a table to change.
        "autovacuum_vacuum_scale_factor": 0.05,
        "autovacuum_analyze_scale_factor": 0.02,
        "autovacuum_vacuum_cost_limit": vacuum,
    }


def rounded(memory_mb: int) -> int:
    """Round up to one of the sizes that servers are sold in, four for each power of two: 4, 5, 6, 7 and 8 GB."""
    step = 2 ** max(memory_mb.bit_length() - 3, 0)
    return -(-memory_mb // step) * step


def between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"postgres_tuning": postgres_tuning}
