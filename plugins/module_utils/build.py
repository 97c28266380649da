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

#: Findings of `check --deploy` that the web server in front makes up for.
IGNORED_CHECKS = {"security.W004", "security.W005", "security.W008", "security.W021"}


class Build(Workspace):
    """A release in the making."""

    def __init__(self, module: AnsibleModule, site: Site, release: str, fingerprint: str) -> None:
        super().__init__(site, release, module.params)
        self.module = module
        self.release = release
        self.fingerprint = fingerprint
        #: What tells the installed packages from others, once all are there and another build may share them.
        self.packages = ""
        self.application = self.options["application"]
        #: The lines of the environment that the inventory does not give.
        self.generated = ""
        #: The folder of the static files, where the web server serves them.
        self.static_root: Path | None = None
        #: The migrations of the project, and whether the database may lack some of them.
        self.migrations: list = []
        self.pending = False
        #: Whether the checks have to run again after the migrations.
        self.unchecked = False

    def run(self) -> None:
        """Build the release; of one that fails at most the packages stay."""
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
        # The release itself stays root's, so that the project's code can write within these three only.
        for folder in (self.code, self.venv, self.static):
            folder.mkdir(mode=0o755)
            shutil.chown(folder, self.options["user"], self.options["user"])
        lines = (f"{name}={quote_value(value)}\n" for name, value in merge_network_environment(self.options).items())
        write_file(self.build_environment, "".join(lines), 0o600)
        if key := self.options["git_key"].strip():
            # ssh reads no key whose last line has no end.
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
        # The unit of any release finds its working directory under one name.
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
        # Of a name given twice systemd takes the last: the inventory's lines come after the generated ones.
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
                # env looks for the program where the command does.
                self.run_sandboxed("build", "env", *shlex.split(command), as_project=True)
            except StepError as error:
                raise StepError("build", f"{command}:\n{error.cause}", error.advice, details=error.details) from None

    def _examine(self) -> None:
        """Collect and check; refuse settings under which the site would be unsafe, lose data or serve no assets."""
        arguments = {name: self.options[name] for name in ("host", "check_level", "collectstatic")}
        arguments["path"] = os.path.realpath(self.path)
        argv = [self.options["manage"], f"--release={self.release}", f"--writable={self.path}"]
        try:
            facts, output = ask_project("settings", argv, scripts.examine, arguments)
        except StepError as error:
            facts = parse_answers(error.output)
            self._check_settings(facts)
            # The output before the last answer is of an earlier step.
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
        """Refuse by one message all that the settings have to change; None where they could not be read."""
        if "module" not in facts:
            return None
        settings = Settings(facts, self.options, self.code, self.project, self.static, self.site.home / "shared")
        if findings := settings.findings():
            raise StepError("settings", f"{facts['module']}:\n" + "\n".join(f"- {finding}" for finding in findings))
        return settings

    def _guess_application(self) -> str:
        files = sorted(self.project.glob("*/wsgi.py"))
        if len(files) != 1:
            raise StepError(
                "settings", "WSGI_APPLICATION is not set", "Set django_application, such as shop.wsgi:application."
            )
        return f"{files[0].parent.name}.wsgi.application"

    def _seal(self) -> None:
        """Take the release from the site's user, and mark it complete as the very last step."""
        # A file that does not compile may be a template; the check has imported the modules that matter.
        self.run_sandboxed(
            "compile", "sh", "-c", f"{self.venv}/bin/python -I -S -m compileall -q {self.code} >&2 || true"
        )
        self.build_environment.unlink()
        self.git_key.unlink(missing_ok=True)
        self.protect(self.code)
        give_to_root(self.static, "root", public=True)
        # From here on the project's code can change none of these files.
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
        """Remove what a failed build leaves, except its packages: the next build shares them."""
        if self.packages:
            # A full disk must not hide why the build failed.
            with contextlib.suppress(OSError, StepError):
                for entry in self.path.iterdir():
                    if entry != self.venv:
                        remove_tree(entry)
                write_file(self.path / PACKAGES_MARKER, self.packages)
                return
        self._remove()

    def _remove(self) -> None:
        """Remove the release; the next build removes what is left now, and reports it if it cannot."""
        with contextlib.suppress(OSError, StepError):
            remove_tree(self.path)


def end_builds(user: str) -> None:
    """End what a run that died still builds."""
    subprocess.run(["systemctl", "stop", f"{user}-build-*.service"], capture_output=True, check=False)


def remove_incomplete_releases(site: Site, next_release: str | None) -> list[str]:
    """Remove what builds that died or failed have left, except the packages of the last one that failed.

    Returns a line for each one that could not be removed.
    """
    kept = {site.live, *[name for name in list_failed_builds(site) if name != next_release][-1:]}
    names = [entry.name for entry in site.releases.iterdir()] if site.releases.is_dir() else []
    warnings = [site.discard(name) for name in names if site.facts(name) is None and name not in kept]
    return [line for line in warnings if line]
