# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build a release, step by step."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils import project_scripts as scripts
from ansible_collections.django_vps.stack.plugins.module_utils.advice import find_advice
from ansible_collections.django_vps.stack.plugins.module_utils.assets import keep_hashed_assets
from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.disk_space import measure_size
from ansible_collections.django_vps.stack.plugins.module_utils.environment import (
    ensure_secret_key,
    merge_network_environment,
    quote_value,
)
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import (
    give_to_root,
    remove_tree,
    replace_link,
    write_file,
)
from ansible_collections.django_vps.stack.plugins.module_utils.interpreter import choose_python
from ansible_collections.django_vps.stack.plugins.module_utils.output import explain
from ansible_collections.django_vps.stack.plugins.module_utils.packages import (
    PACKAGES_MARKER,
    Packages,
    list_failed_builds,
)
from ansible_collections.django_vps.stack.plugins.module_utils.project import find_project, settings_of
from ansible_collections.django_vps.stack.plugins.module_utils.project_shell import ANSWER, ask_project, parse_answers
from ansible_collections.django_vps.stack.plugins.module_utils.sandbox import Workspace
from ansible_collections.django_vps.stack.plugins.module_utils.settings_check import Settings
from ansible_collections.django_vps.stack.plugins.module_utils.shared_folders import link_shared_paths, move_media
from ansible_collections.django_vps.stack.plugins.module_utils.site import MARKER, Site
from ansible_collections.django_vps.stack.plugins.module_utils.static_files import (
    compress_static_files,
    move_static_files,
)

#: Findings of `check --deploy` about protections that nginx provides.
IGNORED_CHECKS = {"security.W004", "security.W005", "security.W008", "security.W021"}


