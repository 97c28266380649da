# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluate the expressions of the inventory, and find the files that they come from."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleError
from ansible.template import trust_as_template
from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Failure, leaves

#: Ends of the names of files with variables.
SUFFIXES = ("", ".yml", ".yaml", ".json")
#: A PyYAML that was built without libyaml only has the slow loader.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def variable_files(*folders: str, kinds: Iterable[str] = ("group_vars", "host_vars")) -> Iterator[Path]:
    """Yield the entries of the folders of variables, which are named after a group or a host."""
    for folder, kind in itertools.product(folders, kinds):
        for path in sorted(Path(folder, kind).glob("[!.]*")):
            if path.is_dir() or path.suffix in SUFFIXES:
                yield path


def names_of_files(*folders: str, kind: str) -> frozenset[str]:
    """Return the groups or hosts after which the files of variables are named."""
    paths = variable_files(*folders, kinds=[kind])
    return frozenset(path.name if path.is_dir() else path.name.removesuffix(path.suffix) for path in paths)


def said_twice(decrypt: Callable[[str], str], files: Iterable[str], *folders: str) -> tuple[tuple[str, str], ...]:
    """Return places with a duplicate name in one mapping, unless Ansible reports it, such as by our ansible.cfg."""
    if constants.DUPLICATE_YAML_DICT_KEY == "error":
        return ()
    # The folder of an inventory can have other files.
    tops = [(Path(name), (".yml", ".yaml")) for name in files] + [(path, SUFFIXES) for path in variable_files(*folders)]
    found = []
    for top, suffixes in tops:
        for path in [top] if top.is_file() else files_in(top, suffixes):
            with contextlib.suppress(yaml.YAMLError, UnicodeError, OSError, AnsibleError):
                text = path.read_text()
                text = decrypt(str(path)) if text.startswith("$ANSIBLE_VAULT") else text
                for document in yaml.compose_all(text.encode(), Loader=LOADER):
                    found += [(f"{path}:{key.start_mark.line + 1}", key.value) for key in second_keys(document)]
    return tuple(dict.fromkeys(found))


def files_in(top: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files of a folder that Ansible reads, which are not hidden and no backups of an editor."""
    for path in sorted(top.rglob("*")):
        hidden = path.name.endswith("~") or any(part.startswith(".") for part in path.relative_to(top).parts)
        if path.suffix in suffixes and path.is_file() and not hidden:
            yield path


def second_keys(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    known = set()
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        key, value = child if isinstance(node, yaml.MappingNode) else (None, child)
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in known:
                yield key
            known.add(key.value)
        yield from second_keys(value)


def settle(templar, variables: dict[str, Any], specs: dict[str, dict], names=None):
    """Return the values of the variables with their defaults, and the reasons why others cannot be evaluated."""
    defaults = {name: spec["default"] for name, spec in specs.items() if "default" in spec}
    everything = {**{name: trusted(value) for name, value in defaults.items()}, **variables}
    templar = templar.copy_with_new_env(available_variables=everything)
    values: dict[str, Any] = {}
    failed: dict[str, Failure] = {}
    for name in names or specs:
        if name not in everything:
            continue
        try:
            values[name] = templar.template(everything[name])
        except AnsibleError as error:
            # Facts are not known before Ansible connects to the host.
            raw = variables.get(name)
            facts = any("ansible_facts" in text for text in leaves(raw) if isinstance(text, str))
            if name in variables and not facts:
                failed[name] = why(error)
    if values.get("site_names_served") == "all":
        values["site_names_served"] = values.get("site_domains", [])
    return values, failed


def trusted(default: Any) -> Any:
    """Return a default of a role, marked so that its expressions are evaluated."""
    return trust_as_template(default) if isinstance(default, str) else default


def why(error: AnsibleError) -> Failure:
    text = str(error)
    if "undecryptable" in text:
        return "cannot be decrypted", "pass the vault password, as by --ask-vault-pass", ...
    if unset := re.search(r"'(\w+)' is undefined", text):
        advice = f"set {unset[1]}, or write the value itself"
        return f"uses {unset[1]}, which is not set", advice, ...
    return "has an expression that fails", "fix the Jinja expression", text.partition("\n")[0]
