# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Translate lock files and pyproject.toml to the lines of a requirements.txt, which each installer can read."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.poetry import (
    EXTRA,
    Walk,
    drop_extras,
    find_roots,
    join_markers,
    normalise,
)

#: Lock files, which contain the tested versions.
LOCKS = ("uv.lock", "poetry.lock", "Pipfile.lock")


@dataclass(frozen=True)
class Wish:
    """The groups and extras of a project to install in addition to its main requirements."""

    groups: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    def of(self, kind: str, known: dict, path: Path) -> list:
        """Return the entries of a file for the wanted names of one kind, `groups` or `extras`."""
        names = getattr(self, kind)
        normalised = {normalise(name): value for name, value in known.items()}
        if lacking := [name for name in names if normalise(name) not in normalised]:
            raise StepError(
                "source",
                f"{path.name} has no {kind[:-1]} {', '.join(lacking)}; it has {', '.join(sorted(known)) or 'none'}",
                f"Correct django_{kind}.",
            )
        return [normalised[normalise(name)] for name in names]


NO_WISH = Wish()


def read(path: Path) -> dict:
    """Read a TOML or JSON file; a missing file is empty."""
    try:
        text = path.read_text()
        return json.loads(text) if path.name == "Pipfile.lock" else tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StepError("source", f"{path.name} cannot be read: {error}") from None


def is_package(path: Path) -> bool:
    """Return whether the project itself must be installed: its code is in src/, or its build sets its dependencies."""
    if path.name != "pyproject.toml":
        return False
    facts = read(path)
    dynamic = "dependencies" in facts.get("project", {}).get("dynamic", [])
    return dynamic or ("build-system" in facts and (path.parent / "src").is_dir())


def requirements_of(path: Path, wish: Wish = NO_WISH) -> str | None:
    """Return the lines for requirements.txt; None when the installers read the file as it is."""
    if path.name == "poetry.lock":
        return _lines(_poetry(read(path), wish, path))
    if path.name == "Pipfile.lock":
        return _lines(_pipfile(read(path), wish, path))
    if path.name == "pyproject.toml":
        return _lines(_pyproject(read(path), wish, path))
    if path.name not in LOCKS:
        # Such a file has no groups and no extras, so each wanted name is an error.
        wish.of("groups", {}, path)
        wish.of("extras", {}, path)
    return None


def _lines(requirements: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in requirements)


def _line(name: str, version: str, markers: str, hashes: list[str]) -> str:
    line = f"{name}{version}"
    if markers:
        line += f" ; {markers}"
    return " \\\n    ".join([line, *(f"--hash={value}" for value in sorted(set(hashes)))])


def _indexes(addresses: Iterable[str]) -> Iterator[str]:
    """Yield the lines for further indexes; the hashes decide which package comes from which index."""
    for address in dict.fromkeys(addresses):
        if not re.match(r"https://pypi\.org/", address):
            yield f"--extra-index-url {address}"


def _git(address: str, reference: str, subdirectory: str) -> str:
    address = address.removeprefix("git+")
    if "://" not in address:
        # The installers do not support the notation of scp, me@host:path.
        address = re.sub(r"^([^/:]+):(?!/)", r"ssh://\1/", address)
    return f"git+{address}" + (f"@{reference}" if reference else "") + _fragment(subdirectory)


def _fragment(subdirectory: str) -> str:
    return f"#subdirectory={subdirectory}" if subdirectory else ""


def _local(path: Path, where: str) -> Path:
    """Return an absolute path, because an installer resolves a relative path from its working directory."""
    return Path(os.path.abspath(path.parent / where))


def _pyproject(facts: dict, wish: Wish, path: Path) -> Iterator[str]:
    project, groups = facts.get("project"), facts.get("dependency-groups", {})
    if project is None and not wish.groups:
        raise StepError(
            "source", f"{path.name} has no [project]", "Set django_requirements to the file that names the packages."
        )
    project = project or {}
    optional = project.get("optional-dependencies", {})
    extras = [] if "optional-dependencies" in project.get("dynamic", []) else wish.of("extras", optional, path)
    lines = []
    if is_package(path):
        lines.append(f"-e {path.parent}" + (f"[{','.join(wish.extras)}]" if wish.extras else ""))
    else:
        lines += [line for each in (project.get("dependencies", []), *extras) for line in each]
    for group in wish.groups:
        lines += _group(group, groups, path)
    known = {normalise(name): each for name, each in optional.items()}
    # An installed project is known to the installer by its name.
    itself = "" if is_package(path) else normalise(project.get("name", ""))
    for line in lines:
        yield from _without_itself(line, itself, known)


