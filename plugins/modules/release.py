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
  host:
    description: Name of the site that its settings have to answer to.
    type: str
    required: true
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
    host: shop.example.com
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
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    find_requirements,
    is_package,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.site import (
    MARKER,
    Site,
    StepError,
    hashed_assets,
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
import json, os
from django.conf import settings
from django.http.request import validate_host
databases = [database for database in settings.DATABASES.values() if "sqlite" in database.get("ENGINE", "")]
print("\\nDJANGO_VPS " + json.dumps({
    "module": settings.SETTINGS_MODULE,
    "debug": bool(settings.DEBUG),
    "key": str(settings.SECRET_KEY)[:16] if settings.SECRET_KEY != os.environ["SECRET_KEY"] else "",
    "answers": validate_host(os.environ["DJANGO_VPS_HOST"], settings.ALLOWED_HOSTS),
    "hosts": list(settings.ALLOWED_HOSTS),
    "application": settings.WSGI_APPLICATION or "",
    "sqlite": [str(database.get("NAME")) for database in databases],
    "collects": "django.contrib.staticfiles" in settings.INSTALLED_APPS,
    "static_url": settings.STATIC_URL or "",
    "static_root": str(settings.STATIC_ROOT or ""),
    "media_url": settings.MEDIA_URL or "",
    "media_root": str(settings.MEDIA_ROOT or ""),
}))
"""

# What people most often have to do when a step gives up, by what it says.
ADVICE = (
    (r"pg_config", "psycopg2 is being compiled: require psycopg2-binary or psycopg[binary] instead."),
    (r"gcc|cc1|compiler|Python\.h", "A package is being compiled: name what it needs in django_system_packages."),
    (r"(?i)git executable not found|cannot find command 'git'", "Name git in django_system_packages."),
    (
        r"(?i)hash(es)? mismatch|do not match the hashes",
        "A package is not the one that was locked: lock again, or ask why.",
    ),
    (
        r"(?i)dns error|connect(ion)? error|timed out|unreachable|refused",
        "The package index does not answer from the host.",
    ),
    (
        r"(?i)requires-python|requires python|a different python",
        "The project asks for another Python than the host has.",
    ),
    (r"Error loading psycopg", "Require psycopg[binary] or psycopg2-binary: the database is PostgreSQL."),
    (r"Read-only file system", "The site writes its uploads and nothing else; log to the console."),
    (r"No module named", "Require the package that has it."),
    (r"KeyError|ImproperlyConfigured", "Give the settings what they miss by django_env."),
)

# Findings of `check --deploy` that the web server in front takes care of.
SEEN_TO = {"security.W004", "security.W005", "security.W008", "security.W021"}

# An empty folder is kept in git by one of these.
PLACEHOLDERS = {".gitkeep", ".gitignore", ".keep"}


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
        except StepError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            fitting = [advice for pattern, advice in ADVICE if re.search(pattern, error.cause)]
            raise StepError(error.step, error.cause, error.advice or "".join(fitting[:1])) from None
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
            f"Slice={user}-build.slice",
            # Whatever hangs does not hold the site's lock for ever.
            "RuntimeMaxSec=1800",
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

    def manage(self, step: str, *argv: str, **options) -> str:
        return run(step, [self.options["manage"], f"--release={self.id}", f"--writable={self.path}", *argv], **options)

    def _lay_out(self) -> None:
        self.path.mkdir(mode=0o755, parents=True)
        # The release itself stays root's, so that what the project's code does here stays within these three.
        for folder in (self.code, self.venv, self.static):
            folder.mkdir(mode=0o755)
            shutil.chown(folder, self.options["user"], self.options["user"])

    def _extract(self) -> None:
        with open(self.options["archive"], "rb") as archive:
            self.sandboxed("extract", "tar", "-xzf", "-", "-C", str(self.code), "--no-same-owner", stdin=archive)

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
            self.sandboxed("install", uv, "venv", "--no-project", "--python", self.options["python"], str(self.venv))
            installer = [uv, "pip", "install", "--compile-bytecode", "--python", str(self.venv / "bin/python")]
        else:
            self.sandboxed("install", self.options["python"], "-m", "venv", str(self.venv))
            installer = [str(self.venv / "bin/python"), "-m", "pip", "install", "--no-input"]
        if locked.name == "uv.lock":
            if not by_uv:
                raise StepError("install", "pip cannot read uv.lock", "Set django_installer to uv.")
            python = ["--python", self.options["python"], "--directory", str(locked.parent)]
            self.sandboxed("install", uv, "sync", "--frozen", "--no-dev", "--compile-bytecode", *python)
        elif is_package(locked):
            self.sandboxed("install", *installer, "-e", str(locked.parent))
        else:
            self.sandboxed("install", *installer, "-r", str(self._as_requirements(locked)))
        missing = [package for package in self.options["packages"] if not self._has(package)]
        if missing:
            self.sandboxed("install", *installer, *missing)

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
                    *(self.options["python"], f"{pip}/pip", "install", "--quiet", "--require-hashes", "--no-deps"),
                    *("--only-binary=:all:", "--no-compile", "--disable-pip-version-check", "--no-cache-dir"),
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
        """Refuse settings under which the site would be unsafe, lose data or serve no assets; say all at once."""
        environment = {**os.environ, "DJANGO_VPS_HOST": self.options["host"]}
        output = self.manage("settings", "shell", "-v", "0", "-c", PROBE, env=environment)
        facts = json.loads(re.findall(r"^DJANGO_VPS (.*)$", output, re.MULTILINE)[-1])
        findings = [
            *self._unsafe(facts),
            *self._wrong_url("STATIC_URL", facts["static_url"] if facts["collects"] else "", "static_url"),
            *self._wrong_url("MEDIA_URL", facts["media_url"] if facts["media_root"] else "", "media_url"),
            *self._static_has_no_place(facts),
            *self._media_has_no_place(facts),
        ]
        if findings:
            raise StepError("settings", f"{facts['module']}:\n" + "\n".join(f"- {finding}" for finding in findings))
        if facts["key"]:
            self.module.warn(f"{facts['module']} does not use the SECRET_KEY of its environment")
        if not self.application:
            module, _, name = (facts["application"] or self._guess_application()).rpartition(".")
            self.application = f"{module}:{name}"
        self._save_environment(f'{self.generated}APPLICATION="{self.application}"\n')

    def _unsafe(self, facts: dict):
        if facts["debug"]:
            yield (
                "DEBUG is on under DEBUG=False; read it: DEBUG = os.environ.get('DEBUG') == 'True',"
                " or set django_settings_module to the settings for production"
            )
        if facts["key"].startswith("django-insecure-"):
            yield "SECRET_KEY is in the source; read it: SECRET_KEY = os.environ['SECRET_KEY']"
        for database in facts["sqlite"]:
            yield (
                f"the database is SQLite in {database}, where its rows would be lost;"
                " read DATABASE_URL, for example with dj_database_url.config()"
            )
        if not facts["answers"]:
            yield (
                f"ALLOWED_HOSTS is {facts['hosts']}, without {self.options['host']};"
                " read it: ALLOWED_HOSTS = os.environ['ALLOWED_HOSTS'].split(',')"
            )

    def _wrong_url(self, setting: str, value: str, option: str):
        wanted = self.options[option]
        if value and not urlsplit(value).netloc and f"/{value.lstrip('/')}" != wanted:
            yield f"{setting} is {value!r}, but the site serves {wanted!r}; set django_{option}: /{value.lstrip('/')}"

    def _static_has_no_place(self, facts: dict):
        # Where it really is: the project may have written it with dots or links.
        root = Path(os.path.realpath(facts["static_root"])) if facts["static_root"] else None
        self.static_root = root if facts["collects"] else None
        if facts["collects"] and (root is None or (root != self.static and not root.is_relative_to(self.code))):
            yield (
                f"STATIC_ROOT is {facts['static_root']!r}, so the static files have no place in the release;"
                " read it: STATIC_ROOT = os.environ['STATIC_ROOT']"
            )

    def _media_has_no_place(self, facts: dict):
        """Uploads that a project keeps inside its own folder go to the shared one."""
        if not facts["media_root"]:
            return
        shared, root = Path(self.options["media"]), Path(os.path.realpath(facts["media_root"]))
        if root.is_relative_to(shared):
            return
        advice = "read it: MEDIA_ROOT = os.environ['MEDIA_ROOT']"
        if not root.is_relative_to(self.code):
            yield f"MEDIA_ROOT is {facts['media_root']}, where the site may not write; {advice}"
        elif root.is_dir() and {path.name for path in root.iterdir()} - PLACEHOLDERS:
            yield f"MEDIA_ROOT is {root.relative_to(self.code)}, which holds files of the source; {advice}"
        else:
            # As the site's user: its own code had a hand in this path.
            link = 'rm -rf "$1" && mkdir -p "$(dirname "$1")" && ln -s "$2" "$1"'
            self.sandboxed("media", "sh", "-c", link, "sh", str(root), str(shared))

    def _guess_application(self) -> str:
        found = sorted(self.project.glob("*/wsgi.py"))
        if len(found) != 1:
            raise StepError(
                "settings", "WSGI_APPLICATION is not set", "Set django_application, such as shop.wsgi:application."
            )
        return f"{found[0].parent.name}.wsgi.application"

    def _collect(self) -> None:
        if self.static_root is None:
            return
        self.manage("collectstatic", "collectstatic", "--noinput", "-v", "0")
        if self.static_root != self.static:
            # The project collects into its own folder, where the web server has no business: move it out.
            move = 'cp -a "$1/." "$2/" && rm -rf "$1" && ln -s "$2" "$1"'
            self.sandboxed("collectstatic", "sh", "-c", move, "sh", str(self.static_root), str(self.static))
        for path in self.static.rglob("*"):
            if path.is_symlink():
                raise StepError("collectstatic", f"{path.relative_to(self.static)} is a link", "Collect files only.")

    def _keep_hashed_assets(self) -> None:
        """Put the assets whose name says what they hold where they outlive this release."""
        for name in hashed_assets(self.static):
            kept = self.site.home / "static" / name
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.static / name, kept.with_name(f".{kept.name}.new"))
                os.replace(kept.with_name(f".{kept.name}.new"), kept)

    def _check(self) -> None:
        report = self.manage("check", "check", "--deploy", "--no-color", "--fail-level", self.options["check_level"])
        for finding, text in re.findall(r"^\?: \((\S+)\) (.*)$", report, re.MULTILINE):
            if finding not in SEEN_TO:
                self.module.warn(f"manage.py check --deploy: {finding}: {text}")

    def _seal(self) -> None:
        """Take the release from the site's user, and mark it whole as the very last step."""
        # A file that does not compile may be a template of somebody's; what matters was imported by the check.
        self.sandboxed("compile", "sh", "-c", f"{self.venv}/bin/python -m compileall -q {self.code} >&2 || true")
        group = self.options["user"]
        for folder in (self.code, self.venv):
            take(folder, group)
            folder.chmod(0o750)
        take(self.static, "root", public=True)
        # Only now: nothing that the project's code wrote can change under root's hands any more.
        self._keep_hashed_assets()
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
    for path in (options["env_file"], options["secret_key_file"], *options["copies"], *options["depends_on"]):
        try:
            known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except FileNotFoundError:
            known[path] = None
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def remove_halves(site: Site, user: str) -> None:
    """End and remove what a run that died left half made."""
    subprocess.run(["systemctl", "stop", f"{user}-build.slice"], capture_output=True, check=False)
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
            "host": {"type": "str", "required": True},
            "static_url": {"type": "str", "default": "/static/"},
            "media_url": {"type": "str", "default": "/media/"},
            "check_level": {"type": "str", "choices": ["WARNING", "ERROR", "CRITICAL"], "default": "ERROR"},
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
            remove_halves(site, options["user"])
            build = Build(module, site, fingerprint)
            build.make()
        module.exit_json(changed=True, release=build.id, live=live, diff=before_and_after(build.id))
    except StepError as error:
        module.fail_json(msg=str(error), step=error.step)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'release'}: {error.strerror}")


if __name__ == "__main__":
    main()
