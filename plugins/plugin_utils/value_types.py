# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Kinds of values, and rules that many types of values are made of."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import SECRET, Refusal, Rule

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
#: What no file has that people write.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "none": (type(None), "nothing"),
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a text"),
    "path": (str, "a text"),
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
    what = f"is {KINDS[is_kind][1] if is_kind in KINDS else 'a date'}, not {KINDS[wanted][1]}"
    if wanted in ("str", "path"):
        scalar = is_kind not in ("none", "list", "dict")
        return what, "quote it" if scalar else "write one text"
    if wanted == "list" and is_kind == "str":
        items = ", ".join(re.split(r"[,; ]+", value.strip()))
        return what, "write a list: [one, two]" if "//" in items or SECRET.search(items) else f"write a list: [{items}]"
    return what, {
        "bool": "write true or false, without quotes (after -e: as JSON)",
        "int": "write a whole number, without quotes (after -e: as JSON)",
        "list": "write a list: [one, two]",
        "dict": "write pairs: {name: value}",
    }.get(wanted, f"write {KINDS[wanted][1]}")


def unclean(value: Any, several_lines: bool = False) -> Refusal | None:
    if not isinstance(value, str):
        return None
    if value.lstrip().startswith("$ANSIBLE_VAULT"):
        return "is still encrypted", "write !vault | before the encrypted text"
    if several_lines:
        return ("has a control character", "write text") if UNPRINTABLE.search(value) else None
    if CONTROL.search(value):
        return "has a line break or another control character", "write one line"
    return None


def wrong_choice(value: Any, spec: dict) -> Refusal | None:
    choices = spec.get("choices") or [value]
    if value in choices:
        return None
    return "is none of the choices", f"write one of: {', '.join(map(str, choices))}"


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def no_rule(*_value) -> None:
    return None


def matching(pattern: str, what: str, advice: str) -> Rule:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: None if compiled.fullmatch(value) else (what, advice)


def between(low: int, high: int) -> Rule:
    advice = f"write a number from {low} to {high}"
    return lambda value: None if low <= value <= high else ("is out of range", advice)


def both(*rules: Rule) -> Rule:
    return lambda value: next(filter(None, (rule(value) for rule in rules)), None)


def managed(names: Mapping[str, str | None], key: str) -> Refusal | None:
    """Refuse a name that the stack sets, or another variable of the stack."""
    if key not in names:
        return None
    return "is set by the stack", f"set {names[key]} instead" if names[key] else "leave it out"


def setting(pattern: str, managed_names: Mapping[str, str | None]) -> Rule:
    """A setting of a program, by its own name."""

    def rule(key: str, value: Any) -> Refusal | None:
        if refusal := managed(managed_names, key.lower()):
            return refusal
        if not re.fullmatch(pattern, key) or keyword.iskeyword(key):
            return "is no name of a setting", "write its own name, in lower case"
        if kind_of(value) not in ("str", "int", "float", "bool"):
            return f"is {KINDS.get(kind_of(value), ('', 'a date'))[1]}", "write a text or a number"
        return unclean(value)

    return rule


def inside(what: str, wild: str = "") -> Rule:
    """A path inside the source."""

    def rule(value: str) -> Refusal | None:
        if ".." in value.split("/") or value.startswith(("/", "~")):
            return "leads out of the source", f"write the {what} as seen from the source's top"
        if not re.fullmatch(rf"(?!-)[A-Za-z0-9_.{wild}-]+(/[A-Za-z0-9_.{wild}-]+)*", value):
            return "is not a plain path", f"write letters, digits and {' '.join(f'_./{wild}-')} only"
        return None

    return rule
