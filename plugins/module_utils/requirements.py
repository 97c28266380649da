# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find the requirements file of a project, and all inputs that decide which packages are installed."""

from __future__ import annotations

import os
import re
from collections.abc import Set
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.lock_files import (
    LOCKS,
    NO_WISH,
    Wish,
    is_package,
    read,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.poetry import normalise

#: Known files; lock files come first, because they contain the tested versions.
KNOWN = (*LOCKS, "requirements.txt", "pyproject.toml")

#: Settings of uv for the places of packages, and variables with which pip is told some.
UV_INDEXES = ("index-url", "extra-index-url", "index", "find-links")
PIP_INDEXES = {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"}

PDM_EXPORT = "pdm export --prod -o requirements.txt"

#: Lines that include another requirements file.
INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)", re.MULTILINE)
#: Lines whose package can change although the line stays the same.
MOVING = re.compile(
    r"""^\s*(?:-e|--editable|[./~]|file:|\S+\.(?:whl|zip|tar\.gz)\b)|@\s*(?:\.|/|file:)|git\+(?!\S*@[0-9a-f]{40}\b)"""
    r"""|source = \{ (?:editable|directory|path) =""",
    re.MULTILINE,
)
#: Relative paths in requirements: after -e, as the whole line, as an archive, or after a name and @.
RELATIVE = re.compile(
    r"^\s*(?:-e|--editable)[ =]?\s*(?![/~]|\S+:)([^\s\[;#]+)"
    r"|^\s*(\.[^\s\[;#]*|[^\s\[;#:/-][^\s\[;#:]*\.(?:whl|zip|tar\.gz))"
    r"|^[^#\n]*@\s*(?:file:)?(\.[^\s;#]*)",
    re.MULTILINE,
)


def list_folders(project: Path, top: Path) -> list[Path]:
    """Return the folder of manage.py and its parents, up to the top of the source."""
    return [folder for folder in (project, *project.parents) if folder == top or top in folder.parents]


def find_requirements(project: Path, top: Path, wanted: str, wish: Wish | None = None) -> Path:
    """Return the file to install from: the wanted one, else the first known file in the nearest folder that has any."""
    folders = list_folders(project, top)
    # Files to use if there is no other.
    rest = []
    for place, folder in enumerate(folders):
        for name in (wanted,) if wanted else KNOWN:
            path = folder / name
            if name == "uv.lock" and not path.is_file():
                # All members of a workspace use the lock of its root.
                path = next((above / name for above in folders[place + 1 :] if is_member(folder, above)), path)
            if not path.is_file():
                continue
            if name == "pyproject.toml" and not wanted:
                if "project" not in read(path):
                    continue
                locked_above = any((above / lock).is_file() for above in folders[place + 1 :] for lock in LOCKS[1:])
                if locked_above or not names_requirements(path, wish):
                    rest.append(path)
                    continue
            refuse_incomplete(path, wanted)
            return path
    for path in rest:
        refuse_incomplete(path, wanted)
        return path
    if wanted:
        advice = "Set django_requirements to a file that it has."
    elif any((folder / "Pipfile").is_file() for folder in folders):
        advice = "It has a Pipfile: run pipenv lock, and commit Pipfile.lock."
    elif any("poetry" in read(folder / "pyproject.toml").get("tool", {}) for folder in folders):
        advice = "Its pyproject.toml is of Poetry: run poetry lock, and commit poetry.lock."
    elif found := sorted(str(path.relative_to(top)) for path in top.glob("**/*requirements*/*.txt")) or sorted(
        str(path.relative_to(top)) for path in top.glob("**/*requirements*.txt")
    ):
        advice = f"Set django_requirements to the one that is meant: {', '.join(found[:9])}."
    else:
        advice = "Write a requirements.txt with Django and a PostgreSQL driver in it, or set django_requirements."
    raise StepError("source", f"the source has no {wanted or ', '.join(KNOWN)}", advice)


def names_requirements(path: Path, wish: Wish | None) -> bool:
    """Return whether a pyproject.toml contains requirements; many contain only the configuration of tools."""
    project = read(path).get("project", {})
    dynamic = "dependencies" in project.get("dynamic", [])
    return bool(project.get("dependencies") or dynamic or (wish and (wish.groups or wish.extras)))


def is_member(folder: Path, root: Path) -> bool:
    """Return whether a folder is a member of the uv workspace that has its lock in `root`."""
    if not (root / "uv.lock").is_file() or not (folder / "pyproject.toml").is_file():
        return False
    workspace = read(root / "pyproject.toml").get("tool", {}).get("uv", {}).get("workspace", {})

    def named(key: str) -> bool:
        return any(folder in root.glob(pattern) for pattern in workspace.get(key, ()))

    return named("members") and not named("exclude")


def refuse_incomplete(path: Path, wanted: str) -> None:
    """Refuse a file that only its own tool can read completely."""
    if path.name == "uv.lock" and not path.with_name("pyproject.toml").is_file():
        raise StepError("source", "there is no pyproject.toml beside uv.lock", "Commit both.")
    if path.name != "pyproject.toml":
        return
    tools = read(path).get("tool", {})
    for tool, names, command, made in (
        ("uv", ("sources", "index", "workspace"), "uv lock", "uv.lock"),
        ("poetry", ("dependencies", "source"), "poetry lock", "poetry.lock"),
        ("pdm", ("source",), PDM_EXPORT, "requirements.txt"),
    ):
        known = tools.get(tool, {})
        sources = [f"tool.{tool}.{name}" for name in names if any(key != "python" for key in known.get(name, ()))]
        if sources:
            raise StepError(
                "source",
                f"{path.name} says in {' and '.join(sources)} where packages come from, and there is no {made}",
                f"Run {command}, and commit {made}; or set django_requirements to another file.",
            )
    if not wanted and path.with_name("pdm.lock").is_file():
        raise StepError(
            "source",
            "the versions in pdm.lock are for PDM alone",
            f"Run {PDM_EXPORT}, and commit requirements.txt; or set django_requirements to pyproject.toml, of which the"
            " newest versions are installed.",
        )


def refuse_indexes_of_uv(path: Path, top: Path, environment: Set[str]) -> None:
    """Refuse a pyproject.toml with indexes that uv reads and pip does not, unless pip is told some.

    pip would install a package of that name from the public index, also if a stranger has published it.
    """
    if path.name != "pyproject.toml" or PIP_INDEXES & environment:
        return
    for folder in list_folders(path.parent, top):
        file, section = folder / "uv.toml", ""
        known = read(file)
        if not file.is_file():
            file, section = folder / "pyproject.toml", "tool.uv."
            known = read(file).get("tool", {}).get("uv", {})
        keys = [key for key in UV_INDEXES if known.get(key) or known.get("pip", {}).get(key)]
        if keys:
            raise StepError(
                "source",
                f"{file.name} says in {section}{' and '.join(keys)} where packages come from, and pip does not read it",
                "Leave out django_installer, as uv reads it; or write PIP_INDEX_URL or PIP_EXTRA_INDEX_URL into"
                " django_build_environment.",
            )
        if known:
            # uv reads the nearest configuration alone.
            return


def find_member(lock: Path, project: Path) -> Path:
    """Return the folder of the package to install from a uv.lock; in a workspace each member is a package."""
    return next(
        (folder for folder in list_folders(project, lock.parent) if is_member(folder, lock.parent)), lock.parent
    )


def find_root_package(path: Path, project: Path) -> Path | None:
    """Return the folder of a Poetry project that must itself be installed, so that manage.py finds its packages.

    Only a project that sets their place or has them in src/ is one; many have a root that is no package (--no-root).
    """
    facts = read(path.with_name("pyproject.toml")) if path.name == "poetry.lock" else {}
    poetry = facts.get("tool", {}).get("poetry", {})
    if "build-system" not in facts or not poetry.get("package-mode", True):
        return None
    folders = {package["from"] for package in poetry.get("packages", ()) if package.get("from")}
    name = normalise(poetry.get("name") or facts.get("project", {}).get("name", "")).replace("-", "_")
    if "packages" not in poetry and name:
        root = path.parent
        packages = (root / "src" / name, root / "src" / f"{name}.py")
        if any(map(Path.exists, packages)) and not (root / name).exists():
            folders.add("src")
    hidden = any(os.path.normpath(path.parent / folder) != os.path.normpath(project) for folder in folders)
    return path.parent if hidden else None


def read_texts(path: Path, wish: Wish = NO_WISH, within: tuple[Path, ...] = ()) -> list[str | None]:
    """Read a requirements file and the files that it includes; None stands for a file that cannot be read."""
    if path in within or not path.is_file():
        return [None]
    text = requirements_of(path, wish)
    if text is None:
        text = path.read_text(errors="replace")
    included = [] if path.name in LOCKS else INCLUDED.findall(text)
    return [text, *(more for name in included for more in read_texts(path.parent / name, NO_WISH, (*within, path)))]


def read_inputs(path: Path, wish: Wish = NO_WISH, project: Path | None = None) -> list[str] | None:
    """Read the texts that decide which packages are installed; None when others do too, such as a local folder."""
    project = project or path.parent
    if is_package(path) or find_root_package(path, project):
        return None
    texts = read_texts(path, wish)
    if path.name == "uv.lock":
        texts.append((find_member(path, project) / "pyproject.toml").read_text(errors="replace"))
    return None if any(text is None or MOVING.search(text) for text in texts) else texts


def find_base(path: Path, project: Path, top: Path) -> Path:
    """Return the working directory for an installer, from which it resolves relative paths.

    It is the folder of the file if the paths lead to packages from there, else one above, because `-e .` in
    requirements/production.txt means the top.
    """
    if path.name == "pyproject.toml":
        return path.parent
    # Translated lock files have absolute paths.
    texts = [] if path.name in LOCKS else read_texts(path)
    paths = ["".join(found) for text in texts if text for found in RELATIVE.findall(text)]
    if not paths:
        return project

    def installable(place: Path) -> bool:
        return place.is_file() or any((place / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg"))

    folders = [*list_folders(path.parent, top), project]
    return next((each for each in folders if all(installable(each / name) for name in paths)), path.parent)
