# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check the variables that the inventory gives to a host, before Ansible connects to it.

The argument specs of the roles have the type, choices and default of each variable, meta/checks.yml has further
conditions for its value, and CROSS_CHECKS compare several variables. All of it runs on the controller.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.django_vps.stack.plugins.module_utils.errors import refer
from ansible_collections.django_vps.stack.plugins.plugin_utils import (
    certificate_checks,
    host_checks,
    site_checks,
    source_checks,
)
from ansible_collections.django_vps.stack.plugins.plugin_utils.engine import problems
from ansible_collections.django_vps.stack.plugins.plugin_utils.host_checks import AGREED, FOLDERS, HOST_WIDE, ONE_SITE
from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import GROUPS, Case
from ansible_collections.django_vps.stack.plugins.plugin_utils.role_specs import COLLECTION, read_specs, read_wiring
from ansible_collections.django_vps.stack.plugins.plugin_utils.source_checks import check_found
from ansible_collections.django_vps.stack.plugins.plugin_utils.variables import names_of_files, said_twice, settle

CROSS_CHECKS = (*source_checks.CHECKS, *site_checks.CHECKS, *certificate_checks.CHECKS, *host_checks.CHECKS)


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        spec = {
            "groups": {"type": "list", "elements": "str", "default": list(GROUPS)},
            "deploys": {"type": "bool", "default": True},
            "reads": {"type": "list", "elements": "str"},
            "source": {"type": "path"},
            "python": {"type": "str", "default": ""},
        }
        _result, arguments = self.validate_argument_spec(spec)
        case = self.case(task_vars or {})
        case.deploys, case.needs = arguments["deploys"], frozenset(arguments["groups"])
        if arguments["reads"] is not None and self.is_own_playbook(task_vars):
            case.reads = frozenset(arguments["reads"])
        if arguments["source"]:
            where = "source"
            path = self.find_source(arguments["source"])
            judged = check_found(case, path, case.values["django_source"], arguments["python"])
            found = [problem.line(secret=False) for problem in judged]
        else:
            where = "inventory"
            found = problems(case, CROSS_CHECKS)
        if found:
            count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
            raise AnsibleActionFail("\n".join([f"{count} in the {where}:", *found, refer(where)]))
        return {**result, "changed": False}

    def case(self, variables: dict[str, Any]) -> Case:
        specs = read_specs()
        values, failed = settle(self._templar, variables, specs)
        # An argument with a comma is a list of hosts, not a file.
        sources = tuple(source for source in context.CLIARGS["inventory"] if "," not in source)
        folders = self.folders(variables)
        given = [self._loader.path_dwim(each[1:]) for each in context.CLIARGS["extra_vars"] if each.startswith("@")]
        return Case(
            host=variables["inventory_hostname"],
            specs=specs,
            given=variables,
            values=values,
            failed=failed,
            groups=variables["groups"],
            bound=read_wiring(specs),
            run=variables["ansible_play_hosts_all"],
            typed=frozenset(load_extra_vars(self._loader)),
            group_files=names_of_files(*folders, kind="group_vars"),
            host_files=names_of_files(*folders, kind="host_vars"),
            missing=tuple(source for source in sources if not os.path.exists(source)),
            twice=said_twice(self._loader.get_text_file_contents, (*sources, *given), *folders),
            login=self.plain(variables, "ansible_user"),
            neighbours=dict(self.neighbours(variables, specs)),
            site_members=dict(self.site_members(variables, specs)),
            find_source=self.find_source,
            find_file=self.find_file,
            read_file=self.read_file,
        )

    @staticmethod
    def is_own_playbook(variables: dict[str, Any]) -> bool:
        """Return whether one playbook of the collection runs; one of the user can import several."""
        first, *others = context.CLIARGS["args"]
        ours = {path.resolve() for path in (*COLLECTION.glob("playbooks/*.yml"), COLLECTION / "site.yml")}
        run = Path(variables["playbook_dir"], f"{Path(first.removeprefix('django_vps.stack.')).stem}.yml")
        return not others and run.resolve() in ours

    @staticmethod
    def folders(variables: dict[str, Any]) -> list[str]:
        """Return the folders in which Ansible looks for group_vars and host_vars."""
        return list(filter(None, (variables.get("inventory_dir"), variables.get("playbook_dir"))))

    def plain(self, variables: dict[str, Any], name: str) -> str:
        """Return a variable of Ansible's own as a string; empty where its expression cannot be evaluated."""
        return str(settle(self._templar, variables, {}, [name])[0].get(name, ""))

    def neighbours(self, variables, specs) -> Iterator[tuple[str, dict]]:
        here = self.address(variables)
        names = (
            *(*ONE_SITE, *FOLDERS, *HOST_WIDE, "site_domains", "site_database_url", "valkey_port"),
            *("letsencrypt_share_port", "letsencrypt_directory_url", "letsencrypt_eab_kid"),
            *(n for n, spec in specs.items() if spec.get("role") == "host"),
        )
        for other, theirs in self.others(variables):
            if self.address(theirs) == here:
                yield other, settle(self._templar, theirs, specs, names)[0]

    def site_members(self, variables, specs) -> Iterator[tuple[str, dict]]:
        site = self.plain(variables, "site_name")
        for other, theirs in self.others(variables):
            if site and self.plain(theirs, "site_name") == site:
                yield other, settle(self._templar, theirs, specs, ("site_address", *AGREED))[0]

    def others(self, variables) -> Iterator[tuple[str, dict]]:
        names = {host for group in GROUPS for host in variables["groups"].get(group, ())}
        for other in sorted(names - {variables["inventory_hostname"]}):
            yield other, variables["hostvars"].raw_get(other)

    def address(self, variables) -> tuple[str, str]:
        host = self.plain(variables, "ansible_host") or variables["inventory_hostname"]
        return host, self.plain(variables, "ansible_port") or "22"

    def find_source(self, value: str) -> Path:
        """Return the path where the action plugin release looks for the source."""
        return Path(self._loader.path_dwim(os.path.expanduser(value)))

    def find_file(self, value: str) -> bool:
        try:
            return os.path.isfile(self._find_needle("files", value))
        except AnsibleError:
            return False

    def read_file(self, value: str) -> str:
        """Return the content of a file, decrypted where ansible-vault encrypted it."""
        return self._loader.get_text_file_contents(self._find_needle("files", value))
