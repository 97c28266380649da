#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Build a release of a Django project, whole and beside the one that serves
version_added: 1.0.0
description:
  - Packs the source on the controller, and on the host makes one folder that holds all that the release needs,
    its code, its virtual environment, its static files and its environment.
  - The site is not touched. C(current) stays where it is, and a build that fails leaves nothing behind.
  - A release is known by what went into it. When a whole release of the same source, environment, installer and
    configuration is on the host already, that one is the answer and nothing changes.
  - Code of the project and of its packages runs as O(user) in a sandbox, never as root.
options:
  source:
    description:
      - Folder or C(.tar.gz) on the controller. Of a git work tree, what git does not ignore is taken, committed or not.
      - A C(.tar.gz) with one folder at its top is taken without that folder.
    type: path
    required: true
  digest:
    description: Digest of the packed source. The action plugin computes it.
    type: str
  archive:
    description: The packed source on the host. The action plugin brings it when it is needed.
    type: path
  home:
    description: Folder of the site on the host. It has to exist; C(releases/) and C(static/) are made in it.
    type: path
    required: true
  id:
    description: Name of a new release, digits and letters that sort by time. By default the time in UTC.
    type: str
  version:
    description: What people call this version, kept with the release.
    type: str
    default: ""
  user:
    description: System user the site runs as.
    type: str
    required: true
  manage:
    description: Program that runs C(manage.py) of a release as the site does, called with C(--release ID).
    type: path
    required: true
  env_file:
    description: Environment of the site in the format of systemd's C(EnvironmentFile). Each release keeps a copy.
    type: path
    required: true
  secret_key_file:
    description: File with the site's secret key. It is made when it is missing, and kept.
    type: path
    required: true
  copies:
    description: Further files that each release keeps a copy of.
    type: list
    elements: path
    default: []
  depends_on:
    description: Files that are shared by all releases, but a change of which makes a new release.
    type: list
    elements: path
    default: []
  media:
    description: Folder of the uploads, shared by all releases.
    type: path
    required: true
  python:
    description: Interpreter the virtual environment is made with.
    type: path
    default: /usr/bin/python3
  installer:
    description: What installs the packages. V(pip) cannot read C(uv.lock).
    type: str
    choices: [uv, pip]
    default: uv
  uv:
    description: The pinned uv as a line of a requirements file with its hashes. With V(pip) it is not used.
    type: str
    default: ""
  requirements:
    description:
      - Requirements file inside the source, such as V(requirements/production.txt).
      - By default the first of C(uv.lock), C(poetry.lock), C(Pipfile.lock), C(requirements.txt), C(pyproject.toml).
    type: str
    default: ""
  packages:
    description: Packages the stack needs, each as C(name==version), installed when the project does not bring them.
    type: list
    elements: str
    default: []
  subdirectory:
    description: Folder of C(manage.py) inside the source. By default the top, or the one folder below it that has it.
    type: str
    default: ""
  settings_module:
    description: By default what C(manage.py) names.
    type: str
    default: ""
  application:
    description: WSGI or ASGI application as C(module:name). By default what C(WSGI_APPLICATION) of the settings names.
    type: str
    default: ""
  static_url:
    description: Path under which the web server serves the static files.
    type: str
    default: /static/
  media_url:
    description: Path under which the web server serves the uploads.
    type: str
    default: /media/
  check_level:
    description: Level from which on a finding of C(manage.py check --deploy) fails the release.
    type: str
    choices: [WARNING, ERROR, CRITICAL]
    default: ERROR
attributes:
  check_mode:
    support: full
    description: Tells whether a release would be made.
  diff_mode:
    support: full
    description: Shows the version that is live and the one that would follow.
author:
  - the django_vps.stack authors
