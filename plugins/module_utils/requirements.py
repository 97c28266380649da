# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which file says what a project needs, and what it says in the words of requirements.txt."""

from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.poetry import (
    EXTRA,
    Walk,
    canonical,
    joined,
    roots,
    without_extras,
)

#: Lock files first: they name what was tested.
KNOWN = ("uv.lock", "poetry.lock", "Pipfile.lock", "requirements.txt", "pyproject.toml")
LOCKS = KNOWN[:3]

PDM_EXPORT = "pdm export --prod -o requirements.txt"

#: What includes another file of requirements.
INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)", re.MULTILINE)
#: What is installed from something that may change while the line stays.
MOVING = re.compile(
    r"""^\s*(?:-e|--editable|[./~]|file:|\S+\.(?:whl|zip|tar\.gz)\b)|@\s*(?:\.|/|file:)|git\+(?!\S*@[0-9a-f]{40}\b)"""
    r"""|source = \{ (?:editable|directory|path) =""",
    re.MULTILINE,
)
#: Relative paths in a line of requirements: after -e, as a line of its own, as an archive, or after a name and @.
RELATIVE = re.compile(
    r"^\s*(?:-e|--editable)[ =]?\s*(?![/~]|\S+:)([^\s\[;#]+)"
    r"|^\s*(\.[^\s\[;#]*|[^\s\[;#:/-][^\s\[;#:]*\.(?:whl|zip|tar\.gz))"
    r"|^[^#\n]*@\s*(?:file:)?(\.[^\s;#]*)",
    re.MULTILINE,
)


def between(project: Path, top: Path) -> list[Path]:
    """The folder of manage.py and those above it, up to the top of the source."""
    return [folder for folder in (project, *project.parents) if folder == top or top in folder.parents]


def find_requirements(project: Path, top: Path, wanted: str, wish: Wish | None = None) -> Path:
    """The file to install from: the wanted one, else the first known one of the nearest folder that has any."""
    folders = between(project, top)
    # What comes into question if nothing else is there.
    rest = []
    for place, folder in enumerate(folders):
        for name in (wanted,) if wanted else KNOWN:
            path = folder / name
            if name == "uv.lock" and not path.is_file():
                # The members of a workspace share the lock of its root.
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
            refuse_half(path, wanted)
            return path
    for path in rest:
        refuse_half(path, wanted)
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
    """Whether a pyproject.toml says what to install; many only describe the project for its tools."""
    project = read(path).get("project", {})
    dynamic = "dependencies" in project.get("dynamic", [])
    return bool(project.get("dependencies") or dynamic or (wish and (wish.groups or wish.extras)))


def is_member(folder: Path, root: Path) -> bool:
    """Whether a folder is a member of the workspace of uv that has its lock in another one."""
    if not (root / "uv.lock").is_file() or not (folder / "pyproject.toml").is_file():
        return False
    workspace = read(root / "pyproject.toml").get("tool", {}).get("uv", {}).get("workspace", {})

    def named(key: str) -> bool:
        return any(folder in root.glob(pattern) for pattern in workspace.get(key, ()))

    return named("members") and not named("exclude")


def refuse_half(path: Path, wanted: str) -> None:
    """Refuse a file that says only half of it: the rest is known to the tool that it was written for."""
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
        said = [f"tool.{tool}.{name}" for name in names if any(key != "python" for key in known.get(name, ()))]
        if said:
            raise StepError(
                "source",
                f"{path.name} says in {' and '.join(said)} where packages come from, and there is no {made}",
                f"Run {command}, and commit {made}; or set django_requirements to another file.",
            )
    if not wanted and path.with_name("pdm.lock").is_file():
        raise StepError(
            "source",
            "the versions in pdm.lock are for PDM alone",
            f"Run {PDM_EXPORT}, and commit requirements.txt; or set django_requirements to pyproject.toml, of which the"
            " newest versions are installed.",
        )


def read(path: Path) -> dict:
    """A TOML or JSON file, of one that is not there nothing; one that cannot be read is named."""
    try:
        text = path.read_text()
        return json.loads(text) if path.name == "Pipfile.lock" else tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StepError("source", f"{path.name} cannot be read: {error}") from None


def is_package(path: Path) -> bool:
    """Whether the project has to be installed itself: its code lies in src/, or its build says what it requires."""
    if path.name != "pyproject.toml":
        return False
    facts = read(path)
    dynamic = "dependencies" in facts.get("project", {}).get("dynamic", [])
    return dynamic or ("build-system" in facts and (path.parent / "src").is_dir())


