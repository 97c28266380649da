# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Define kinds of values, and the rules from which types of values are built."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import SECRET, Refusal, Rule

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
#: Characters that text files do not contain.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "none": (type(None), "nothing"),
    "bool": (bool, "true or false"),
    "int": (int, "an integer"),
    "float": (float, "a number"),
    "str": (str, "a string"),
    "path": (str, "a string"),
    "list": (list, "a list"),
    "dict": (dict, "a dictionary"),
}


def kind_of(value: Any) -> str:
    return next((kind for kind, (types, _rule) in KINDS.items() if isinstance(value, types)), "date")


def wrong_kind(value: Any, wanted: str) -> Refusal | None:
    is_kind = kind_of(value)
    if is_kind == wanted or (wanted, is_kind) in (("path", "str"), ("float", "int")):
        return None
    if wanted not in KINDS:
        return None
    what = f"expected {KINDS[wanted][1]}"
    if wanted in ("str", "path"):
        scalar = is_kind not in ("none", "list", "dict")
        return what, "quote it" if scalar else "write one string"
    if wanted == "list" and is_kind == "str":
        items = ", ".join(re.split(r"[,; ]+", value.strip()))
        return what, "write a list: [one, two]" if "//" in items or SECRET.search(items) else f"write a list: [{items}]"
    return what, {
        "bool": "write true or false without quotes (after -e: as JSON)",
        "int": "write an integer without quotes (after -e: as JSON)",
        "list": "write a list: [one, two]",
        "dict": "write pairs: {name: value}",
    }.get(wanted, f"write {KINDS[wanted][1]}")


def unclean(value: Any, several_lines: bool = False) -> Refusal | None:
    if not isinstance(value, str):
        return None
    if value.lstrip().startswith("$ANSIBLE_VAULT"):
        return (
            "expected text, got an encrypted text that Ansible does not decrypt",
            "write !vault | before the encrypted text",
        )
    if several_lines:
        return ("expected text without control characters", "remove them") if UNPRINTABLE.search(value) else None
    if CONTROL.search(value):
        return "expected one line without control characters", "write one line"
    return None


def wrong_choice(value: Any, spec: dict) -> Refusal | None:
    choices = spec.get("choices") or [value]
    if value in choices:
        return None
    return f"expected one of {', '.join(map(str, choices))}", "use one of these"


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def no_rule(*_value) -> None:
    return None


def matching(pattern: str, what: str, advice: str) -> Rule:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: None if compiled.fullmatch(value) else (what, advice)


def between(low: int, high: int) -> Rule:
    refusal = f"expected a number from {low} to {high}", f"write one from {low} to {high}"
    return lambda value: None if low <= value <= high else refusal


def both(*rules: Rule) -> Rule:
    return lambda value: next(filter(None, (rule(value) for rule in rules)), None)


def managed(names: Mapping[str, str | None], key: str) -> Refusal | None:
    """Refuse a name that the stack sets, or another variable of the stack."""
    if key not in names:
        return None
    return "is set by the stack", f"set {names[key]} instead" if names[key] else "remove it"


def setting(pattern: str, managed_names: Mapping[str, str | None]) -> Rule:
    """Return a rule for a setting of a program by the name that the program uses."""

    def rule(key: str, value: Any) -> Refusal | None:
        if refusal := managed(managed_names, key.lower()):
            return refusal
        if not re.fullmatch(pattern, key) or keyword.iskeyword(key):
            return "expected the name of a setting", "use the name from the program's manual, in lower case"
        if kind_of(value) not in ("str", "int", "float", "bool"):
            return "expected a string, a number or a boolean", "quote it"
        return unclean(value)

    return rule


def inside(what: str, wild: str = "") -> Rule:
    """Return a rule for a path inside the source."""

    def rule(value: str) -> Refusal | None:
        if ".." in value.split("/") or value.startswith(("/", "~")):
            return (
                f"expected a {what} inside the source",
                f"write the path of the {what} relative to the top of the source",
            )
        if not re.fullmatch(rf"(?!-)[A-Za-z0-9_.{wild}-]+(/[A-Za-z0-9_.{wild}-]+)*", value):
            return (
                "expected a path without special characters",
                f"use only letters, digits and {' '.join(f'_./{wild}-')}",
            )
        return None

    return rule
