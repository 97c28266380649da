# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the argument specs and checks of the roles, and the parameters that the playbooks pass to them."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.django_vps.stack.plugins.plugin_utils.checks import build_check

COLLECTION = Path(__file__).parents[2]


def read(document: Path) -> Any:
    # Ansible's loader records the origin of each word, which takes ten times as long.
    return yaml_load(document.read_text(encoding="utf-8"))


def roles() -> list[str]:
    # In a clone, users and ansible-galaxy can put other roles into the same folder.
    return sorted(path.parents[1].name for path in COLLECTION.glob("roles/*/meta/checks.yml"))


def read_specs() -> dict[str, dict]:
    """Return the variables of the roles' entry points, each with its spec and check."""
    specs: dict[str, dict] = {}
    for role in roles():
        document = read(COLLECTION / "roles" / role / "meta" / "argument_specs.yml")
        for entry in document["argument_specs"].values():
            for name, spec in entry.get("options", {}).items():
                specs.setdefault(name, {**spec, "role": role})
        # Specs have templates only for strings, because tools that read them refuse others; the defaults have all.
        for name, value in read(COLLECTION / "roles" / role / "defaults" / "main.yml").items():
            specs[name].setdefault("default", value)
        for name, check in read_checks(role)["variables"].items():
            specs[name]["check"] = build_check(check)
    return specs


@functools.cache
def read_checks(role: str) -> dict[str, Any]:
    return read(COLLECTION / "roles" / role / "meta" / "checks.yml")


@functools.cache
def names_of(relation: str) -> tuple:
    """Return the entries of one of the lists in the roles' checks."""
    return tuple(entry for role in roles() for entry in read_checks(role).get(relation, ()))


@functools.cache
def read_renamed() -> dict[str, str]:
    """Return the names of variables in an earlier version of the collection, each with the present name."""
    return {old: new for role in roles() for old, new in read_checks(role).get("renamed", {}).items()}


@functools.cache
def reserved_connections() -> int:
    """Return the number of PostgreSQL connections that the role reserves for other programs than the site."""
    return read(COLLECTION / "roles/postgres/vars/main.yml")["__postgres_reserved"]


@functools.cache
def headers_of_nginx() -> tuple[str, ...]:
    """Return the headers that the role nginx adds itself."""
    return tuple(read(COLLECTION / "roles/nginx/vars/main.yml")["__nginx_headers"])


@functools.cache
def read_playbooks() -> list[Any]:
    """Return the playbooks, and the lists of tasks that they include."""
    return [read(path) for path in sorted((COLLECTION / "playbooks").rglob("*.yml"))]


def read_wiring(specs: dict[str, dict]) -> dict[str, str]:
    """Return the parameters that the playbooks pass to the roles, each with the variable that has its value."""
    bound: dict[str, str] = {}
    for name, value in bindings(read_playbooks()):
        if name in specs:
            owners = re.findall(r"\{\{ (\w+) \}\}", str(value))
            bound[name] = owners[0] if len(owners) == 1 else ""
    return bound


def read_own_variables() -> frozenset[str]:
    """Return the variables that playbooks themselves read from the command line."""
    return frozenset(itertools.chain(*(value for name, value in bindings(read_playbooks()) if name == "__reads")))


def bindings(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from (node.get("vars") or {}).items()
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from bindings(item)