@dataclass(frozen=True)
class Wish:
    """What of a project is wanted beside its main requirements."""

    groups: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    def of(self, kind: str, known: dict, path: Path) -> list:
        """What the file knows under the names of one kind, `groups` or `extras`."""
        names = getattr(self, kind)
        normalised = {canonical(name): value for name, value in known.items()}
        if lacking := [name for name in names if canonical(name) not in normalised]:
            raise StepError(
                "source",
                f"{path.name} has no {kind[:-1]} {', '.join(lacking)}; it has {', '.join(sorted(known)) or 'none'}",
                f"Correct django_{kind}.",
            )
        return [normalised[canonical(name)] for name in names]


def member_of(lock: Path, project: Path) -> Path:
    """The folder of the package that a uv.lock is wanted for: in a workspace each member has its own."""
    return next((folder for folder in between(project, lock.parent) if is_member(folder, lock.parent)), lock.parent)


def root_package(path: Path, project: Path) -> Path | None:
    """The folder of a Poetry project that is to be installed itself, as manage.py would not find its packages.

    Only one that says where they lie or has them in src/: many have a root that is no package, and use --no-root.
    """
    facts = read(path.with_name("pyproject.toml")) if path.name == "poetry.lock" else {}
    poetry = facts.get("tool", {}).get("poetry", {})
    if "build-system" not in facts or not poetry.get("package-mode", True):
        return None
    folders = {package["from"] for package in poetry.get("packages", ()) if package.get("from")}
    name = canonical(poetry.get("name") or facts.get("project", {}).get("name", "")).replace("-", "_")
    if "packages" not in poetry and name:
        root = path.parent
        packages = (root / "src" / name, root / "src" / f"{name}.py")
        if any(map(Path.exists, packages)) and not (root / name).exists():
            folders.add("src")
    hidden = any(os.path.normpath(path.parent / folder) != os.path.normpath(project) for folder in folders)
    return path.parent if hidden else None


def texts_of(path: Path, wish: Wish = Wish(), within: tuple[Path, ...] = ()) -> list[str | None]:
    """What a file of requirements and those that it includes say; None for one that cannot be read."""
    if path in within or not path.is_file():
        return [None]
    text = requirements_of(path, wish)
    if text is None:
        text = path.read_text(errors="replace")
    included = [] if path.name in LOCKS else INCLUDED.findall(text)
    return [text, *(more for name in included for more in texts_of(path.parent / name, Wish(), (*within, path)))]


def inputs_of(path: Path, wish: Wish = Wish(), project: Path | None = None) -> list[str] | None:
    """What the files say that decides what is installed; None when something else does too, such as a local folder."""
    project = project or path.parent
    if is_package(path) or root_package(path, project):
        return None
    texts = texts_of(path, wish)
    if path.name == "uv.lock":
        texts.append((member_of(path, project) / "pyproject.toml").read_text(errors="replace"))
    return None if any(text is None or MOVING.search(text) for text in texts) else texts


