# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which file says what a project needs, and what it says in the words of requirements.txt."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.site import StepError

#: Lock files first: they name what was tested.
KNOWN = ("uv.lock", "poetry.lock", "Pipfile.lock", "requirements.txt", "pyproject.toml")
LOCKS = KNOWN[:3]

#: What includes another file of requirements.
INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)", re.MULTILINE)
#: What is installed from something that may change while the line stays.
MOVING = re.compile(
    r"""^\s*(?:-e|--editable|[./~]|file:|\S+\.(?:whl|zip|tar\.gz)\b)|@\s*(?:\.|/|file:)|git\+(?!\S*@[0-9a-f]{40}\b)"""
    r"""|source = \{ (?:editable|directory|path) =""",
    re.MULTILINE,
)


def between(project: Path, top: Path) -> list[Path]:
    """The folder of manage.py and those above it, up to the top of the source."""
    return [folder for folder in (project, *project.parents) if folder == top or top in folder.parents]


def find_requirements(project: Path, top: Path, wanted: str) -> Path:
    """The file to install from: the wanted one, else the first known one beside manage.py or above it."""
    folders = between(project, top)
    for name in (wanted,) if wanted else KNOWN:
        for folder in folders:
            path = folder / name
            if path.is_file() and (wanted or name != "pyproject.toml" or "project" in read(path)):
                refuse_half(path)
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


def refuse_half(path: Path) -> None:
    """Refuse a file that says only half of it: the rest is known to the tool that it was written for."""
    if path.name == "uv.lock" and not path.with_name("pyproject.toml").is_file():
        raise StepError("source", "there is no pyproject.toml beside uv.lock", "Commit both.")
    if path.name != "pyproject.toml":
        return
    tools = read(path).get("tool", {})
    for tool, names in (("uv", ("sources", "index", "workspace")), ("poetry", ("dependencies", "source"))):
        known = tools.get(tool, {})
        said = [f"tool.{tool}.{name}" for name in names if any(key != "python" for key in known.get(name, ()))]
        if said:
            raise StepError(
                "source",
                f"{path.name} says in {' and '.join(said)} where packages come from, and there is no {tool}.lock",
                f"Run {tool} lock, and commit {tool}.lock; or set django_requirements to another file.",
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
        if lacking := [name for name in names if name not in known]:
            raise StepError(
                "source",
                f"{path.name} has no {kind[:-1]} {', '.join(lacking)}; it has {', '.join(sorted(known)) or 'none'}",
                f"Correct django_{kind}.",
            )
        return [known[name] for name in names]


def member_of(lock: Path, project: Path) -> Path:
    """The folder of the package that a uv.lock is wanted for: in a workspace each member has its own."""
    folders = between(project, lock.parent)
    return next((folder for folder in folders if "project" in read(folder / "pyproject.toml")), lock.parent)


def inputs_of(
    path: Path, wish: Wish = Wish(), project: Path | None = None, within: tuple[Path, ...] = ()
) -> list[str] | None:
    """What the files say that decides what is installed; None when something else does too, such as a local folder."""
    if is_package(path) or path in within or not path.is_file():
        return None
    texts = [requirements_of(path, wish) or path.read_text(errors="replace")]
    if path.name == "uv.lock":
        texts.append((member_of(path, project or path.parent) / "pyproject.toml").read_text(errors="replace"))
    for name in [] if path.name == "uv.lock" else INCLUDED.findall(texts[0]):
        more = inputs_of(path.parent / name, Wish(), project, (*within, path))
        if more is None:
            return None
        texts += more
    return None if any(MOVING.search(text) for text in texts) else texts


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


def _pyproject(facts: dict, wish: Wish, path: Path):
    project, groups = facts["project"], facts.get("dependency-groups", {})
    extras = []
    if "optional-dependencies" not in project.get("dynamic", []):
        extras = wish.of("extras", project.get("optional-dependencies", {}), path)
    if is_package(path):
        yield f"-e {path.parent}" + (f"[{','.join(wish.extras)}]" if wish.extras else "")
    else:
        for lines in (project.get("dependencies", []), *extras):
            yield from lines
    for group in wish.groups:
        yield from _group(group, groups, path)


def _group(name: str, groups: dict, path: Path, within: tuple[str, ...] = ()):
    [lines] = Wish(groups=(name,)).of("groups", groups, path)
    for line in lines:
        if not isinstance(line, dict):
            yield line
        elif line.get("include-group") not in (None, name, *within):
            yield from _group(line["include-group"], groups, path, (*within, name))


def _poetry(lock: dict, wish: Wish, path: Path):
    """The main group of a poetry.lock and those wanted; one older than Poetry 2 knows no groups, then everything."""
    packages = lock.get("package", [])
    known = {group: group for package in packages for group in package.get("groups", [])}
    groups = {"main", *wish.of("groups", known, path)}
    wish.of("extras", lock.get("extras", {}), path)
    yield from _indexes(
        package["source"]["url"] for package in packages if package.get("source", {}).get("type") == "legacy"
    )
    for package in packages:
        belongs = sorted(groups.intersection(package.get("groups", ["main"])))
        if not belongs:
            continue
        markers = package.get("markers", "")
        if isinstance(markers, dict):
            # Each group has its own; where one has none, it is always wanted.
            each = [markers.get(group, "") for group in belongs]
            markers = " or ".join(f"({one})" for one in each) if all(each) else ""
        if package.get("optional") and "groups" in package:
            asked = re.findall(r"""extra == ["']([\w.-]+)["']""", markers)
            if not set(asked).intersection(wish.extras):
                continue
        # No installer is told of extras by a file of requirements.
        markers = re.sub(
            r"""extra == ["']([\w.-]+)["']""",
            lambda extra: f'python_version {">=" if extra[1] in wish.extras else "<"} "3"',
            markers,
        )
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
        if "git" in package:
            yield _line(f"{name}{extras}", f" @ git+{package['git']}@{package['ref']}", markers, [])
        elif "path" in package or "file" in package:
            yield package.get("path") or package["file"]
        else:
            yield _line(f"{name}{extras}", package["version"], markers, package.get("hashes", []))
