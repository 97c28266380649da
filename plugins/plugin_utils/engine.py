# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check each value against its argument spec and its check, and report names that no role reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.django_vps.stack.plugins.plugin_utils.checks import NO_CHECK, Check
from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import (
    GROUPS,
    OPTIONAL,
    Case,
    Problem,
    Rule,
    leaves,
    shown_name,
)
from ansible_collections.django_vps.stack.plugins.plugin_utils.role_specs import read_own_variables, read_renamed
from ansible_collections.django_vps.stack.plugins.plugin_utils.system_types import job_name
from ansible_collections.django_vps.stack.plugins.plugin_utils.value_types import (
    unclean,
    words,
    wrong_choice,
    wrong_kind,
)

#: Variables for one run on the command line, such as -e name=true, whose values are strings.
TYPED = words("django_force_release django_allow_breaking_migrations backup_before_migrations")
#: Variables of the playbooks themselves that come from the command line.
OF_PLAYBOOKS = read_own_variables()

#: Checks several variables of a host together.
CrossCheck = Callable[[Case], Iterator[Problem]]


def problems(case: Case, cross_checks: Iterable[CrossCheck]) -> list[str]:
    """Return all problems, each as one line."""
    return [found.line(case.secret(found.name)) for found in judge(case, cross_checks)]


def judge(case: Case, cross_checks: Iterable[CrossCheck]) -> Iterator[Problem]:
    for source in case.missing:
        yield Problem(f"-i {source}", "does not exist", "write the path of a file or a folder")
    if not case.groups.get("all"):
        yield Problem("inventory", "has no hosts", "name an inventory with hosts, such as -i inventories/prod")
        return
    anywhere = [host for group in GROUPS for host in case.groups.get(group, ())]
    for where, name in case.twice:
        yield Problem(where, f"sets {shown_name(name, 'a name')} twice, and the first value is lost", "write it once")
    yield from check_limit(case)
    if anywhere and case.host not in anywhere:
        return
    yield from check_group_names(case)
    yield from check_groups(case)
    if not anywhere:
        return
    yield from check_names(case)
    yield from check_bound_names(case)
    for name, spec in case.specs.items():
        found = [] if name in case.bound else list(judge_variable(case, name, spec))
        if found:
            case.values.pop(name, None)
        yield from found
    for check in cross_checks:
        yield from check(case)


def judge_variable(case: Case, name: str, spec: dict) -> Iterator[Problem]:
    check = spec.get("check", NO_CHECK)
    if name in case.failed:
        yield Problem(name, *case.failed[name])
    elif name in case.given:
        if name in case.values:
            yield from judge_value(name, case.values[name], spec, check)
    elif spec.get("required") and case.plays(spec.get("role", "")):
        yield Problem(name, "is not set", f"write {name}: {check.example or 'a value'}")


def judge_value(name: str, value: Any, spec: dict, check: Check) -> Iterator[Problem]:
    kind = spec.get("type", "str")
    if name in TYPED and value in ("true", "false"):
        return
    if refusal := wrong_kind(value, kind):
        yield Problem(name, *refusal, value)
    elif kind == "list":
        yield from judge_list(name, value, spec, check)
    elif kind == "dict":
        yield from judge_dict(name, value, check.rule)
    elif refusal := unclean(value, several_lines=check.several_lines) or wrong_choice(value, spec):
        yield Problem(name, *refusal, value)
    elif value == "":
        if spec.get("default") != "":
            yield Problem(name, "is empty", "write a value, or remove the line")
    elif refusal := check.rule(value):
        yield Problem(name, *refusal, value)


def judge_list(name: str, items: list, spec: dict, check: Check) -> Iterator[Problem]:
    if not items and spec.get("default") != []:
        yield Problem(name, "is an empty list", f"write {check.example or 'one entry or more'}")
    for index, item in enumerate(items):
        kind = spec.get("elements", "str")
        if kind == "dict" and not wrong_kind(item, kind):
            yield from judge_entry(f"{name}.{entry_name(item) or index + 1}", item, spec["options"], check.entries)
        elif refusal := wrong_kind(item, kind) or unclean(item) or check.rule(item):
            yield Problem(name, *refusal, item)
        elif item in items[:index]:
            yield Problem(name, "has a duplicate entry", "write each entry once", item)


def judge_entry(name: str, entry: dict, options: dict[str, dict], checks: Mapping[str, Check]) -> Iterator[Problem]:
    """Check one entry of a list of dictionaries, whose names are options."""
    misspelt = set()
    for key in (key for key in entry if key not in options):
        near = difflib.get_close_matches(str(key), options.keys() - entry.keys(), 1)
        misspelt.update(near)
        advice = f"write {near[0]}" if near else f"remove it; the names are {', '.join(options)}"
        yield Problem(name, "has an unknown name", advice, shown_name(key, ...))
    for key, spec in options.items():
        check = checks.get(key, NO_CHECK)
        if key in entry:
            yield from judge_value(f"{name}.{key}", entry[key], spec, check)
        elif spec.get("required") and key not in misspelt:
            yield Problem(name, f"has no {key}", f"write {key}: {check.example}")


def entry_name(entry: dict) -> str:
    """Return the name of an entry for the messages; empty if it has none."""
    name = entry.get("name")
    return name if isinstance(name, str) and not job_name(name) else ""


def judge_dict(name: str, pairs: dict, rule: Rule) -> Iterator[Problem]:
    for index, (key, value) in enumerate(pairs.items(), 1):
        if refusal := wrong_kind(key, "str") or unclean(key):
            yield Problem(name, f"name in it: {refusal[0]}", refusal[1], key)
        elif refusal := rule(key, value):
            yield Problem(f"{name}.{shown_name(key, index)}", *refusal, value)


