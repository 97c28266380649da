# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return the hosts of a site and the connections between them, by the groups of the inventory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: topology
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Hosts of a site, and the connections between them
description:
  - For a site on one VPS, the lists of addresses are empty, because no host connects to another.
options:
  _input:
    description: Groups of the inventory, C(groups).
    type: dict
    required: true
  hostvars:
    description:
      - Variables of all hosts, C(hostvars). The filter reads C(site_name), C(site_address) and C(site_database_pooler)
        of each host, and the results of this run, C(ansible_facts), C(__claim) and C(__django_release).
    type: dict
    required: true
  host:
    description: Host whose topology is returned, C(inventory_hostname).
    type: str
    required: true
"""

EXAMPLES = r"""
site_topology: "{{ groups | django_vps.stack.topology(hostvars, inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: The topology of the site as this host sees it.
  type: dict
  contains:
    hosts:
      description: All hosts of the site.
      type: list
      elements: str
    web:
      description: Hosts of the group C(web). In the same way C(app) and C(database).
      type: list
      elements: str
    valkey:
      description: Host of the group C(valkey), or an empty string.
      type: str
    is_web:
      description: Whether this host is one of C(web). In the same way C(is_app), C(is_database) and C(is_valkey).
      type: bool
    is_multi_host:
      description: Whether the site has several hosts.
      type: bool
    is_balanced:
      description: Whether the web hosts are load balancers, which pass requests to app hosts.
      type: bool
    backends:
      description: >-
        Where the web hosts are load balancers, addresses of the app hosts with a live release, or of all app hosts
        while no host has one.
      type: list
      elements: str
    load_balancers:
      description: On an app host, addresses of the load balancers, the web hosts that pass requests to it.
      type: list
      elements: str
    peers:
      description: Addresses of the other hosts of the site.
      type: list
      elements: str
    members:
      description: Hosts of each group, where the site has several hosts.
      type: dict
    database_servers:
      description: Database hosts, each with its address.
      type: dict
    app_processors:
      description: Number of processors of all app hosts, from the module M(django_vps.stack.check_host).
      type: int
    database_is_local:
      description: Whether this host has the only database, to which it connects over the socket.
      type: bool
    database_clients:
      description: Addresses of the app hosts that connect to a database over the network.
      type: list
      elements: str
    valkey_address:
      description: Address at which app hosts connect to Valkey. Empty where it is on the only app host.
      type: str
    valkey_clients:
      description: On the host with Valkey, addresses of the app hosts that connect to it over the network.
      type: list
      elements: str
    database_peers:
      description: On a database host of a site with several hosts, addresses of its clients and of all database hosts.
      type: list
      elements: str
    is_certificate_host:
      description: Whether this host requests the certificate that other web hosts fetch.
      type: bool
    certificate_host_address:
      description: Address of the web host that requests the certificate. Empty on that host.
      type: str
    certificate_followers:
      description: On the host that requests the certificate, addresses of the others.
      type: list
      elements: str
    pooler_clients:
      description: On a database host with C(site_database_pooler), addresses of the app hosts that connect to it.
      type: list
      elements: str
    has_pooler:
      description: >-
        Whether a database host had a pooler of the site at the start of the run, from the module
        M(django_vps.stack.check_host).
      type: bool
    backup_parts:
      description: Parts of the site that this host backs up.
      type: list
      elements: str
    neighbour_sites:
      description: Sites of the inventory on the same machine, by C(ansible_host), including this one.
      type: list
      elements: str
"""

#: Groups of the inventory, by the names of their parts in the topology.
GROUPS = ("web", "app", "database", "valkey")


def topology(groups: Mapping[str, list[str]], hostvars: Mapping[str, Any], host: str) -> dict[str, Any]:
    # Ansible collects the variables of a host each time that they are looked up.
    facts = functools.cache(hostvars.__getitem__)
    everybody = list(dict.fromkeys(name for group in GROUPS for name in groups.get(group, ())))
    # Hosts of another site can be in the same groups.
    site = facts(host)["site_name"] if len(everybody) > 1 else None
    hosts = [name for name in everybody if site is None or name == host or facts(name)["site_name"] == site]
    web, app, database, valkey = ([name for name in groups.get(group, ()) if name in hosts] for group in GROUPS)

    def addresses(names: list[str]) -> list[str]:
        return [facts(name).get("site_address", "") for name in names]

    def is_serving(name: str) -> bool:
        found = facts(name)
        return bool(found.get("__claim", {}).get("is_serving") or found.get("__django_release", {}).get("release"))

    is_multi_host = len(hosts) > 1
    is_balanced = len({*web, *app}) > 1
    valkey_host = valkey[0] if valkey else ""
    valkey_is_remote = bool(valkey_host) and app != [valkey_host]
    # The only database is local to the app host that has it.
    remote_app = [name for name in app if database != [name]]
    is_certificate_host = len(web) > 1 and host == web[0]
    return {
        "hosts": hosts,
        "web": web,
        "app": app,
        "database": database,
        "valkey": valkey_host,
        "is_web": host in web,
        "is_app": host in app,
        "is_database": host in database,
        "is_valkey": host == valkey_host,
        "is_multi_host": is_multi_host,
        "is_balanced": is_balanced,
        "backends": addresses([name for name in app if is_serving(name)] or app) if is_balanced else [],
        "load_balancers": addresses(web) if is_balanced and host in app else [],
        "peers": addresses([name for name in hosts if name != host]),
        "members": {
            group: names
            for group, names in zip(GROUPS, (web, app, database, [valkey_host] if valkey_host else []), strict=True)
            if is_multi_host and (names or group != "valkey")
        },
        "database_servers": dict(zip(database, addresses(database), strict=True)),
        "app_processors": sum(facts(name).get("ansible_facts", {}).get("processors", 0) for name in app),
        "database_is_local": database == [host],
        "database_clients": addresses(remote_app),
        "database_peers": list(dict.fromkeys(addresses(remote_app) + addresses(database)))
        if is_multi_host and host in database
        else [],
        "pooler_clients": addresses(remote_app)
        if host in database and facts(host).get("site_database_pooler", "none") != "none"
        else [],
        "has_pooler": any(
            facts(name).get("site_name") in facts(name).get("ansible_facts", {}).get("poolers", ()) for name in database
        ),
        "valkey_address": addresses([valkey_host])[0] if valkey_is_remote else "",
        "valkey_clients": addresses(app) if valkey_is_remote and host == valkey_host else [],
        "is_certificate_host": is_certificate_host,
        "certificate_host_address": addresses(web[:1])[0] if len(web) > 1 and host != web[0] else "",
        "certificate_followers": addresses(web[1:]) if is_certificate_host else [],
        # App hosts have the same uploads, and web hosts the same certificate. A database that the stack does not manage
        # is on none of the hosts.
        "backup_parts": [
            part
            for part, names in (("database", database or app[:1]), ("files", app[:1]), ("certificates", web[:1]))
            if host in names
        ],
        "neighbour_sites": neighbour_sites(groups, facts, host),
    }


def neighbour_sites(groups: Mapping[str, list[str]], facts: Callable[[str], Mapping[str, Any]], host: str) -> list[str]:
    machine = facts(host).get("ansible_host", host)
    here = [name for name in groups.get("all", ()) if facts(name).get("ansible_host", "") == machine]
    return list(dict.fromkeys(filter(None, (facts(name).get("site_name", "") for name in here))))


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"topology": topology}