def base_of(path: Path, project: Path, top: Path) -> Path:
    """The folder to run an installer in, which takes relative paths from there.

    The file's own where they lead to something installable from it, else one above, as `-e .` of
    requirements/production.txt means the top.
    """
    if path.name == "pyproject.toml":
        return path.parent
    # Of lock files all paths are written in full.
    texts = [] if path.name in LOCKS else texts_of(path)
    paths = ["".join(found) for text in texts if text for found in RELATIVE.findall(text)]
    if not paths:
        return project

    def installable(place: Path) -> bool:
        return place.is_file() or any((place / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg"))

    folders = [*between(path.parent, top), project]
    return next((each for each in folders if all(installable(each / name) for name in paths)), path.parent)


def requirements_of(path: Path, wish: Wish = Wish()) -> str | None:
    """The lines for requirements.txt; None when the installers read the file as it is."""
    if path.name == "poetry.lock":
        return _lines(_poetry(read(path), wish, path))
    if path.name == "Pipfile.lock":
        return _lines(_pipfile(read(path), wish, path))
    if path.name == "pyproject.toml":
        return _lines(_pyproject(read(path), wish, path))
    if path.name not in LOCKS:
        # Such a file knows none.
        wish.of("groups", {}, path)
        wish.of("extras", {}, path)
    return None


def _lines(requirements) -> str:
    return "".join(f"{line}\n" for line in requirements)


def _line(name: str, version: str, markers: str, hashes: list[str]) -> str:
    line = f"{name}{version}"
    if markers:
        line += f" ; {markers}"
    return " \\\n    ".join([line, *(f"--hash={value}" for value in sorted(set(hashes)))])


def _indexes(addresses):
    """Further indexes; which package comes from which, the hashes see to."""
    for address in dict.fromkeys(addresses):
        if not re.match(r"https://pypi\.org/", address):
            yield f"--extra-index-url {address}"


def _git(address: str, reference: str, subdirectory: str) -> str:
    address = address.removeprefix("git+")
    if "://" not in address:
        # The installers do not know the notation of scp, me@host:path.
        address = re.sub(r"^([^/:]+):(?!/)", r"ssh://\1/", address)
    return f"git+{address}" + (f"@{reference}" if reference else "") + _fragment(subdirectory)


def _fragment(subdirectory: str) -> str:
    return f"#subdirectory={subdirectory}" if subdirectory else ""


def _local(path: Path, where: str) -> Path:
    """A path in full: an installer would take it from the folder that it runs in."""
    return Path(os.path.abspath(path.parent / where))


def _pyproject(facts: dict, wish: Wish, path: Path):
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
    known = {canonical(name): each for name, each in optional.items()}
    # Where it is installed itself, its name is known to the installer.
    itself = "" if is_package(path) else canonical(project.get("name", ""))
    for line in lines:
        yield from _without_itself(line, itself, known)


def _without_itself(line: str, itself: str, optional: dict, within: tuple[str, ...] = ()):
    """A line, or where it names extras of the project itself what they consist of: no index has the project."""
    named = re.match(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?\s*(?:[<>=!~][^;]*)?(?:;\s*(.*))?$", line)
    if not named or canonical(named[1]) != itself:
        yield line
        return
    for extra in map(canonical, re.findall(r"[\w.-]+", named[2] or "")):
        for more in () if extra in within else optional.get(extra, ()):
            for each in _without_itself(more, itself, optional, (*within, extra)):
                yield _on(each, named[3])


def _on(line: str, marker: str | None) -> str:
    """A line on a further condition."""
    if not marker:
        return line
    # An address may have a semicolon in it.
    requirement, _semicolon, own = (part.strip() for part in line.partition(" ;" if "@" in line else ";"))
    return f"{requirement} ; {joined([part for part in (own, marker) if part], 'and')}"


def _group(name: str, groups: dict, path: Path, within: tuple[str, ...] = ()):
    [lines] = Wish(groups=(name,)).of("groups", groups, path)
    within = (*within, canonical(name))
    for line in lines:
        if not isinstance(line, dict):
            yield line
        elif "include-group" in line and canonical(line["include-group"]) not in within:
            yield from _group(line["include-group"], groups, path, within)


def _poetry(lock: dict, wish: Wish, path: Path):
    """The main group of a poetry.lock and those wanted."""
    packages = lock.get("package", [])
    grouped = any("groups" in package for package in packages)
    wanted = _of_poetry_2(packages, wish, path) if grouped else _of_poetry_1(lock, wish, path)
    wish.of("extras", lock.get("extras", {}), path)
    yield from _indexes(
        package["source"]["url"] for package in packages if package.get("source", {}).get("type") == "legacy"
    )
    # Up to Poetry 1.2 the hashes are in a place of their own.
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
            # pip knows no markers of what is installed as editable.
            yield f"-e {_local(path, source['url'])}"
        elif source.get("type") in ("file", "directory"):
            yield _line(name, f" @ {_local(path, source['url']).as_uri()}", markers, hashes)
        else:
            yield _line(name, f"=={package['version']}", markers, hashes)


def _of_poetry_2(packages: list[dict], wish: Wish, path: Path):
    known = {group: group for package in packages for group in package.get("groups", [])}
    groups = {"main", *wish.of("groups", known, path)}
    extras = set(map(canonical, wish.extras))
    for package in packages:
        belongs = sorted(groups.intersection(package.get("groups", ["main"])))
        if not belongs:
            continue
        markers = package.get("markers", "")
        if isinstance(markers, dict):
            # Each group has its own; where one has none, it is always wanted.
            each = [markers.get(group, "") for group in belongs]
            markers = " or ".join(f"({one})" for one in each) if all(each) else ""
        if package.get("optional") and not extras.intersection(map(canonical, EXTRA.findall(markers))):
            continue
        yield package, without_extras(markers, extras)


def _of_poetry_1(lock: dict, wish: Wish, path: Path):
    """Up to lock-version 2.0 the lock has no groups: pyproject.toml has them, and the markers are on the way there."""
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
    markers = Walk(packages, roots(poetry, lock, groups, wish.extras)).markers()
    return [(packages[place], markers[place]) for place in sorted(markers)]


def _pipfile(lock: dict, wish: Wish, path: Path):
    wish.of("extras", {}, path)
    categories = {name: packages for name, packages in lock.items() if name != "_meta"}
    # The user's own part of an address, such as ${TOKEN}, the installers fill in from the environment.
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
            # Its name may be a hash. pip knows no markers of what is installed as editable.
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
