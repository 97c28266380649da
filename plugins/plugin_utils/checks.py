# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read meta/checks.yml of a role, and build the checks of its variables.

`variables` has the check of each variable, in addition to the type, choices and default in argument_specs.yml. A check
is the name of a type, one of TYPES, or a dictionary:

    type        name of a type
    pattern     regular expression that the complete value must match; requires `expected`
    expected    description of the pattern, for the message and the tables of variables; a type has its own
    range       minimum and maximum of a number
    managed     for the types `setting`, `header` and `directive`: names that the stack sets, each with the variable
                to set instead, if there is one
    entries     for a list of dictionaries: the check of each option
    several_lines
                true if the value can have more than one line
    example     a valid value
    fix         fix for the message of the pattern, if "write one such as" the example is not enough

The check applies to each entry of a list, and to each name and value of a dictionary.

The file can also have the lists of names `required_together`, `same_on_all_hosts_of_a_site` and
`same_for_all_sites_of_a_host`; and `renamed`, the names of variables in an earlier version of the collection, each with
the present name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.django_vps.stack.plugins.plugin_utils import project_types as project
from ansible_collections.django_vps.stack.plugins.plugin_utils import system_types as system
from ansible_collections.django_vps.stack.plugins.plugin_utils.database_url import database_url
from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Rule
from ansible_collections.django_vps.stack.plugins.plugin_utils.value_types import (
    between,
    both,
    inside,
    matching,
    no_rule,
    setting,
)

TYPES: dict[str, Rule] = {
    "admin_name": both(system.USER_NAME, system.not_of_the_system),
    "allowed_host": project.allowed_host,
    "archive": system.ARCHIVE,
    "bare_public_key": system.bare_public_key,
    "body_limit": project.body_limit,
    "body_size": project.BODY,
    "build_commands": project.build_commands,
    "build_variable": project.build_variable,
    "calendar": system.calendar,
    "certificate_key": system.file_named("privkey.pem"),
    "certificates": matching(
        r"(?s)\s*-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----\s*",
        "expected certificates in PEM",
        "write one such as {{ lookup('ansible.builtin.file', 'ca.pem') }}",
    ),
    "command": system.command,
    "database_url": database_url,
    "email": project.email,
    "env_variable": project.env_entry,
    "firewall_rule": system.firewall_rule,
    "folder": system.folder,
    "full_chain": system.file_named("fullchain.pem"),
    "git_version": project.git_version,
    "home": system.home,
    "site_address": system.site_address,
    "interpreter": project.interpreter,
    "job_name": system.job_name,
    "location": project.LOCATION,
    "location_or_all": project.LOCATION_OR_ALL,
    "management_command": project.management_command,
    "name_or_wildcard": project.name_or_wildcard,
    "network": system.network,
    "network_in_front": system.network_in_front,
    "origin": project.origin,
    "package_group": project.GROUP,
    "path": system.path,
    "port": between(1, 65535),
    "postgres_name": system.postgres_name,
    "private_key": project.private_key,
    "proxy": system.proxy,
    "public_key": system.public_key,
    "repository": system.repository,
    "retention": system.retention,
    "requirement": project.requirement,
    "secret_key": project.secret_key,
    "service_name": both(system.SERVICE_NAME, system.not_reserved, system.not_a_unit),
    "site_name": project.site_name,
    "source": project.source,
    "source_file": inside("file"),
    "source_folder": inside("folder"),
    "source_pattern": inside("file", "*"),
    "source_text": project.file_entry,
    "timezone": system.timezone,
    "uploads": system.uploads,
    "url_path": project.URL_PATH,
    "user": both(system.USER_NAME, system.not_reserved),
    "valkey_url": project.valkey_url,
}

#: Types whose checks depend on the names that the stack sets itself.
MANAGED_TYPES: dict[str, Callable[[Mapping[str, Any]], Rule]] = {
    "directive": lambda data: system.directive(data["managed"]),
    "header": lambda data: project.header(data["managed"]),
    "setting": lambda data: setting(data["pattern"], data.get("managed", {})),
}


@dataclass(frozen=True)
class Check:
    rule: Rule = no_rule
    example: str = ""
    several_lines: bool = False
    entries: Mapping[str, Check] = field(default_factory=dict)


NO_CHECK = Check()


def build_check(data: str | dict[str, Any]) -> Check:
    """Return the check for an entry of `variables`."""
    data = {"type": data} if isinstance(data, str) else data
    kind, example = data.get("type"), data.get("example", "")
    if {"expected", "fix"} & data.keys() and "pattern" not in data:
        raise ValueError(f"expected and fix apply only to a pattern: {data}")
    if "entries" in data:
        return Check(example=example, entries={name: build_check(each) for name, each in data["entries"].items()})
    if kind in MANAGED_TYPES:
        return Check(MANAGED_TYPES[kind](data), example)
    if kind:
        return Check(TYPES[kind], example, data.get("several_lines", False))
    if "range" in data:
        return Check(between(*data["range"]), example)
    fix = data.get("fix", f"write one such as {example}")
    return Check(matching(data["pattern"], f"expected {data['expected']}", fix), example)
