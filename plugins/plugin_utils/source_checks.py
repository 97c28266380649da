# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check the project's source."""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.project import find_project, refuse_settings, settings_of
from ansible_collections.django_vps.stack.plugins.module_utils.python import fits, refuse_for_pip, required, wanted
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    KNOWN,
    Wish,
    find_requirements,
    refuse_indexes_of_uv,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Case, Problem, check_file
from ansible_collections.django_vps.stack.plugins.plugin_utils.private_files import read_head
from ansible_collections.django_vps.stack.plugins.plugin_utils.project_types import ADDRESS
from ansible_collections.django_vps.stack.plugins.plugin_utils.source import (
    UNREADABLE,
    SourceError,
    from_archive,
    is_pointer,
    refuse_pointers,
    selection,
)

#: Files that describe a project, by the end of the name or the complete name.
TEXTS = (".py", ".toml", ".lock", ".txt", ".in", ".cfg", "Pipfile", ".python-version")
#: Address of an archive that is fetched by https; the role django has the same pattern.
ARCHIVE_ADDRESS = r"https://.*\.(tar\.(gz|xz|bz2)|tgz)"


def check_source(case: Case) -> Iterator[Problem]:
    value = case.values.get("django_source")
    if not value or ADDRESS.match(value) or not case.plays("django") or not case.deploys:
        return
    found = case.find_source(value)
    if found.is_dir() or (found.is_file() and found.name.endswith((".tar.gz", ".tgz"))):
        yield from check_found(case, found, str(found))
        return
    what = "expected a folder or a .tar.gz" if found.exists() else f"{found} does not exist on the controller"
    yield Problem("django_source", what, "write https://github.com/me/shop.git, or a folder, or a .tar.gz", value)


def check_source_options(case: Case) -> Iterator[Problem]:
    """Refuse a checksum without an archive, and a key without a repository by SSH."""
    value, checksum = case.values.get("django_source"), case.values.get("django_source_checksum")
    if not value or not case.plays("django") or not case.deploys:
        return
    fetched = re.fullmatch(ARCHIVE_ADDRESS, value)
    if fetched and not checksum:
        what = "is not set, and an archive that is downloaded needs one"
        yield Problem("django_source_checksum", what, "write sha256: and what sha256sum prints of the archive")
    if checksum and not fetched:
        yield Problem("django_source_checksum", "applies only to an archive that is downloaded by https", "remove it")
    key = case.values.get("django_git_key")
    if not key:
        return
    path = Path(key).expanduser()
    if not ADDRESS.match(value) or value.startswith("https:"):
        advice = "remove it, or write django_source as git@host:path"
        yield Problem("django_git_key", "applies only to a repository that is cloned by SSH", advice)
    elif not path.is_file():
        yield from check_file(case, "django_git_key")
    elif path.stat().st_mode & 0o077:
        yield Problem("django_git_key", "is readable by other users, so SSH ignores it", f"chmod 600 {key}", key)
    elif "PRIVATE KEY-----" not in path.read_text(errors="replace")[:200]:
        yield Problem("django_git_key", "expected a private key", "write the path of one without a passphrase", key)


def check_found(case: Case, source: Path, name: str, python_of_host: str = "") -> Iterator[Problem]:
    """Check a folder or an archive on the controller; with `python_of_host` also whether that version suits it."""
    with tempfile.TemporaryDirectory() as folder:
        top = source if source.is_dir() else Path(folder)
        found = list(check_files(case, source, top, name))
        yield from found
        if top == source or not found:
            yield from check_project(case, top, name, python_of_host)


def check_files(case: Case, source: Path, top: Path, name: str) -> Iterator[Problem]:
    """Check that the source can be packed; of an archive, unpack what describes the project into `top`."""
    try:
        if top == source:
            check_folder(case, top)
        else:
            unpack_texts(case, source, top)
    except SourceError as error:
        yield Problem("django_source", f"{name}: {error.cause}", error.advice)
    except UNREADABLE as error:
        what, advice = ("", "correct it there") if top == source else (" cannot be unpacked", "pack it again")
        yield Problem("django_source", f"{name}{what}: {error}", advice)


def check_project(case: Case, top: Path, name: str, python_of_host: str) -> Iterator[Problem]:
    """Check the project as a build does, as far as the controller can; with git, the build may lack some files."""
    values = case.values
    by_pip = values.get("django_installer") == "pip"
    files = {top / name for name in values.get("django_files", ())}
    try:
        project = find_project(top, values.get("django_subdirectory", ""))
        module = settings_of(project, values.get("django_settings_module", ""))
        # A command of the build can write the settings.
        if not values.get("django_build", {}).get("before_collectstatic"):
            refuse_settings(project, module, files)
        python = values.get("django_python", "")
        if not python:
            # Only the host knows its interpreters, but an invalid range is refused here.
            fits("3", *wanted(project, top))
        if python_of_host and by_pip and not python.startswith("/"):
            refuse_for_pip(python_of_host, *required(python, project, top))
        if not any(file.name in (*KNOWN, posixpath.basename(values.get("django_requirements", ""))) for file in files):
            wish = Wish(tuple(values.get("django_groups", ())), tuple(values.get("django_extras", ())))
            requirements = find_requirements(project, top, values.get("django_requirements", ""), wish)
            if by_pip:
                names = ("site_network_environment", "django_build_environment")
                refuse_indexes_of_uv(requirements, top, {key for name in names for key in values.get(name, ())})
            requirements_of(requirements, wish)
    except StepError as error:
        yield Problem(
            "django_source", f"{name}: {error.cause}", error.advice[:1].lower() + error.advice[1:].rstrip(".")
        )


def check_folder(case: Case, top: Path) -> None:
    """Refuse what cannot be packed; of the files only the beginning is read."""
    names = selection(top, case.values.get("django_source_includes", []), [])
    files = case.values.get("django_files", ())
    refuse_pointers(top, [name for name in names if name not in files and is_pointer(read_head(top / name))])


def unpack_texts(case: Case, archive: Path, folder: Path) -> None:
    """Unpack the files that describe the project: its code, settings and requirements."""
    pointers = []
    for info, content in from_archive(archive, case.values.get("django_source_includes", []), []):
        name = PurePosixPath(info.name)
        if content is not None and is_pointer(content) and info.name not in case.values.get("django_files", ()):
            pointers.append(info.name)
        if content is not None and (name.suffix in TEXTS or name.name in TEXTS):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    refuse_pointers(archive, pointers)


def check_pre_migrate_tasks(case: Case) -> Iterator[Problem]:
    if case.values.get("django_pre_migrate_tasks") and case.plays("django"):
        yield from check_file(case, "django_pre_migrate_tasks")


#: The checks in the order of their messages.
CHECKS = (check_source, check_source_options, check_pre_migrate_tasks)
