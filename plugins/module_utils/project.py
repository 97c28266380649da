# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read a Django project without running it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError

#: The database as `startproject` writes it, which no variable of the environment can change.
SQLITE = re.compile(r"""["']django\.db\.backends\.sqlite3["']""")
#: Code that can set another database: it reads the environment or a file, or imports a module that startproject
#: does not.
CONFIGURABLE = re.compile(
    r"""(?i)env|postgres|open\(|read_text|globals\(|DATABASES\[
    |^\s*(?:from|import)\s+(?!(?:__future__|pathlib|os|sys|re|datetime|logging|warnings|django)\b)""",
    re.MULTILINE | re.VERBOSE,
)


#: Advice for a project that is deployed as it is.
OWN_SETTINGS = (
    "without a change to the project, add settings that read the environment by django_files"
    " (docs/project.md#a-project-whose-settings-read-nothing)"
)


def find_project(top: Path, subdirectory: str) -> Path:
    """Return the folder of manage.py: the selected one, else the top, else the only folder below that has it."""
    found = [top / subdirectory] if (top / subdirectory / "manage.py").is_file() else []
    if not subdirectory and not found:
        found = sorted(path.parent for path in top.glob("*/manage.py"))
    if len(found) == 1:
        return found[0]
    deeper = [] if found else [path.parent.relative_to(top) for path in top.glob("**/manage.py")]
    deeper = sorted(str(path) for path in deeper if not re.search(r"(^|/)(\.|node_modules|site-packages)", str(path)))
    where = f"in {subdirectory}" if subdirectory else "at the top of the source or one folder below it"
    if found:
        cause = f"manage.py is in several folders: {', '.join(path.name for path in found)}"
    else:
        cause = f"there is no manage.py {where}" + (f", but in {', '.join(deeper)}" if deeper else "")
    raise StepError("source", cause, "Set django_subdirectory to the folder that has it.")


def settings_of(project: Path, option: str) -> str:
    """Return the settings module: the selected one, else that of manage.py."""
    manage = re.sub(r"(?m)^\s*#.*$", "", (project / "manage.py").read_text(errors="replace"))
    named = re.findall(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""", manage)
    # Some projects name a settings module for tests first.
    named.sort(key=lambda module: "test" not in module.rpartition(".")[2])
    if not (option or named):
        raise StepError("source", "manage.py does not name a settings module", "Set django_settings_module.")
    return option or named[-1]


def others(project: Path, module: str) -> str:
    """Return the other modules of a package of settings, for a message; empty where the settings are one file."""
    package, _dot, name = module.rpartition(".")
    folder = project.joinpath(*package.split("."))
    if "settings" not in package:
        return ""
    found = sorted(file.stem for file in folder.glob("*.py") if file.stem not in ("__init__", name))
    return f" ({', '.join(f'{package}.{each}' for each in found)})" if found else ""


def refuse_settings(project: Path, module: str, files: set[Path]) -> None:
    """Refuse settings that are missing or support only SQLite; the build adds `files` later."""
    path = project.joinpath(*module.split("."))
    package = project / module.split(".")[0]
    if not package.is_dir():
        # The module can be in a package, or in a folder that manage.py adds to the path.
        return
    places = [path.with_suffix(".py"), path / "__init__.py"]
    if not any(place.is_file() or place in files for place in places):
        beside = sorted(file.stem for file in path.parent.glob("*.py"))
        near = difflib.get_close_matches(path.name, beside, 1)
        meant = f", such as {'.'.join([*module.split('.')[:-1], near[0]])}" if near else ""
        raise StepError(
            "source",
            f"the settings module {module} is not in the source",
            f"Set django_settings_module to one that is{meant}.",
        )
    texts = "".join(file.read_text(errors="replace") for file in places if file.is_file())
    if SQLITE.search(texts) and not CONFIGURABLE.search(texts):
        raise StepError(
            "source",
            f"{module} knows no database but SQLite, where rows would be lost",
            "Let it read DATABASE_URL, as by dj_database_url.config(conn_max_age=60, conn_health_checks=True), or set"
            f" django_settings_module to the settings for production{others(project, module)}; or {OWN_SETTINGS}.",
        )