"""

EXAMPLES = r"""
- name: Build the release
  django_vps.stack.release:
    source: ~/shop
    home: /srv/shop
    user: shop
    manage: /usr/local/sbin/shop-manage
    env_file: /etc/shop/env
    secret_key_file: /etc/shop/secret_key
    media: /srv/shop/media
    installer: pip
"""

RETURN = r"""
release:
  description: Id of the release.
  returned: always
  type: str
  sample: 20261121T081500Z
live:
  description: Id of the release that C(current) names, empty before the first.
  returned: always
  type: str
"""

import glob
import grp
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    find_requirements,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.site import (
    MARKER,
    Site,
    StepError,
    only_one,
    point,
    run,
    write_file,
)

UV_HOME = Path("/usr/local/lib/django_vps")

# What a build may do: write its own folder and the site's cache, and reach the network for packages.
SANDBOX = (
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "RestrictSUIDSGID=yes",
    "UMask=0027",
)

# Asked of the project under its production environment, in its own process.
PROBE = """
import json
from django.conf import settings
database = settings.DATABASES.get("default", {})
print()
print(json.dumps({
    "debug": bool(settings.DEBUG),
    "application": settings.WSGI_APPLICATION,
    "engine": database.get("ENGINE", ""),
    "database": str(database.get("NAME", "")),
    "collects": "django.contrib.staticfiles" in settings.INSTALLED_APPS,
    "static_url": settings.STATIC_URL,
    "static_root": str(settings.STATIC_ROOT or ""),
    "media_url": settings.MEDIA_URL,
    "media_root": str(settings.MEDIA_ROOT or ""),
}))
"""

# What people most often have to do when an installer gives up.
INSTALL_ADVICE = (
    (
        r"pg_config",
        "psycopg2 is being compiled: require psycopg2-binary or psycopg[binary] instead.",
    ),
    (
        r"gcc|cc1|compiler|Python\.h",
        "A package is being compiled: name what it needs in django_system_packages.",
    ),
    (
        r"(?i)hash(es)? mismatch|do not match the hashes",
        "A package is not the one that was locked: lock again, or ask why.",
    ),
    (
        r"(?i)dns error|connect(ion)? error|timed out|unreachable|refused",
        "The package index does not answer from the host.",
    ),
    (
        r"(?i)requires-python|requires python|requires a different python",
        "The project asks for another Python than the host has.",
    ),
)


class Build:
    """One release in the making."""

    def __init__(self, module: AnsibleModule, site: Site, fingerprint: str) -> None:
        self.module = module
        self.options = module.params
        self.site = site
        self.fingerprint = fingerprint
        self.id = self.options["id"] or self._next_id()
        self.path = site.releases / self.id
        self.code = self.path / "code"
        self.project = self.code
        self.venv = self.path / "venv"
        self.static = self.path / "static"
        self.cache = Path("/var/cache") / self.options["user"]
        self.application = self.options["application"]

    def _next_id(self) -> str:
        now = time.time()
        while (self.site.releases / (name := time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)))).exists():
            now += 1
        return name

    def make(self) -> None:
        try:
            self._lay_out()
            self._extract()
            self._find_project()
            self._write_environment()
            self._install()
            self._examine()
            self._collect()
            self._check()
            self._seal()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def sandboxed(self, step: str, *argv: str, **options) -> str:
        """Run a program as the site's user that can write nothing but this release and the cache."""
        environment = {
            "HOME": self.cache,
            "UV_CACHE_DIR": self.cache / "uv",
            "UV_LINK_MODE": "copy",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_NO_CONFIG": "1",
            "UV_PROJECT_ENVIRONMENT": self.venv,
            "PIP_CACHE_DIR": self.cache / "pip",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # Debian's store is what the administrator trusts; both installers bring stores of their own.
            "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
            "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
        }
        user = self.options["user"]
        properties = (
            *SANDBOX,
            f"User={user}",
            f"Group={user}",
            f"CacheDirectory={user}",
            f"ReadWritePaths={self.path}",
        )
        return run(
            step,
            [
                *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"),
                *(f"--property={line}" for line in properties),
                *(f"--setenv={name}={value}" for name, value in environment.items()),
                f"--working-directory={self.project if self.project.is_dir() else self.path}",
                # systemd would expand variables in the arguments.
                *(word.replace("$", "$$") for word in argv),
            ],
            **options,
        )

    def manage(self, step: str, *argv: str, advice: str = "") -> str:
        writable = f"--writable={self.path}"
        return run(step, [self.options["manage"], f"--release={self.id}", writable, *argv], advice=advice)

    def _lay_out(self) -> None:
        self.path.mkdir(mode=0o755, parents=True)
        for folder in (self.code, self.static):
            folder.mkdir(mode=0o755)
        for folder in (self.path, self.code, self.static):
            shutil.chown(folder, self.options["user"], self.options["user"])

    def _extract(self) -> None:
        with open(self.options["archive"], "rb") as archive:
            self.sandboxed(
                "extract",
                "tar",
                "-xzf",
                "-",
                "-C",
                str(self.code),
                "--no-same-owner",
                stdin=archive,
            )

    def _find_project(self) -> None:
        wanted = self.options["subdirectory"]
        found = [path for path in (self.code / wanted / "manage.py",) if path.is_file()]
        if not wanted and not found:
            found = sorted(self.code.glob("*/manage.py"))
        if len(found) != 1:
            folders = ", ".join(path.parent.name for path in found)
            where = f"in {wanted}" if wanted else "at the top of the source or one folder below it"
            raise StepError(
                "source",
                f"manage.py is in several folders: {folders}" if found else f"there is no manage.py {where}",
                "Set django_subdirectory to the folder that has it.",
            )
        self.project = found[0].parent
        # The unit of any release finds its working directory under one name.
        point(self.path / "project", os.path.relpath(self.project, self.path))

    def _write_environment(self) -> None:
        manage = (self.project / "manage.py").read_text(errors="replace")
        named = re.search(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""", manage)
        settings = self.options["settings_module"] or (named and named.group(1))
        if not settings:
            raise StepError("source", "manage.py does not name a settings module", "Set django_settings_module.")
        key = secret_key(Path(self.options["secret_key_file"]))
        facts = {
            "SECRET_KEY": key,
            "DJANGO_SECRET_KEY": key,
            "DJANGO_SETTINGS_MODULE": settings,
            "RELEASE": self.id,
            "STATIC_ROOT": self.static,
        }
        self.environment = Path(self.options["env_file"]).read_text()
        # Of a name given twice systemd takes the last: what the inventory says comes after what is generated.
        lines = [f'{name}="{value}"\n' for name, value in facts.items()]
        self._save_environment("".join(lines))
        for name in self.options["copies"]:
            shutil.copy(name, self.path)

    def _save_environment(self, generated: str) -> None:
        self.generated = generated
        write_file(self.path / "env", generated + self.environment, 0o600)

    def _install(self) -> None:
        locked = find_requirements(self.project, self.code, self.options["requirements"])
        by_uv = self.options["installer"] == "uv"
        if by_uv:
            uv = str(self._uv())
            self.sandboxed(
                "install",
                uv,
                "venv",
                "--no-project",
                "--python",
                self.options["python"],
                str(self.venv),
            )
            installer = [
                uv,
                "pip",
                "install",
                "--compile-bytecode",
                "--python",
                str(self.venv / "bin/python"),
            ]
        else:
            self.sandboxed("install", self.options["python"], "-m", "venv", str(self.venv))
            installer = [str(self.venv / "bin/python"), "-m", "pip", "install", "--no-input"]
        try:
            if locked.name == "uv.lock":
                if not by_uv:
                    raise StepError("install", "pip cannot read uv.lock", "Set django_installer to uv.")
                python = ["--python", self.options["python"], "--directory", str(locked.parent)]
                self.sandboxed("install", uv, "sync", "--frozen", "--no-dev", "--compile-bytecode", *python)
            else:
                self.sandboxed("install", *installer, "-r", str(self._as_requirements(locked)))
            missing = [package for package in self.options["packages"] if not self._has(package)]
            if missing:
                self.sandboxed("install", *installer, *missing)
        except StepError as error:
            for pattern, advice in INSTALL_ADVICE:
                if not error.advice and re.search(pattern, error.cause):
                    raise StepError(error.step, error.cause, advice) from None
            raise

    def _as_requirements(self, locked: Path) -> Path:
        """What both installers can read; a lock file of another tool is written out as requirements."""
        text = requirements_of(locked)
        if text is None:
            return locked
        path = self.path / "requirements.txt"
        write_file(path, text)
        return path

    def _has(self, package: str) -> bool:
        name = re.split(r"[\[=<>~! ]", package)[0].lower().replace("-", "_")
        found = glob.glob(str(self.venv / "lib/python3*/site-packages/*.dist-info"))
        return name in {Path(path).name.split("-")[0].lower() for path in found}

    def _uv(self) -> Path:
        """The pinned uv, one for all sites; its wheel is a program and no more, so pip can unpack it anywhere."""
        line = self.options["uv"]
        path = UV_HOME / line.split()[0].replace("==", "-")
        if path.exists():
            return path
        [pip] = sorted(glob.glob("/usr/share/python-wheels/pip-*.whl"))[-1:] or [None]
        if pip is None:
            raise StepError("install", "Debian's pip wheel is missing", "Install the package python3-pip-whl.")
        UV_HOME.mkdir(parents=True, exist_ok=True)
        scratch = UV_HOME / f".{path.name}.{os.getpid()}"
        try:
            scratch.mkdir()
            (scratch / "uv.txt").write_text(line.replace(" --hash", " \\\n  --hash"))
            run(
                "install uv",
                [
                    *(
                        self.options["python"],
                        f"{pip}/pip",
                        "install",
                        "--quiet",
                        "--require-hashes",
                        "--no-deps",
                    ),
                    *(
                        "--only-binary=:all:",
                        "--no-compile",
                        "--disable-pip-version-check",
                        "--no-cache-dir",
                    ),
                    *("--target", str(scratch / "uv"), "-r", str(scratch / "uv.txt")),
                ],
                advice="uv comes from the package index; django_installer: pip does without it.",
                env={**os.environ, "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"},
            )
            os.replace(scratch / "uv/bin/uv", path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return path

    def _examine(self) -> None:
        """Refuse settings under which the site would be unsafe, lose data or serve no assets."""
        output = self.manage("settings", "shell", "-v", "0", "-c", PROBE, advice="The settings do not load.")
        facts = json.loads(output.strip().splitlines()[-1])
        if facts["debug"]:
            raise StepError(
                "settings",
                "DEBUG is on under DEBUG=False",
                "Read it: DEBUG = os.environ.get('DEBUG') == 'True'.",
            )
        if "sqlite" in facts["engine"] and facts["database"].startswith((str(self.path), str(self.site.current))):
            raise StepError(
                "settings",
                f"the database is {facts['database']}, inside the release: its rows would be gone at the next deploy",
                "Read DATABASE_URL, for example with dj_database_url.config().",
            )
        self._check_url("STATIC_URL", facts["static_url"], "static_url")
        if facts["media_root"]:
            self._check_url("MEDIA_URL", facts["media_url"], "media_url")
            self._share_media(Path(facts["media_root"]))
        self.static_root = self._static_root(facts)
        if not self.application:
            module, _, name = (facts["application"] or self._guess_application()).rpartition(".")
            self.application = f"{module}:{name}"
        self._save_environment(f'{self.generated}APPLICATION="{self.application}"\n')

    def _check_url(self, setting: str, value: str, option: str) -> None:
        wanted = self.options[option]
        if not urlsplit(value).netloc and f"/{value.lstrip('/')}" != wanted:
            raise StepError(
                "settings",
                f"{setting} is {value!r}, but the site serves {wanted!r}",
                f"Set django_{option}: {value!r}.",
            )

    def _share_media(self, root: Path) -> None:
        """Uploads that a project keeps inside its own folder go to the shared one."""
        if not root.is_relative_to(self.code):
            return
        if root.is_dir() and not root.is_symlink() and any(root.iterdir()):
            raise StepError(
                "settings",
                f"MEDIA_ROOT is {root.relative_to(self.code)}, which holds files of the source",
                "Read it: MEDIA_ROOT = os.environ['MEDIA_ROOT'].",
            )
        if root.is_dir() and not root.is_symlink():
            root.rmdir()
        root.parent.mkdir(parents=True, exist_ok=True)
        point(root, self.options["media"])

    def _static_root(self, facts: dict) -> Path | None:
        root = Path(facts["static_root"]) if facts["static_root"] else None
        if not facts["collects"]:
            return None
        if root is None or not root.is_relative_to(self.path):
            raise StepError(
                "settings",
                f"STATIC_ROOT is {str(root or '')!r}, so the static files have no place in the release",
                "Read it: STATIC_ROOT = os.environ['STATIC_ROOT'].",
            )
        return root

    def _guess_application(self) -> str:
        found = sorted(self.project.glob("*/wsgi.py"))
        if len(found) != 1:
            raise StepError(
                "settings",
                "WSGI_APPLICATION is not set",
                "Set django_application, such as shop.wsgi:application.",
            )
        return f"{found[0].parent.name}.wsgi.application"

    def _collect(self) -> None:
        if self.static_root is None:
            return
        self.manage("collectstatic", "collectstatic", "--noinput", "-v", "0")
        if self.static_root != self.static:
            # The project collects into its own folder, where the web server has no business: move it out.
            shutil.rmtree(self.static)
            os.rename(self.static_root, self.static)
            point(self.static_root, os.path.relpath(self.static, self.static_root.parent))
        self._keep_hashed_assets()

    def _keep_hashed_assets(self) -> None:
        """Put the assets whose name says what they hold where they outlive this release."""
        try:
            names = json.loads((self.static / "staticfiles.json").read_text())["paths"].values()
        except (OSError, ValueError, KeyError):
            return
        for name in names:
            kept = self.site.home / "static" / name
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.static / name, kept.with_name(f".{kept.name}.new"))
                os.replace(kept.with_name(f".{kept.name}.new"), kept)

    def _check(self) -> None:
        level = self.options["check_level"]
        report = run(
            "check",
            [
                self.options["manage"],
                f"--release={self.id}",
                "check",
                "--deploy",
                "--fail-level",
                level,
                "--no-color",
            ],
        )
        findings = re.findall(r"^\?: \((\S+)\) (.*)$", report, re.MULTILINE)
        for finding, text in findings:
            self.module.warn(f"manage.py check --deploy: {finding}: {text}")

    def _seal(self) -> None:
        """Take the release from the site's user, and mark it whole as the very last step."""
        # A file that does not compile may be a template of somebody's; what matters was imported by the check.
        self.sandboxed(
            "compile",
            "sh",
            "-c",
            f"{self.venv}/bin/python -m compileall -q {self.code} >&2 || true",
        )
        group = self.options["user"]
        for folder in (self.code, self.venv):
            take(folder, group)
            folder.chmod(0o750)
        take(self.static, "root", public=True)
        shutil.chown(self.path, "root", "root")
        facts = {
            "version": self.options["version"],
            "fingerprint": self.fingerprint,
            "application": self.application,
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        os.sync()
        write_file(self.path / MARKER, json.dumps(facts, indent=2) + "\n")


def take(folder: Path, group: str, public: bool = False) -> None:
    """Make a tree root's; a link is changed itself, never what it names. The web server reads what is public."""
    gid = grp.getgrnam(group).gr_gid
    for base, folders, files in os.walk(folder):
        os.lchown(base, 0, gid)
        if public:
            os.chmod(base, 0o755)
        for path in (Path(base, name) for name in folders + files):
            if path.is_symlink() or not path.is_dir():
                os.lchown(path, 0, gid)
            if public and path.is_file() and not path.is_symlink():
                path.chmod(0o644)


def secret_key(path: Path) -> str:
    """The site's secret key, made once and kept."""
    if not path.exists():
        write_file(path, secrets.token_urlsafe(48) + "\n", 0o600)
    return path.read_text().strip()


def fingerprint_of(options: dict) -> str:
    """What a release is known by: everything that goes into it."""
    known = {
        name: options[name]
        for name in (
            *("digest", "user", "python", "installer", "requirements", "packages", "subdirectory"),
            *("settings_module", "application", "static_url", "media_url", "media"),
        )
    }
    for path in (
        options["env_file"],
        options["secret_key_file"],
        *options["copies"],
        *options["depends_on"],
    ):
        try:
            known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except FileNotFoundError:
            known[path] = None
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def remove_halves(site: Site) -> None:
    """Remove what a run that died left half made."""
    for entry in site.releases.iterdir() if site.releases.is_dir() else ():
        if site.facts(entry.name) is None and entry.name != site.live:
            shutil.rmtree(entry)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "digest": {"type": "str"},
            "archive": {"type": "path"},
            "home": {"type": "path", "required": True},
            "id": {"type": "str"},
            "version": {"type": "str", "default": ""},
            "user": {"type": "str", "required": True},
            "manage": {"type": "path", "required": True},
            "env_file": {"type": "path", "required": True},
            "secret_key_file": {"type": "path", "required": True, "no_log": False},
            "copies": {"type": "list", "elements": "path", "default": []},
            "depends_on": {"type": "list", "elements": "path", "default": []},
            "media": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "installer": {"type": "str", "choices": ["uv", "pip"], "default": "uv"},
            "uv": {"type": "str", "default": ""},
            "requirements": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "default": []},
            "subdirectory": {"type": "str", "default": ""},
            "settings_module": {"type": "str", "default": ""},
            "application": {"type": "str", "default": ""},
            "static_url": {"type": "str", "default": "/static/"},
            "media_url": {"type": "str", "default": "/media/"},
            "check_level": {
                "type": "str",
                "choices": ["WARNING", "ERROR", "CRITICAL"],
                "default": "ERROR",
            },
        },
        supports_check_mode=True,
    )
    options = module.params
    os.umask(0o022)
    site = Site(options["home"])
    live = site.live or ""

    def before_and_after(after: str) -> dict:
        facts = site.facts(live) or {}
        return {
            "before": f"{live} {facts.get('version', '')}".strip() + "\n",
            "after": f"{after} {options['version']}".strip() + "\n",
        }

    def answer(fingerprint: str) -> str | None:
        same = [name for name in site.whole() if site.facts(name)["fingerprint"] == fingerprint]
        return live if live in same else (same or [None])[-1]

    try:
        if not module.check_mode:
            secret_key(Path(options["secret_key_file"]))
        fingerprint = fingerprint_of(options)
        found = answer(fingerprint)
        if found:
            module.exit_json(changed=False, release=found, live=live)
        if module.check_mode or not options["archive"]:
            module.exit_json(changed=True, release="", live=live, diff=before_and_after("(a new release)"))
        with only_one(site.home):
            remove_halves(site)
            build = Build(module, site, fingerprint)
            build.make()
        module.exit_json(changed=True, release=build.id, live=live, diff=before_and_after(build.id))
    except StepError as error:
        module.fail_json(msg=str(error), step=error.step)


if __name__ == "__main__":
    main()
