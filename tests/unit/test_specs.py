"""What a role says it takes is what it has: argument specs, defaults and README agree."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.django_vps.stack.plugins.plugin_utils.role_specs import read_specs, read_wiring

ROOT = Path(__file__).parent.parent.parent
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def entry_points(role: str) -> dict[str, dict]:
    return yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]


def options(role: str) -> dict:
    merged: dict = {}
    for spec in entry_points(role).values():
        for name, option in spec.get("options", {}).items():
            assert merged.setdefault(name, option)["type"] == option["type"], name
            assert merged[name].get("default") == option.get("default"), name
    return merged


@pytest.mark.parametrize("role", ROLES)
def test_specs_and_defaults_have_the_same_variables_and_values(role):
    defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())
    specs = options(role)
    known = {name: option["default"] for name, option in specs.items() if "default" in option}
    # antsibull-docs takes no template where a number or a dictionary has to be.
    templates = {name: value for name, value in defaults.items() if name not in known}
    assert defaults == {**known, **templates}
    assert all("{{" in str(value) and specs[name]["type"] != "str" for name, value in templates.items())


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_point_is_described_for_doc_tools(role):
    for spec in entry_points(role).values():
        assert spec["short_description"]
        assert spec["description"]
    for option in options(role).values():
        takes_text = option["type"] in ("str", "path", "raw") or option.get("elements") == "str"
        assert takes_text or "{{" not in str(option.get("default"))


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_has_its_role_prefix_and_description(role):
    for name, option in options(role).items():
        assert name.startswith(f"{role}_")
        assert option["description"]


def test_readmes_of_the_roles_match_the_specs():
    subprocess.run([sys.executable, ROOT / "tools/readmes", "--check"], check=True)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reads_variables_of_other_roles_except_site(role):
    others = "|".join(other for other in ROLES if other not in (role, "site"))
    for path in (ROOT / "roles" / role).rglob("*"):
        if path.suffix in (".yml", ".j2") and path.parent.name in ("defaults", "vars", "tasks", "templates"):
            code = re.sub(r"^ *#.*$", "", path.read_text(), flags=re.MULTILINE)
            # What is typed after -e is the user's to name.
            named = re.findall(rf"(?<![\w$./@-])(?!django_vps)(?:{others})_[a-z_]+\b(?!=)", code)
            assert named == [], path


def test_playbooks_read_no_internal_variable_of_a_role():
    for path in sorted((ROOT / "playbooks").rglob("*.yml")):
        assert re.findall(rf"\b__(?:{'|'.join(ROLES)})_\w+", path.read_text()) == [], path


def test_other_hosts_are_read_by_filters_alone():
    files = [path for path in (ROOT / "roles").rglob("*") if path.suffix in (".yml", ".j2")]
    for path in [*files, *(ROOT / "playbooks").rglob("*.yml")]:
        # The variables of the host itself are no other host's.
        text = path.read_text().replace("hostvars[inventory_hostname]", "")
        assert re.findall(r".*hostvars(?:\[|\.).*|.*'extract', *hostvars.*", text) == [], path


def test_the_folder_of_a_site_in_etc_has_one_owner():
    files = [path for path in (ROOT / "roles").rglob("*") if path.suffix in (".yml", ".j2")]
    named = [
        path.relative_to(ROOT) for path in files if re.search(r"[\"' ]/etc/\{\{ site_name \}\}/", path.read_text())
    ]
    assert named == []


def role_calls(tasks: list[dict], given: frozenset[str]) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield the role, the entry point and the variables of each call in a list of tasks."""
    for task in tasks:
        names = given | set(task.get("vars", {}))
        yield from role_calls(task.get("block", []), names)
        for module in ("ansible.builtin.import_role", "ansible.builtin.include_role"):
            if call := task.get(module):
                yield call["name"], call.get("tasks_from", "main"), names
        for module in ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks"):
            if file := task.get(module):
                yield from role_calls(yaml.safe_load((ROOT / "playbooks" / file).read_text()), names)


@pytest.mark.parametrize("playbook", sorted((ROOT / "playbooks").glob("*.yml")), ids=lambda path: path.stem)
def test_playbook_gives_each_role_its_required_parameters(playbook):
    parameters = read_wiring(read_specs()).keys()
    for play in yaml.safe_load(playbook.read_text()):
        for role, entry, given in role_calls(play.get("tasks", []), frozenset(play.get("vars", {}))):
            taken = entry_points(role).get(entry, {}).get("options", {})
            required = {name for name, option in taken.items() if option.get("required") and name in parameters}
            assert required <= given, f"{role}, {entry}"
