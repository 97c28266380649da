# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which file says what a project needs, and what it says in the words of requirements.txt."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.site import StepError

#: Lock files first: they name what was tested.
KNOWN = ("uv.lock", "poetry.lock", "Pipfile.lock", "requirements.txt", "pyproject.toml")

#: What includes another file of requirements.
INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)", re.MULTILINE)
#: What is installed from something that may change while the line stays.
MOVING = re.compile(
    r"""^\s*(?:-e|--editable|[./~]|file:|\S+\.(?:whl|zip|tar\.gz)\b)|@\s*(?:\.|/|file:)|git\+(?!\S*@[0-9a-f]{40}\b)"""
    r"""|source = \{ (?:editable|directory|path) =""",
    re.MULTILINE,
)


def find_requirements(project: Path, top: Path, wanted: str) -> Path:
    """The file to install from: the wanted one, else the first known one beside manage.py or at the top."""
    folders = (project, top)
    for name in (wanted,) if wanted else KNOWN:
        for folder in folders:
            path = folder / name
            if path.is_file() and (wanted or name != "pyproject.toml" or "project" in read(path)):
                return path
    raise StepError(
        "source",
        f"the source has no {wanted or ', '.join(KNOWN)}",
        "Set django_requirements to a file that it has."
        if wanted
        else "Write a requirements.txt with Django and a PostgreSQL driver in it, or set django_requirements.",
    )


def read(path: Path) -> dict:
    """A TOML or JSON file; one that cannot be read is named."""
    try:
        text = path.read_text()
        return json.loads(text) if path.name == "Pipfile.lock" else tomllib.loads(text)
    except ValueError as error:
        raise StepError("source", f"{path.name} cannot be read: {error}") from None


def is_package(path: Path) -> bool:
    """Whether the project has to be installed itself: its code lies in src/, or its build says what it requires."""
    if path.name != "pyproject.toml":
        return False
    facts = read(path)
    dynamic = "dependencies" in facts.get("project", {}).get("dynamic", [])
    return dynamic or ("build-system" in facts and (path.parent / "src").is_dir())


def inputs_of(path: Path, within: tuple[Path, ...] = ()) -> list[str] | None:
    """What the files say that decide what is installed; None when something else does too, such as a local folder."""
    if is_package(path) or path in within or not path.is_file():
        return None
    texts = [requirements_of(path) or path.read_text(errors="replace")]
    if path.name == "uv.lock":
        texts.append((path.parent / "pyproject.toml").read_text(errors="replace"))
    for name in [] if path.name == "uv.lock" else INCLUDED.findall(texts[0]):
        more = inputs_of(path.parent / name, (*within, path))
        if more is None:
            return None
        texts += more
    return None if any(MOVING.search(text) for text in texts) else texts


def requirements_of(path: Path) -> str | None:
    """The lines for requirements.txt; None when the installers read the file as it is."""
    if path.name == "poetry.lock":
        return _lines(_poetry(read(path)))
    if path.name == "Pipfile.lock":
        return _lines(_pipfile(read(path)))
    if path.name == "pyproject.toml":
        return _lines(read(path)["project"].get("dependencies", []))
    return None


def _lines(requirements) -> str:
    return "".join(f"{line}\n" for line in requirements)


def _line(name: str, version: str, markers: str, hashes: list[str]) -> str:
    line = f"{name}{version}"
    if markers:
        line += f" ; {markers}"
    return " \\\n    ".join([line, *(f"--hash={value}" for value in sorted(set(hashes)))])


def _poetry(lock: dict):
    """The main group of a poetry.lock; one older than Poetry 2 does not know groups, then everything."""
    for package in lock.get("package", []):
        groups = package.get("groups", ["main"])
        if "main" not in groups or (package.get("optional") and "groups" in package):
            continue
        markers = package.get("markers", "")
        if isinstance(markers, dict):
            markers = markers.get("main", "")
        source = package.get("source", {})
        if source.get("type") == "git":
            reference = source["resolved_reference"]
            yield _line(package["name"], f" @ git+{source['url']}@{reference}", markers, [])
        elif source.get("type") in ("url", "file", "directory"):
            where = source["url"]
            yield _line(package["name"], f" @ {where}" if "://" in where else f" @ ./{where}", markers, [])
        else:
            hashes = [file["hash"] for file in package.get("files", [])]
            yield _line(package["name"], f"=={package['version']}", markers, hashes)


def _pipfile(lock: dict):
    for name, package in lock.get("default", {}).items():
        extras = f"[{','.join(package['extras'])}]" if package.get("extras") else ""
        markers = package.get("markers", "")
        if "git" in package:
            yield _line(f"{name}{extras}", f" @ git+{package['git']}@{package['ref']}", markers, [])
        elif "path" in package or "file" in package:
            yield package.get("path") or package["file"]
        else:
            yield _line(f"{name}{extras}", package["version"], markers, package.get("hashes", []))