class Build(Workspace):
    """An incomplete release, and the steps that complete it."""

    def __init__(self, module: AnsibleModule, site: Site, release: str, fingerprint: str) -> None:
        super().__init__(site, release, module.params)
        self.module = module
        self.release = release
        self.fingerprint = fingerprint
        #: The fingerprint of the installed packages, once they are complete and another build can share them.
        self.packages = ""
        self.application = self.options["application"]
        #: The lines of the environment that do not come from the inventory.
        self.generated = ""
        #: The folder of the static files, where nginx serves them.
        self.static_root: Path | None = None
        #: The migrations of the project, and whether some may not be applied yet.
        self.migrations: list = []
        self.pending = False
        #: Whether the checks must run again after the migrations.
        self.unchecked = False

    def run(self) -> None:
        """Build the release; when the build fails, at most its packages are kept."""
        try:
            self._lay_out()
            self._extract()
            self._find_project()
            self._write_environment()
            packages = Packages(self, choose_python(self))
            packages.install()
            self.packages = packages.fingerprint
            link_shared_paths(self)
            self._run_commands("before_collectstatic")
            self._examine()
            self._run_commands("after_collectstatic")
            if self.static_root:
                move_static_files(self, self.static_root)
            compress_static_files(self)
            self._seal()
        except StepError as error:
            self._keep_packages()
            advice = error.advice or find_advice(f"{error.step}: {error.cause}")
            raise StepError(error.step, error.cause, advice, details=error.details) from None
        except BaseException as error:
            self._remove()
            if isinstance(error, RecursionError) or getattr(error, "errno", None) == errno.ENAMETOOLONG:
                raise StepError(
                    "build",
                    f"folders are nested so deep in {self.path} that what is in them cannot be named",
                    "See what the project makes as it is imported or collected, and the commands of django_build.",
                ) from None
            raise

    def _lay_out(self) -> None:
        self.path.mkdir(mode=0o755, parents=True)
        # root owns the release itself, so that the project's code can write only in these three folders.
        for folder in (self.code, self.venv, self.static):
            folder.mkdir(mode=0o755)
            shutil.chown(folder, self.options["user"], self.options["user"])
        lines = (f"{name}={quote_value(value)}\n" for name, value in merge_network_environment(self.options).items())
        write_file(self.build_environment, "".join(lines), 0o600)
        if key := self.options["git_key"].strip():
            # ssh refuses a key without a newline at the end.
            write_file(self.git_key, f"{key}\n", 0o600)
            shutil.chown(self.git_key, self.options["user"], self.options["user"])

    def _extract(self) -> None:
        with tempfile.TemporaryFile(dir=self.path) as archive:
            if self.options["content"]:
                archive.write(base64.b64decode(self.options["content"]))
            else:
                with open(self.options["archive"], "rb") as sent:
                    shutil.copyfileobj(sent, archive)
            archive.seek(0)
            self.run_sandboxed("extract", "tar", "-xzf", "-", "-C", str(self.code), "--no-same-owner", stdin=archive)

    def _find_project(self) -> None:
        self.project = find_project(self.code, self.options["subdirectory"])
        # The template unit needs the same path of the working directory in each release.
        replace_link(self.path / "project", os.path.relpath(self.project, self.path))

    def _write_environment(self) -> None:
        settings = settings_of(self.project, self.options["settings_module"])
        key = ensure_secret_key(Path(self.options["secret_key_file"]))
        facts = {
            "SECRET_KEY": key,
            "DJANGO_SECRET_KEY": key,
            "DJANGO_SETTINGS_MODULE": settings,
            "RELEASE": self.release,
            "STATIC_ROOT": self.static,
        }
        # systemd uses the last of two lines with one name, so the inventory's lines come after the generated ones.
        lines = [f"{name}={quote_value(str(value))}\n" for name, value in facts.items()]
        self._save_environment("".join(lines))
        for name in self.options["copies"]:
            shutil.copy(name, self.path)

    def _save_environment(self, generated: str) -> None:
        self.generated = generated
        write_file(self.path / "env", generated + self.options["environment"], 0o600)

    def _run_commands(self, when: str) -> None:
        for command in self.options[when]:
            try:
                # env searches for the program in the PATH that the command runs with.
                self.run_sandboxed("build", "env", *shlex.split(command), as_project=True)
            except StepError as error:
                raise StepError("build", f"{command}:\n{error.cause}", error.advice, details=error.details) from None

    def _examine(self) -> None:
        """Collect the static files and run the checks; refuse settings that are unsafe, lose data or miss assets."""
        arguments = {name: self.options[name] for name in ("host", "check_level", "collectstatic")}
        arguments["path"] = os.path.realpath(self.path)
        argv = [self.options["manage"], f"--release={self.release}", f"--writable={self.path}"]
        try:
            facts, output = ask_project("settings", argv, scripts.examine, arguments)
        except StepError as error:
            facts = parse_answers(error.output)
            self._check_settings(facts)
            # The output before the last answer comes from an earlier step.
            last = error.output.rpartition(f"\n{ANSWER} ")[2].partition("\n")[2] if facts else error.output
            cause, details = explain(last)
            raise StepError(
                facts.get("step", "settings"), cause or error.cause, error.advice, details=details
            ) from None
        if facts["key"]:
            again, _output = ask_project("settings", argv, scripts.secret_key, {})
            facts["changing_key"] = again["key"] != facts["key"]
        settings = self._check_settings(facts)
        self.static_root = settings.static_root if settings.serves_static else None
        if settings.media_inside:
            move_media(self, settings.media_inside)
        for finding, text in re.findall(r"^\?: \((\S+)\) (.*)$", output, re.MULTILINE):
            if finding not in IGNORED_CHECKS:
                self.module.warn(f"manage.py check --deploy: {finding}: {text}")
        if not self.application:
            module, _dot, name = (facts["application"] or self._guess_application()).rpartition(".")
            self.application = f"{module}:{name}"
        for warning in settings.warnings(self.application):
            self.module.warn(warning)
        self._save_environment(f"{self.generated}APPLICATION={quote_value(self.application)}\n")
        self.pending, self.migrations = facts["pending"], facts["migrations"]
        self.unchecked = bool(facts["unchecked"])
        if self.unchecked:
            self.module.warn(f"manage.py check --deploy is asked again after the migrations: {facts['unchecked']}")

    def _check_settings(self, facts: dict) -> Settings | None:
        """Report all findings about the settings in one message; None where the settings could not be read."""
        if "module" not in facts:
            return None
        settings = Settings(facts, self.options, self.code, self.project, self.static, self.site.home / "shared")
        if findings := settings.findings():
            lines = "\n".join(f"- {finding}" for finding in findings)
            raise StepError("settings", f"{facts['module']}:\n{lines}", settings.advice)
        return settings

    def _guess_application(self) -> str:
        files = sorted(self.project.glob("*/wsgi.py"))
        if len(files) != 1:
            raise StepError(
                "settings", "WSGI_APPLICATION is not set", "Set django_application, such as shop.wsgi:application."
            )
        return f"{files[0].parent.name}.wsgi.application"

    def _seal(self) -> None:
        """Make root the owner of the release, and mark it complete as the very last step."""
        # A file that does not compile can be a template; the check has imported the modules of the project.
        self.run_sandboxed(
            "compile", "sh", "-c", f"{self.venv}/bin/python -I -S -m compileall -q {self.code} >&2 || true"
        )
        self.build_environment.unlink()
        self.git_key.unlink(missing_ok=True)
        self.protect(self.code)
        give_to_root(self.static, "root", public=True)
        # From now on the project's code cannot change these files.
        for path in self.static.rglob("*"):
            if path.is_symlink():
                raise StepError("collectstatic", f"{path.relative_to(self.static)} is a link", "Collect files only.")
        keep_hashed_assets(self.static, self.site.home / "static")
        facts = {
            "version": self.options["version"],
            "fingerprint": self.fingerprint,
            "application": self.application,
            "migrations": self.migrations,
            "unchecked": self.unchecked,
            "packages": self.packages,
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **measure_size(self.path),
        }
        run("seal", ["sync", "--file-system", str(self.path)])
        write_file(self.path / MARKER, json.dumps(facts, indent=2) + "\n")
        for name in list_failed_builds(self.site):
            if warning := self.site.discard(name):
                self.module.warn(warning)

    def _keep_packages(self) -> None:
        """Remove the files of a failed build except its packages, which the next build shares."""
        if self.packages:
            # A full disk must not hide the cause of the failed build.
            with contextlib.suppress(OSError, StepError):
                for entry in self.path.iterdir():
                    if entry != self.venv:
                        remove_tree(entry)
                write_file(self.path / PACKAGES_MARKER, self.packages)
                return
        self._remove()

    def _remove(self) -> None:
        """Remove the release; the next build removes the files that are left, or reports that it cannot."""
        with contextlib.suppress(OSError, StepError):
            remove_tree(self.path)


def end_builds(user: str) -> None:
    """End the build of an interrupted run that still works."""
    subprocess.run(["systemctl", "stop", f"{user}-build-*.service"], capture_output=True, check=False)


def remove_incomplete_releases(site: Site, next_release: str | None) -> list[str]:
    """Remove the files of interrupted and failed builds, except the packages of the last failed one.

    Returns a line for each build whose files could not be removed.
    """
    kept = {site.live, *[name for name in list_failed_builds(site) if name != next_release][-1:]}
    names = [entry.name for entry in site.releases.iterdir()] if site.releases.is_dir() else []
    warnings = [site.discard(name) for name in names if site.facts(name) is None and name not in kept]
    return [line for line in warnings if line]
