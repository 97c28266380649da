# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Install the packages of a release into its virtual environment, or share those of another release."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.advice import find_advice
from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.environment import merge_network_environment
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file
from ansible_collections.django_vps.stack.plugins.module_utils.poetry import normalise
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    LOCKS,
    Wish,
    find_base,
    find_member,
    find_requirements,
    find_root_package,
    read_inputs,
    read_texts,
    refuse_indexes_of_uv,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.sandbox import Workspace
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site
from ansible_collections.django_vps.stack.plugins.module_utils.uv import install_uv

#: The file that a failed build has in place of a release's MARKER; it contains the fingerprint of its packages.
PACKAGES_MARKER = "packages"

#: An index other than the default, which may have another package under the same name.
INDEX = re.compile(r'^\s*(-i\b|--(extra-)?index-url)|registry = "(?!https://pypi\.org/)', re.MULTILINE)


def list_failed_builds(site: Site) -> list[str]:
    """Return the ids of the failed builds whose packages are kept, oldest first."""
    return sorted(path.parent.name for path in site.releases.glob(f"*/{PACKAGES_MARKER}"))


class Packages:
    """The packages of one release."""

    def __init__(self, workspace: Workspace, python: str) -> None:
        self.workspace = workspace
        self.options = workspace.options
        self.venv = workspace.venv
        self.python = python
        self.wish = Wish(tuple(self.options["groups"]), tuple(self.options["extras"]))
        #: Identifies the set of packages; empty when no other release can share it.
        self.fingerprint = ""
        #: Whether packages come from indexes of the project's own.
        self.has_indexes = False

    @property
    def by_uv(self) -> bool:
        return self.options["installer"] == "uv"

    @functools.cached_property
    def _uv(self) -> str:
        return str(install_uv(self.options))

    def install(self) -> None:
        """Install the requirements of the project, then the packages of the stack that they do not include."""
        project, code = self.workspace.project, self.workspace.code
        locked = find_requirements(project, code, self.options["requirements"], self.wish)
        if not self.by_uv:
            refuse_indexes_of_uv(locked, code, merge_network_environment(self.options).keys())
        self.has_indexes = any(text and INDEX.search(text) for text in read_texts(locked, self.wish))
        self.fingerprint = self._compute_fingerprint(locked)
        if self._share_installed():
            return
        installer = self._create_venv()
        self._install_required(locked, installer)
        if root := find_root_package(locked, self.workspace.project):
            self._run(*installer, "--no-deps", "--editable", str(root))
        if self.options["extra_packages"]:
            self._run(*installer, *self.options["extra_packages"])
        if own := [package for package in self.options["packages"] if not self._is_installed(package)]:
            # The project's configuration of uv, such as exclude-newer, must not apply to the stack's packages.
            self._run(*installer, *(["--no-config"] if self.by_uv else []), *own)
        if self._is_bound():
            self.fingerprint = ""
        # Other releases can share the packages, so no command of this release may change them.
        self.workspace.protect(self.venv)

    def _create_venv(self) -> list[str]:
        """Create the virtual environment, and return the command that installs into it."""
        if self.by_uv:
            self._run(self._uv, "venv", "--no-project", "--python", self.python, str(self.venv))
            return [self._uv, "pip", "install", "--compile-bytecode", "--python", str(self.venv / "bin/python")]
        self._run(self.python, "-m", "venv", str(self.venv))
        return [str(self.venv / "bin/python"), "-m", "pip", "install", "--no-input"]

    def _install_required(self, locked: Path, installer: list[str]) -> None:
        project, code = self.workspace.project, self.workspace.code
        if locked.name == "uv.lock":
            if not self.by_uv:
                raise StepError("install", "pip cannot read uv.lock", "Set django_installer to uv.")
            where = ["--python", self.python, "--directory", str(find_member(locked, project))]
            more = [f"--{kind[:-1]}={name}" for kind in ("groups", "extras") for name in self.options[kind]]
            self._run(self._uv, "sync", "--frozen", "--no-dev", "--compile-bytecode", *where, *more)
            return
        requirements = self._write_requirements(locked)
        base = find_base(locked, project, code)
        options = []
        if self.by_uv and locked.name in LOCKS and "--extra-index-url" in requirements.read_text():
            # By default uv takes a package from the first index that has its name, in any version. Here each version
            # is pinned, so the strategy of pip, to search all indexes for the version, is safe.
            options = ["--index-strategy", "unsafe-best-match"]
        self._run("env", f"--chdir={base}", *installer, *options, "-r", str(requirements))
        if requirements != locked:
            # Its addresses can contain credentials.
            requirements.unlink()

    def _run(self, *argv: str) -> None:
        try:
            self.workspace.run_sandboxed("install", *argv)
        except StepError as error:
            failed = re.search(r"Failed to build `([\w.-]+)==", error.output)
            if not self.by_uv or not failed or self.has_indexes:
                raise
            advice = find_advice(f"install: {error.cause}", self._find_wheel(failed[1]))
            raise StepError("install", error.cause, advice, error.output, error.details) from None

    def _find_wheel(self, name: str) -> str:
        """Return the newest version of a package that has a wheel for this Python, such as lxml==6.1.3."""
        where = ("--python", str(self.venv / "bin/python"))
        argv = (self._uv, "pip", "install", *where, "--dry-run", "--no-deps", "--only-binary", name, name)
        with contextlib.suppress(StepError):
            found = re.search(r"^ \+ (\S+==\S+)$", self.workspace.run_sandboxed("install", *argv), re.MULTILINE)
            return found[1] if found else ""
        return ""

    def _compute_fingerprint(self, locked: Path) -> str:
        """Return a digest that identifies the set of packages; empty when the files do not determine the set."""
        written = read_inputs(locked, self.wish, self.workspace.project)
        if written is None:
            return ""
        names = ("installer", "uv", "packages", "extra_packages", "groups", "extras")
        known = [written, os.path.realpath(self.python), *(self.options[name] for name in names)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _is_bound(self) -> bool:
        """Return whether the virtual environment refers to files of this release, as an editable package (-e) does."""
        named = glob.glob(str(self.venv / "lib/python3*/site-packages/*.pth"))
        named += glob.glob(str(self.venv / "lib/python3*/site-packages/*.dist-info/direct_url.json"))
        files = (Path(name) for name in named if os.path.isfile(name) and not os.path.islink(name))
        return any(str(self.workspace.path) in file.read_text(errors="replace") for file in files)

    def _share_installed(self) -> bool:
        """Share the files of an earlier release with identical packages; root owns them, and they never change."""
        site = self.workspace.site
        releases = {name: site.facts(name).get("packages") for name in site.complete_releases()}
        releases |= {name: (site.releases / name / PACKAGES_MARKER).read_text() for name in list_failed_builds(site)}
        same = [name for name, known in releases.items() if self.fingerprint and known == self.fingerprint]
        if not same or self.options["force"]:
            return False
        earlier = site.releases / same[-1] / "venv"
        if (earlier / "bin").is_symlink():
            # The project's code can have set the target of this link, and root would write to it.
            return False
        self.venv.rmdir()
        run("install", ["cp", "--archive", "--link", str(earlier), str(self.venv)])
        # These files contain the path of their folder.
        for path in [*(self.venv / "bin").iterdir(), self.venv / "pyvenv.cfg"]:
            if path.is_file() and not path.is_symlink() and str(earlier) in (text := path.read_text(errors="replace")):
                mode = path.stat().st_mode & 0o777
                write_file(path, text.replace(str(earlier), str(self.venv)), mode)
                shutil.chown(path, "root", self.options["user"])
        return True

    def _write_requirements(self, locked: Path) -> Path:
        """Return a file that both installers can read; a lock file of another tool is translated to requirements."""
        text = requirements_of(locked, self.wish)
        if text is None:
            return locked
        path = self.workspace.path / "requirements.txt"
        # An address can contain credentials, so only the site's user, as which the installer runs, can read the file.
        write_file(path, text, 0o640)
        shutil.chown(path, group=self.options["user"])
        return path

    def _is_installed(self, package: str) -> bool:
        name = normalise(re.split(r"[\[=<>~! ]", package)[0])
        found = glob.glob(str(self.venv / "lib/python3*/site-packages/*.dist-info"))
        return name in {normalise(Path(path).name.split("-")[0]) for path in found}
