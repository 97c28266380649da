# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find the versions of Python that a project requires."""

from __future__ import annotations

import glob
import re
import sys
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.lock_files import read
from ansible_collections.django_vps.stack.plugins.module_utils.poetry import translate_versions
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import list_folders

#: The interpreter of the distribution.
DISTRIBUTION = "/usr/bin/python3"


def debian_pip() -> str:
    """Return the wheel of pip that Debian installs into virtual environments."""
    found = sorted(glob.glob("/usr/share/python-wheels/pip-*.whl"))
    if not found:
        raise StepError("install", "Debian's pip wheel is missing", "Install the package python3-pip-whl.")
    return found[-1]


def wanted(project: Path, top: Path) -> tuple[str, str]:
    """Return the versions that the source requires, as in requires-python, and the file that has them; or empty."""
    for folder in list_folders(project, top):
        pin = folder / ".python-version"
        for line in pin.read_text(errors="replace").splitlines() if pin.is_file() else ():
            # For a patch version, the distribution's build of the same minor version is as good. A line without a
            # version of CPython names a virtual environment.
            version = re.match(r"(?:c?python[@-]?)?(\d+\.\d+)(?:\.\d+)?$", line.strip())
            if version:
                return f"=={version.group(1)}.*", ".python-version"
            if re.match(r"[<>=~!]=?\s*\d", line.strip()):
                return line.strip(), ".python-version"
    for folder in list_folders(project, top):
        facts = read(folder / "pyproject.toml")
        if versions := facts.get("project", {}).get("requires-python"):
            return versions, "requires-python in pyproject.toml"
        versions = facts.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python")
        if isinstance(versions, str) and versions != "*":
            return translate_versions(versions), "tool.poetry.dependencies.python in pyproject.toml"
    for folder in list_folders(project, top):
        requires = read(folder / "Pipfile.lock").get("_meta", {}).get("requires", {})
        runtime = folder / "runtime.txt"
        for version, name in (
            (requires.get("python_full_version") or requires.get("python_version"), "Pipfile.lock"),
            (runtime.read_text(errors="replace") if runtime.is_file() else "", "runtime.txt"),
        ):
            if minor := re.match(r"(?:python-)?(\d+\.\d+)(?:\.(?:\d+|x))?$", (version or "").strip()):
                return f"=={minor[1]}.*", name
    return "", ""


def required(option: str, project: Path, top: Path) -> tuple[str, str]:
    """Return the versions that django_python selects, else those of the source, and where they come from; or empty."""
    if option:
        # As for uv, 3.12 means any version 3.12.
        return (f"=={option}.*" if option[:1].isdigit() else option), "django_python"
    return wanted(project, top)


def explain_misfit(own: str, versions: str, where: str) -> tuple[str, str]:
    """Return the cause and a fix where the Python of the distribution is not one of the required versions."""
    cause = f"{where} asks for Python {versions.removeprefix('==').removesuffix('.*')}, and the host's is {own}"
    return cause, f"set django_python to the path of one that is on the host, or to versions that {own} fits"


def refuse_for_pip(own: str, versions: str, where: str) -> None:
    """Refuse versions that the distribution does not have, because pip cannot fetch another Python."""
    if versions and not fits(own, versions, where):
        cause, way_out = explain_misfit(own, versions, where)
        raise StepError("python", cause, f"Leave out django_installer, as uv fetches one; or {way_out}.")


def fits(version: str, versions: str, where: str) -> bool:
    """Return whether a version is one of the required ones, which come from the file or the variable `where`."""
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
    except ImportError:
        sys.path.append(debian_pip())
        from pip._vendor.packaging.specifiers import InvalidSpecifier, SpecifierSet
    try:
        return SpecifierSet(versions).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        raise StepError("python", f"{where}: {error}", "Write a range such as >=3.11, or set django_python.") from None