def simple(name: str) -> str:
    return name.lower().replace("-", "_")


def meant(name: str, known: Iterable[str], closeness: float = 0.9) -> str:
    """Return the known name of which this one is a misspelling; empty if there is none."""
    plain, names = simple(name), {simple(each): each for each in known}
    near = [each for each in names if abs(len(each) - len(plain)) <= 2]
    # Names that differ in their digits are different things, not misspellings.
    near = [each for each in near if re.sub(r"\d", "", each) != re.sub(r"\d", "", plain) or each == plain]
    # Another first letter is often another word, so the rest must be the same.
    begins = [each for each in near if each[:1] == plain[:1]]
    swapped = [each for each in near if sorted(each) == sorted(plain) and (each in begins or len(each) > 4)]
    added = [each for each in near if abs(len(each) - len(plain)) <= 1]
    found = swapped or difflib.get_close_matches(plain, begins, 1, closeness)
    return next((names[each] for each in found or difflib.get_close_matches(plain, added, 1, 0.9)), "")


def check_limit(case: Case) -> Iterator[Problem]:
    needed = {host for group in case.needs for host in case.groups.get(group, ())}
    if needed and not needed & set(case.run):
        groups = " or ".join(group for group in GROUPS if group in case.needs)
        yield Problem("--limit", f"leaves no host of the group {groups}, so nothing would be done", "add one of them")


def check_group_names(case: Case) -> Iterator[Problem]:
    missing = [group for group in GROUPS if not case.groups.get(group)]
    for name in case.groups.keys() - GROUPS.keys():
        if near := meant(name, missing, 0.8):
            yield Problem(name, "is not a group of the stack", f"write {near}")
    for name in sorted(case.group_files - case.groups.keys()):
        # Other names can belong to groups of another inventory in the same folder.
        if near := meant(name, GROUPS.keys() - case.group_files, 0.8):
            yield Problem(
                f"group_vars/{name}", "belongs to a group that does not exist, so nothing reads it", f"write {near}"
            )
    hosts = set(case.groups.get("all", ()))
    for name in sorted(case.host_files - hosts):
        label, _dot, domain = name.partition(".")
        others = [host.partition(".") for host in sorted(hosts - case.host_files)]
        near = meant(label, [first for first, _dot, rest in others if rest == domain])
        # Hosts of one length, such as shop-a and shop-b, are often different ones.
        if near and (len(near) != len(label) or sorted(simple(near)) == sorted(simple(label))):
            what = "belongs to a host that does not exist, so nothing reads it"
            yield Problem(f"host_vars/{name}", what, f"write {near}{name.removeprefix(label)}")


def check_groups(case: Case) -> Iterator[Problem]:
    for group, roles in GROUPS.items():
        has_other = group == "database" and case.given.get("site_database_url")
        if not case.groups.get(group) and group not in OPTIONAL and not has_other:
            yield Problem(
                group,
                f"expected a host in this group, which runs {' and '.join(roles)}",
                f"write {group}: {{hosts: {{{case.host}: {{}}}}}} into the inventory",
            )


def check_names(case: Case) -> Iterator[Problem]:
    prefixes = tuple({f"{spec['role']}_" for spec in case.specs.values()})
    renamed = read_renamed()
    known = [name for name in case.specs if name not in case.bound]
    of_playbook = OF_PLAYBOOKS if case.reads is None else case.reads
    for name in case.given:
        if name in case.specs or name.startswith(("ansible_", "_")):
            continue
        if name in renamed:
            yield Problem(name, "has another name now", f"write {renamed[name]}")
            continue
        if not name.startswith(prefixes):
            near = meant(name, known) or (meant(name, of_playbook, 0.8) if name in case.typed - OF_PLAYBOOKS else "")
            if near:
                yield Problem(name, "is not a variable of the stack", f"write {near}")
            else:
                yield from check_typed(case, name)
            continue
        # A variable with the common prefix host_ can belong to another collection or playbook.
        other = name.startswith("host_")
        near = meant(name, known) if other else next(iter(difflib.get_close_matches(name, known, 1)), "")
        if near or not other:
            advice = f"write {near}" if near else "remove it; nothing reads it"
            yield Problem(name, "is not a variable of the stack", advice)
        else:
            yield from check_typed(case, name)


def check_typed(case: Case, name: str) -> Iterator[Problem]:
    """Refuse a variable of another playbook, and one whose name has a word of those that this playbook reads."""
    if case.reads is None or name not in case.typed - case.reads:
        return
    # Each of them begins with a word that says what it is about.
    missing = {each.split("_")[0] for each in case.reads} - {each.split("_")[0] for each in case.reads & case.typed}
    of_others = {*OF_PLAYBOOKS, *(word for each in OF_PLAYBOOKS for word in each.split("_"))}
    used = (re.search(rf"\{{.*\b{name}\b", leaf, re.DOTALL) for leaf in leaves(case.given) if isinstance(leaf, str))
    if (name in of_others or missing & set(name.split("_"))) and not any(used):
        near = difflib.get_close_matches(name, case.reads, 1, 0)
        advice = f"write {near[0]}" if near else "remove it; nothing in this run reads it"
        yield Problem(name, "is not a variable of this playbook", advice)


def check_bound_names(case: Case) -> Iterator[Problem]:
    for name, owner in case.bound.items():
        if name in case.given:
            advice = f"set {owner} instead" if owner else "remove it"
            yield Problem(name, "is set by the playbook", advice)
