# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Translate Poetry's notation of versions, and find the packages of wanted groups and extras in a lock of Poetry 1."""

from __future__ import annotations

import re
from collections import deque

#: One bound of a constraint: an operator and a version.
BOUND = re.compile(r"([<>=!~^]*)\s*(v?\d[\w.*+!-]*|\*)")
EXTRA = re.compile(r"""extra\s*==\s*["']([\w.-]+)["']""")
NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


def normalise(name: str) -> str:
    """Normalise the name of a package, an extra or a group (PEP 503, PEP 685, PEP 735)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def translate_versions(versions: str) -> str:
    """Translate carets and tildes of Poetry to the operators of PEP 440."""

    def spell(part: str) -> str:
        sign, version = re.fullmatch(r"([<>=!~^]*)\s*(.+)", part).groups()
        if sign in ("^", "~"):
            major, minor = (*version.split("."), None)[:2]
            above = f"{int(major) + 1}" if sign == "^" or minor is None else f"{major}.{int(minor) + 1}"
            return f">={version},<{above}"
        if sign:
            return f"{sign}{version}"
        return f"=={version}" if version.endswith("*") or version.count(".") > 1 else f"=={version}.*"

    # Of several ranges, the last one is used, because it is the newest. The comma between two bounds can be missing.
    return ",".join(map(spell, re.findall(r"[<>=!~^]*\s*\d+(?:\.(?:\d+|\*))*", versions.split("||")[-1])))


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else (0,)


def allows(constraint: str, version: str) -> bool:
    """Return whether a constraint allows a locked version; the numbers suffice to distinguish locked versions."""

    def padded(parts: tuple[int, ...]) -> tuple[int, ...]:
        return (*parts, *[0] * (8 - len(parts)))

    def holds(sign: str, text: str) -> bool:
        if text == "*":
            return True
        given, bound = _numbers(version), _numbers(text)
        below, same = padded(given) < padded(bound), padded(given) == padded(bound)
        if text.endswith("*"):
            same = padded(given)[: len(bound)] == bound
        if sign in ("^", "~", "~="):
            leading = next((place for place, number in enumerate(bound) if number), len(bound) - 1)
            kept = {"^": leading + 1, "~": min(len(bound), 2), "~=": len(bound) - 1}[sign]
            return not below and padded(given)[:kept] == bound[:kept]
        above = not below and not same
        return {"<": below, "<=": not above, ">": above, ">=": not below, "!=": not same}.get(sign, same)

    return any(all(holds(*bound) for bound in BOUND.findall(part)) for part in constraint.split("||"))


def python_marker(constraint: str, negated: bool = False) -> str:
    """Return a constraint on Python as a marker; empty for one without bounds."""
    ranges = []
    for part in re.split(r"\|\|?", constraint):
        bounds = []
        for sign, version in re.findall(r"([<>=!]+)([\d.*]+)", translate_versions(part)):
            variable = "python_full_version" if version.count(".") > 1 or "*" in version else "python_version"
            bounds.append(f'{variable} {NEGATED[sign] if negated else sign} "{version}"')
        if not bounds:
            return ""
        ranges.append((" or " if negated else " and ").join(bounds))
    return join_markers(ranges, "and" if negated else "or")


def join_markers(markers: list[str], word: str) -> str:
    """Join markers by one word, with parentheses around a marker that contains the other word."""
    other = " or " if word == "and" else " and "
    if len(markers) < 2:
        return "".join(markers)
    return f" {word} ".join(f"({marker})" if other in marker else marker for marker in markers)


def drop_extras(markers: str, wanted) -> str:
    """Replace each extra in markers by an always true or false condition, as requirements files have no extras."""
    return EXTRA.sub(lambda extra: f'python_version {">=" if normalise(extra[1]) in wanted else "<"} "3"', markers)


def _specs(value) -> list[dict]:
    """Return the tables of a dependency, which pyproject.toml and the lock write as a version or as tables."""
    each = value if isinstance(value, list) else [value]
    return [{"version": spec} if isinstance(spec, str) else spec for spec in each]


def _conditions(spec: dict) -> frozenset[str]:
    platform = f'sys_platform == "{spec["platform"]}"' if spec.get("platform") else ""
    return frozenset({spec.get("markers", ""), python_marker(spec.get("python", "")), platform} - {""})


def find_roots(poetry: dict, lock: dict, groups, extras) -> list[tuple[str, dict]]:
    """Return the requirements of [tool.poetry] in its main group, in the wanted groups and in the wanted extras."""
    known = {normalise(name): packages for name, packages in lock.get("extras", {}).items()}
    optional = {normalise(re.split(r"[\[ (]", name)[0]) for extra in extras for name in known[normalise(extra)]}
    sections = [poetry.get("dependencies", {}), *groups]
    return [
        (name, spec)
        for section in sections
        for name, value in section.items()
        for spec in _specs(value)
        if normalise(name) != "python" and (not spec.get("optional") or normalise(name) in optional)
    ]


class Walk:
    """The packages that requirements lead to, each with the conditions of each way to it."""

    def __init__(self, packages: list[dict], wanted: list[tuple[str, dict]]) -> None:
        self.packages = packages
        #: Sets of conditions by the place of a package in the lock and one of its extras (None: the package itself).
        self.ways: dict[tuple[int, str | None], set[frozenset[str]]] = {}
        self.pending = deque((name, spec, frozenset()) for name, spec in wanted)
        ambiguous = deque()
        told = set()
        while self.pending or ambiguous:
            if self.pending:
                name, spec, conditions = self.pending.popleft()
                places = self._candidates(name, spec)
                if len(places) > 1:
                    ambiguous.append((places, spec, conditions | _conditions(spec)))
                elif places:
                    told.add(places[0])
                    self._reach(places[0], spec, conditions | _conditions(spec))
            else:
                self._decide(*ambiguous.popleft(), told)

    def _candidates(self, name: str, spec: dict) -> list[int]:
        """Return the places of the locked versions that satisfy a requirement, the newest first."""
        same = [place for place, package in enumerate(self.packages) if normalise(package["name"]) == normalise(name)]
        same.sort(key=lambda place: _numbers(self.packages[place]["version"]), reverse=True)
        allowed = [place for place in same if allows(spec.get("version", "*"), self.packages[place]["version"])]
        return same if len(same) == 1 else allowed or same

    def _decide(self, places: list[int], spec: dict, conditions: frozenset[str], told: set[int]) -> None:
        """Follow a requirement that several locked versions of one package satisfy."""
        if told.issuperset(places):
            # Requirements that only one version satisfies have decided which version is for which case.
            for place in places:
                for way in list(self.ways[place, None]):
                    self._reach(place, spec, conditions | way)
            return
        # Otherwise use the newest version that supports the Python in use.
        for place in places:
            supported = self.packages[place].get("python-versions", "*")
            marker = python_marker(supported)
            self._reach(place, spec, conditions | ({marker} - {""}))
            if not marker:
                break
            conditions |= {python_marker(supported, negated=True)}

    def _reach(self, place: int, spec: dict, conditions: frozenset[str]) -> None:
        for extra in (None, *map(normalise, spec.get("extras", ()))):
            ways = self.ways.setdefault((place, extra), set())
            if any(way <= conditions for way in ways):
                continue
            # A way with fewer conditions includes the narrower ways.
            ways -= {way for way in ways if conditions <= way}
            ways.add(conditions)
            self.pending += [(name, each, conditions) for name, each in self._requires(self.packages[place], extra)]

    @staticmethod
    def _requires(package: dict, extra: str | None):
        """Return the requirements of a package, or of one of its extras."""
        listed = set()
        for line in next((lines for name, lines in package.get("extras", {}).items() if normalise(name) == extra), ()):
            name, more = re.match(r"([\w.-]+)(?:\[([^\]]*)\])?", line).groups()
            listed.add(normalise(name))
            if normalise(name) == normalise(package["name"]) and more:
                yield package["name"], {"version": package["version"], "extras": re.split(r"\s*,\s*", more)}
        for name, value in package.get("dependencies", {}).items():
            for spec in _specs(value):
                named = set(map(normalise, EXTRA.findall(spec.get("markers", ""))))
                optional = spec.get("optional") or named
                if extra is None and not optional:
                    yield name, spec
                elif extra and optional and (extra in named if named else normalise(name) in listed):
                    yield name, {**spec, "markers": drop_extras(spec.get("markers", ""), {extra})}

    def markers(self) -> dict[int, str]:
        """Return the markers of each reached package by its place in the lock."""
        return {
            # A way without conditions is the only remaining way, and gives an empty marker.
            place: join_markers([join_markers(sorted(way), "and") for way in sorted(ways, key=sorted)], "or")
            for (place, extra), ways in self.ways.items()
            if extra is None
        }
