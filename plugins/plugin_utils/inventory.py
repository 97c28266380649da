# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Describe a host of the inventory and its problems, and format values for messages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ansible.parsing.vault import EncryptedString
from ansible_collections.django_vps.stack.plugins.module_utils.errors import make_printable

#: The roles of each group. Other roles are for every host.
GROUPS = {
    "web": ("nginx", "letsencrypt"),
    "app": ("django", "gunicorn", "deployer"),
    "database": ("postgres",),
    "valkey": ("valkey",),
}

#: Groups that a site need not have.
OPTIONAL = ("valkey",)

SECRET = re.compile(r"key|pass|secret|token|credential|private", re.IGNORECASE)
#: The start of an address with credentials, which can have any characters.
CREDENTIALS = re.compile(r"(//|^[^:]*:/*).*@", re.DOTALL)

Refusal = tuple[str, str]
Failure = tuple[str, str, Any]
Rule = Callable[..., Refusal | None]


class Problem(NamedTuple):
    name: str
    what: str
    advice: str
    value: Any = ...

    def line(self, secret: bool) -> str:
        got = ""
        # A dictionary can contain a secret at any place.
        if self.value is not ... and not secret and not isinstance(self.value, dict):
            got = f"{':' if ', got ' in self.what else ', got'} {shown(self.value)}"
        line = f"{self.name}: {without_credentials(self.what)}{got}."
        return make_printable(line + (f" Fix: {self.advice}" if self.advice else ""))


@dataclass
class Case:
    """A host with its variables from the inventory, and the specs of the roles for these variables."""

    host: str
    specs: dict[str, dict]
    given: dict[str, Any]
    values: dict[str, Any]
    groups: dict[str, list[str]]
    #: Parameters that the playbook passes to a role, each with the variable that has its value.
    bound: dict[str, str] = field(default_factory=dict)
    #: Variables that could not be templated.
    failed: dict[str, Failure] = field(default_factory=dict)
    login: str = ""
    #: The hosts of the run, and the groups of which it needs one.
    run: list[str] = field(default_factory=list)
    needs: frozenset[str] = frozenset(GROUPS)
    #: Variables from the command line.
    typed: frozenset[str] = frozenset()
    #: Inventories from the command line that do not exist.
    missing: tuple[str, ...] = ()
    #: Variables from the command line that the playbook reads itself; None where the playbook is not known.
    reads: frozenset[str] | None = None
    #: Names of files and folders in group_vars and host_vars.
    group_files: frozenset[str] = frozenset()
    host_files: frozenset[str] = frozenset()
    #: Places in files of the inventory that set a name twice, each with the name.
    twice: tuple[tuple[str, str], ...] = ()
    #: Whether the run deploys a release; otherwise the source can be missing, such as for an urgent rollback.
    deploys: bool = True
    #: Other hosts of the inventory with the same address, and their values.
    neighbours: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Other hosts of the same site, and their values.
    site_members: dict[str, dict[str, Any]] = field(default_factory=dict)
    find_source: Callable[[str], Path] = Path
    find_file: Callable[[str], bool] = os.path.isfile
    read_file: Callable[[str], str] = lambda name: Path(name).read_text()

    @property
    def parts(self) -> set[str]:
        return {group for group in GROUPS if self.host in self.groups.get(group, ())}

    def plays(self, role: str) -> bool:
        of_role = {group for group, roles in GROUPS.items() if role in roles}
        return not of_role or bool(of_role & self.parts)

    def secret(self, name: str) -> bool:
        """Return whether the value can be a secret, which no message repeats."""
        owner = name.partition(".")[0]
        spec = self.specs.get(owner, {})
        return (
            # Settings and environments can have any names.
            (spec.get("type") == "dict" and "options" not in spec)
            or bool(SECRET.search(name))
            or bool(spec.get("no_log"))
            or any(
                isinstance(leaf, EncryptedString) or "vault" in leaf.lower() for leaf in leaves(self.given.get(owner))
            )
        )


def check_file(case: Case, name: str) -> Iterator[Problem]:
    if not case.find_file(case.values[name]):
        yield Problem(name, "expected a file on the controller", "write the path of one", case.values[name])


def domains(values: dict[str, Any], name: str) -> list[str]:
    """Return the domains of a variable if it is a list, even if some of them are invalid."""
    found = values.get(name)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def shown(value: Any, most: int = 60) -> str:
    """Return a short form of the value without the credentials of addresses and the values of secrets."""
    scheme = "(?:bearer |basic )"
    text = re.sub(
        rf"(\w*(?:{SECRET.pattern}|auth)\w*[=: ]\s*{scheme}?|{scheme})\S+",
        r"\1…",
        without_credentials(repr(value)),
        flags=re.IGNORECASE,
    )
    return f"{text[: most - 1]}…" if len(text) > most else text


def without_credentials(text: str) -> str:
    return CREDENTIALS.sub(r"\1…@", text)


def shown_name(name: Any, otherwise: Any) -> Any:
    """Return a name from a dictionary; for what can be a name with its value, such as "TOKEN: secret", the other."""
    return name if re.fullmatch(r"[\w./-]{1,60}", str(name)) else otherwise


def leaves(value: Any) -> Iterator[Any]:
    """Yield the strings in a value that is not templated yet; reading an encrypted one decrypts it."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str | EncryptedString):
        yield value