def _without_itself(line: str, itself: str, optional: dict, within: tuple[str, ...] = ()) -> Iterator[str]:
    """Replace a line with extras of the project itself by their content, because no index has the project."""
    named = re.match(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?\s*(?:[<>=!~][^;]*)?(?:;\s*(.*))?$", line)
    if not named or normalise(named[1]) != itself:
        yield line
        return
    for extra in map(normalise, re.findall(r"[\w.-]+", named[2] or "")):
        for more in () if extra in within else optional.get(extra, ()):
            for each in _without_itself(more, itself, optional, (*within, extra)):
                yield _on(each, named[3])


def _on(line: str, marker: str | None) -> str:
    """Return a line with an additional marker."""
    if not marker:
        return line
    # An address can contain a semicolon.
    requirement, _semicolon, own = (part.strip() for part in line.partition(" ;" if "@" in line else ";"))
    return f"{requirement} ; {join_markers([part for part in (own, marker) if part], 'and')}"


def _group(name: str, groups: dict, path: Path, within: tuple[str, ...] = ()) -> Iterator[str]:
    [lines] = Wish(groups=(name,)).of("groups", groups, path)
    within = (*within, normalise(name))
    for line in lines:
        if not isinstance(line, dict):
            yield line
        elif "include-group" in line and normalise(line["include-group"]) not in within:
            yield from _group(line["include-group"], groups, path, within)


def _poetry(lock: dict, wish: Wish, path: Path) -> Iterator[str]:
    packages = lock.get("package", [])
    grouped = any("groups" in package for package in packages)
    wanted = _of_poetry_2(packages, wish, path) if grouped else _of_poetry_1(lock, wish, path)
    wish.of("extras", lock.get("extras", {}), path)
    yield from _indexes(
        package["source"]["url"] for package in packages if package.get("source", {}).get("type") == "legacy"
    )
    # Poetry up to 1.2 has the hashes in a separate table.
    older = lock.get("metadata", {}).get("files", {})
    for package, markers in wanted:
        name, source = package["name"], package.get("source", {})
        hashes = [file["hash"] for file in package.get("files") or older.get(name, [])]
        if source.get("type") == "git":
            address = _git(source["url"], source["resolved_reference"], source.get("subdirectory", ""))
            yield _line(name, f" @ {address}", markers, [])
        elif source.get("type") == "url":
            yield _line(name, f" @ {source['url']}{_fragment(source.get('subdirectory', ''))}", markers, hashes)
        elif source.get("type") == "directory" and package.get("develop") and not markers:
            # pip does not support markers for editable packages.
            yield f"-e {_local(path, source['url'])}"
        elif source.get("type") in ("file", "directory"):
            yield _line(name, f" @ {_local(path, source['url']).as_uri()}", markers, hashes)
        else:
            yield _line(name, f"=={package['version']}", markers, hashes)


def _of_poetry_2(packages: list[dict], wish: Wish, path: Path) -> Iterator[tuple[dict, str]]:
    known = {group: group for package in packages for group in package.get("groups", [])}
    groups = {"main", *wish.of("groups", known, path)}
    extras = set(map(normalise, wish.extras))
    for package in packages:
        belongs = sorted(groups.intersection(package.get("groups", ["main"])))
        if not belongs:
            continue
        markers = package.get("markers", "")
        if isinstance(markers, dict):
            # Each group has its own marker; if one group has none, the package is always installed.
            each = [markers.get(group, "") for group in belongs]
            markers = " or ".join(f"({one})" for one in each) if all(each) else ""
        if package.get("optional") and not extras.intersection(map(normalise, EXTRA.findall(markers))):
            continue
        yield package, drop_extras(markers, extras)


def _of_poetry_1(lock: dict, wish: Wish, path: Path) -> list[tuple[dict, str]]:
    """Read a lock up to lock-version 2.0: pyproject.toml has the groups, and each dependency has its markers."""
    poetry = read(path.with_name("pyproject.toml")).get("tool", {}).get("poetry", {})
    packages = lock.get("package", [])
    if packages and "dependencies" not in poetry:
        raise StepError(
            "source",
            f"{path.name} is of Poetry 1, and no pyproject.toml beside it has [tool.poetry.dependencies]",
            "Commit both, or run poetry lock with Poetry 2.",
        )
    known = {name: group.get("dependencies", {}) for name, group in poetry.get("group", {}).items()}
    if "dev-dependencies" in poetry:
        known["dev"] = {**poetry["dev-dependencies"], **known.get("dev", {})}
    groups = wish.of("groups", {"main": {}, **known}, path)
    wish.of("extras", lock.get("extras", {}), path)
    markers = Walk(packages, find_roots(poetry, lock, groups, wish.extras)).markers()
    return [(packages[place], markers[place]) for place in sorted(markers)]


def _pipfile(lock: dict, wish: Wish, path: Path) -> Iterator[str]:
    wish.of("extras", {}, path)
    categories = {name: packages for name, packages in lock.items() if name != "_meta"}
    # The installers replace variables of the environment in an address, such as ${TOKEN}.
    yield from _indexes(source["url"] for source in lock.get("_meta", {}).get("sources", []))
    wanted = {}
    for packages in (lock.get("default", {}), *wish.of("groups", categories, path)):
        wanted.update(packages)
    for name, package in wanted.items():
        extras = f"[{','.join(package['extras'])}]" if package.get("extras") else ""
        markers = package.get("markers", "")
        where = package.get("path") or package.get("file", "")
        if "git" in package:
            address = _git(package["git"], package.get("ref", ""), package.get("subdirectory", ""))
            yield _line(f"{name}{extras}", f" @ {address}", markers, [])
        elif "://" in where:
            address = f"{where}{_fragment(package.get('subdirectory', ''))}"
            yield _line(f"{name}{extras} @ {address}" if extras else address, "", markers, [])
        elif where:
            # Its name can be a hash. pip does not support markers for editable packages.
            editable = "-e " if package.get("editable") and not markers else ""
            yield _line(f"{editable}{_local(path, where)}{extras}", "", markers, [])
        elif "version" in package:
            yield _line(f"{name}{extras}", package["version"], markers, package.get("hashes", []))
        else:
            kind = next((kind for kind in ("hg", "svn", "bzr") if kind in package), "")
            raise StepError(
                "source",
                f"{path.name}: {name} comes from {kind}" if kind else f"{path.name}: {name} has no version",
                f"Require it from {'git or ' if kind else ''}a package index, and run pipenv lock; or set"
                " django_requirements to another file.",
            )
