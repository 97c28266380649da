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
  content:
    description: The packed source in base64, when it is small. The action plugin packs it.
    type: str
  archive:
    description: The packed source on the host, when it is large. The action plugin brings it when it is needed.
    type: path
  force:
    description: Build a new release, with its packages fetched anew, though there is one of just the same.
    type: bool
    default: false
  home:
    description: Folder of the site on the host. It has to exist; C(releases/) and C(static/) are made in it.
    type: path
    required: true
  id:
    description:
      - Name of the release, digits and letters that sort by time, for hosts that are to call it the same. Only one of
        this name counts as the same then.
      - By default it is the one that there is, and the time in UTC for a new one.
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
    description: Program that runs C(manage.py) of a release as the site does, called with C(--release=ID).
    type: path
    required: true
  environment:
    description: Environment of the release in the format of systemd's C(EnvironmentFile), one assignment a line.
    type: str
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
  several:
    description:
      - Whether the site has several hosts. Then uploads that a project keeps on disk need a O(media) that all hosts
        share, a network file system, or the release is refused.
    type: bool
    default: false
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
    environment: "DEBUG=False"
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
pending:
  description: Whether the database may lack migrations of the release.
  returned: success
  type: bool
same:
  description: Ids of the whole releases that are good and of just the same, and so may be the answer.
  returned: in check mode
  type: list
  elements: str
others:
  description: Ids of the whole releases that are not.
  returned: in check mode
  type: list
  elements: str
next:
  description: Id that a new release would have.
  returned: in check mode
  type: str
"""

import base64
import calendar
import glob
import grp
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    find_requirements,
    inputs_of,
    is_package,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.site import (
    ANSWER,
    MARKER,
    Site,
    StepError,
    answers,
    ask_project,
    hashed_assets,
    only_one,
    point,
    run,
    tail,
    write_file,
)

#: Ids sort by time, and need no escaping in a unit's name.
ID = "%Y%m%dT%H%M%SZ"

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
    # The cloud's metadata service hands out credentials.
    "IPAddressDeny=169.254.169.254",
    "UMask=0027",
    # The site that serves goes first; niceness counts where there are no weights, as in a container.
    "CPUWeight=20",
    "IOWeight=20",
    "Nice=10",
)

#: Files that get smaller, and the bytes from which on it is worth it.
TEXTS = frozenset(
    f".{kind}" for kind in ("css", "eot", "htm", "html", "js", "json", "map", "mjs", "otf", "svg", "ttf", "txt", "xml")
)
WORTH = 1024
# For each name that comes in: as it was compressed for a release before, or anew.
COMPRESS = """
cd "$1"
while IFS= read -r name; do
  for kind in gz br; do
    [ ! -e "$name.$kind" ] || continue
    cmp -s -- "$2/$name" "$name" && cp -- "$2/$name.$kind" "$name.$kind" 2> /dev/null && continue
    case $kind in
      gz) gzip --best --keep --no-name -- "$name" ;;
      br) ! command -v brotli > /dev/null || brotli --best --keep -- "$name" ;;
    esac || exit
  done
done
"""

# Asked of the project under its production environment; all in one process, since starting Django takes longest.
EXAMINE = """
import os
from django.apps import apps
from django.conf import settings
from django.core.files.storage import FileSystemStorage
from django.core.management import call_command
from django.db.models import FileField
from django.http.request import validate_host
databases = [database for database in settings.DATABASES.values() if "sqlite" in database.get("ENGINE", "")]
answer({
    "step": "collectstatic",
    "module": settings.SETTINGS_MODULE,
    "debug": bool(settings.DEBUG),
    "key": str(settings.SECRET_KEY)[:16] if settings.SECRET_KEY != os.environ["SECRET_KEY"] else "",
    "answers": validate_host(ARGUMENTS["host"], settings.ALLOWED_HOSTS),
    "hosts": list(settings.ALLOWED_HOSTS),
    "application": settings.WSGI_APPLICATION or "",
    "kept": [name for name, database in settings.DATABASES.items() if database.get("CONN_MAX_AGE", 0) != 0],
    "sqlite": [str(database.get("NAME")) for database in databases],
    "others": [
        name for name, database in settings.DATABASES.items()
        if database.get("NAME") != settings.DATABASES.get("default", {}).get("NAME")
    ],
    "collects": "django.contrib.staticfiles" in settings.INSTALLED_APPS,
    "static_url": settings.STATIC_URL or "",
    "static_root": str(settings.STATIC_ROOT or ""),
    "media_url": settings.MEDIA_URL or "",
    "media_root": str(settings.MEDIA_ROOT or ""),
    "stored": sorted({
        f"{model._meta.label}.{field.name}"
        for model in apps.get_models() for field in model._meta.get_fields()
        if isinstance(field, FileField) and isinstance(field.storage, FileSystemStorage)
    }),
})
# Elsewhere it has no business; why, is said of its settings.
inside = os.path.realpath(settings.STATIC_ROOT or "/").startswith(ARGUMENTS["path"] + "/")
if "django.contrib.staticfiles" in settings.INSTALLED_APPS and inside:
    call_command("collectstatic", interactive=False, verbosity=0)
answer({"step": "check"})
call_command("check", deploy=True, fail_level=ARGUMENTS["check_level"], no_color=True)
try:
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor
    executor = MigrationExecutor(connection)
    recorded = set(executor.recorder.applied_migrations())
    pending = bool(executor.migration_plan(executor.loader.graph.leaf_nodes())) or any(
        node not in recorded and recorded.issuperset(squash.replaces)
        for node, squash in executor.loader.replacements.items()
    )
    migrations = [".".join(node) for node in executor.loader.disk_migrations]
except Exception:
    # What is wrong with the migrations or the database, migrate says best.
    pending, migrations = True, None
answer({"step": "migrations", "pending": pending, "migrations": migrations})
"""

# What people most often have to do when a step gives up, by what it says.
ADVICE = (
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full: look what fills it. playbooks/releases.yml lists the releases that could be removed;"
        " a lower django_keep_releases counts from the next switch on.",
    ),
    (r"pg_config", "psycopg2 is being compiled: require psycopg2-binary or psycopg[binary] instead."),
    (
        r"gcc|cc1|compiler|Python\.h",
        "A package is being compiled: name what it needs in django_system_packages, and run site.yml.",
    ),
    (
        r"(?i)git executable not found|cannot find command 'git'",
        "Name git in django_system_packages, and run site.yml.",
    ),
    (
        r"(?i)hash(es)? mismatch|do not match the hashes",
        "A package is not the one that was locked: lock again, or ask why.",
    ),
    (
        r"(?is)^install.*(dns error|connect(ion)? error|timed out|unreachable|refused)",
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

#: Kinds of file systems that several hosts may have mounted; those of FUSE are called fuse.something.
SHARED = re.compile(
    r"nfs4?|cifs|smb3|ceph|lustre|gfs2?|ocfs2|9p|virtiofs|afs|beegfs|gpfs|orangefs"
    r"|fuse\.(?!(lxcfs|gvfs|gvfsd-fuse|overlayfs|fuse-overlayfs|mergerfs|encfs|gocryptfs|portal|snapfuse|squashfuse)$).*"
)

#: Room for a first release, of which nothing is known yet.
FIRST = {"bytes": 100 << 20, "files": 5000}

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
        self.id = self.options["id"] or next_id(site)
        self.path = site.releases / self.id
        self.code = self.path / "code"
        self.project = self.code
        self.venv = self.path / "venv"
        self.static = self.path / "static"
        self.cache = Path("/var/cache") / self.options["user"]
        self.application = self.options["application"]

    def make(self) -> None:
        try:
            self._lay_out()
            self._extract()
            self._find_project()
            self._write_environment()
            self._install()
            self._examine()
            self._move_static()
            self._compress_static()
            self._seal()
        except StepError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            fitting = [advice for pattern, advice in ADVICE if re.search(pattern, f"{error.step}: {error.cause}")]
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
            # Of the task.
            **{name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ},
        }
        user = self.options["user"]
        properties = (
            *SANDBOX,
            f"User={user}",
            f"Group={user}",
            f"CacheDirectory={user}",
            f"ReadWritePaths={self.path}",
            # Whatever hangs does not hold the site's lock for ever.
            "RuntimeMaxSec=1800",
        )
        return run(
            step,
            [
                *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"),
                f"--unit={user}-build-{secrets.token_hex(4)}",
                f"--description={step.capitalize()} of {user}, release {self.path.name}",
                *(f"--property={line}" for line in properties),
                *(f"--setenv={name}={value}" for name, value in environment.items()),
                f"--working-directory={self.project if self.project.is_dir() else self.path}",
                # systemd would expand variables in the arguments.
                *(word.replace("$", "$$") for word in argv),
            ],
            **options,
        )

    def _lay_out(self) -> None:
        self.path.mkdir(mode=0o755, parents=True)
        # The release itself stays root's, so that what the project's code does here stays within these three.
        for folder in (self.code, self.venv, self.static):
            folder.mkdir(mode=0o755)
            shutil.chown(folder, self.options["user"], self.options["user"])

    def _extract(self) -> None:
        with tempfile.TemporaryFile(dir=self.path) as archive:
            if self.options["content"]:
                archive.write(base64.b64decode(self.options["content"]))
            else:
                with open(self.options["archive"], "rb") as sent:
                    shutil.copyfileobj(sent, archive)
            archive.seek(0)
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
        # Of a name given twice systemd takes the last: what the inventory says comes after what is generated.
        lines = [f'{name}="{value}"\n' for name, value in facts.items()]
        self._save_environment("".join(lines))
        for name in self.options["copies"]:
            shutil.copy(name, self.path)

    def _save_environment(self, generated: str) -> None:
        self.generated = generated
        write_file(self.path / "env", generated + self.options["environment"], 0o600)

    def _install(self) -> None:
        locked = find_requirements(self.project, self.code, self.options["requirements"])
        self.packages = self._packages(locked)
        if self._take_over_packages():
            return
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
        if self._is_bound():
            self.packages = ""

    def _packages(self, locked: Path) -> str:
        """What tells one set of packages from another; nothing when that cannot be told by what is written."""
        written = inputs_of(locked)
        if written is None:
            return ""
        python = os.path.realpath(self.options["python"])
        known = [written, python, *(self.options[name] for name in ("installer", "uv", "packages"))]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _is_bound(self) -> bool:
        """Whether the virtual environment names files of this release, as it does of a package that is installed -e."""
        named = glob.glob(str(self.venv / "lib/python3*/site-packages/*.pth"))
        named += glob.glob(str(self.venv / "lib/python3*/site-packages/*.dist-info/direct_url.json"))
        files = (Path(name) for name in named if os.path.isfile(name) and not os.path.islink(name))
        return any(str(self.path) in file.read_text(errors="replace") for file in files)

    def _take_over_packages(self) -> bool:
        """Share the files of an earlier release with the very same packages; they are root's and never change."""
        releases = {name: self.site.facts(name) for name in self.site.whole()}
        same = [name for name, facts in releases.items() if self.packages and facts.get("packages") == self.packages]
        if not same or self.options["force"]:
            return False
        earlier = self.site.releases / same[-1] / "venv"
        if (earlier / "bin").is_symlink():
            # What built it had a hand in where that leads, and root is to write there.
            return False
        self.venv.rmdir()
        run("install", ["cp", "--archive", "--link", str(earlier), str(self.venv)])
        # These name the folder they are in.
        for path in [*(self.venv / "bin").iterdir(), self.venv / "pyvenv.cfg"]:
            if path.is_file() and not path.is_symlink() and str(earlier) in (text := path.read_text(errors="replace")):
                mode = path.stat().st_mode & 0o777
                write_file(path, text.replace(str(earlier), str(self.venv)), mode)
                shutil.chown(path, "root", self.options["user"])
        return True

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
        """Collect and check; refuse settings under which the site would be unsafe, lose data or serve no assets."""
        wishes = {name: self.options[name] for name in ("host", "check_level")}
        arguments = {**wishes, "path": os.path.realpath(self.path)}
        argv = [self.options["manage"], f"--release={self.id}", f"--writable={self.path}"]
        try:
            facts, said = ask_project("settings", argv, EXAMINE, arguments)
        except StepError as error:
            facts = answers(error.said)
            self._judge(facts)
            cause = tail(error.said.rpartition(f"\n{ANSWER} ")[2].partition("\n")[2]) if facts else error.cause
            raise StepError(facts.get("step", "settings"), cause or error.cause, error.advice) from None
        self._judge(facts)
        if facts["key"]:
            self.module.warn(f"{facts['module']} does not use the SECRET_KEY of its environment")
        if facts["others"]:
            self.module.warn(
                f"migrations are applied to the database 'default' only, not to {', '.join(facts['others'])}"
            )
        for finding, text in re.findall(r"^\?: \((\S+)\) (.*)$", said, re.MULTILINE):
            if finding not in SEEN_TO:
                self.module.warn(f"manage.py check --deploy: {finding}: {text}")
        if not self.application:
            module, _, name = (facts["application"] or self._guess_application()).rpartition(".")
            self.application = f"{module}:{name}"
        self._warn_of_kept_connections(facts["kept"])
        self._save_environment(f'{self.generated}APPLICATION="{self.application}"\n')
        self.pending, self.migrations = facts["pending"], facts["migrations"]

    def _warn_of_kept_connections(self, databases: list[str]) -> None:
        """Under ASGI each request has a thread of its own, and leaves the connection behind that it keeps."""
        if "asgi" in self.application and databases:
            self.module.warn(
                f"CONN_MAX_AGE is not 0 for {', '.join(databases)}: under ASGI each request would leave its connection"
                " behind until PostgreSQL takes no more; read it from the environment, and set it to 0 in django_env"
            )

    def _judge(self, facts: dict) -> None:
        """Say all at once what the settings have to change."""
        if "module" not in facts:
            return
        findings = [
            *self._unsafe(facts),
            *self._wrong_url("STATIC_URL", facts["static_url"] if facts["collects"] else "", "static_url"),
            *self._wrong_url("MEDIA_URL", facts["media_url"] if facts["media_root"] else "", "media_url"),
            *self._static_has_no_place(facts),
            *self._media_has_no_place(facts),
            *self._media_is_not_shared(facts),
        ]
        if findings:
            raise StepError("settings", f"{facts['module']}:\n" + "\n".join(f"- {finding}" for finding in findings))

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
            yield (
                f"{setting} is {value!r}, but the site serves {wanted!r};"
                f" set django_{option}: /{value.lstrip('/')} and run site.yml"
            )

    def _static_has_no_place(self, facts: dict):
        # Where it really is: the project may have written it with dots or links.
        root = Path(os.path.realpath(facts["static_root"])) if facts["static_root"] else None
        self.static_root = root if facts["collects"] else None
        places = [Path(os.path.realpath(place)) for place in (self.static, self.code)]
        if facts["collects"] and (root is None or (root != places[0] and not root.is_relative_to(places[1]))):
            yield (
                f"STATIC_ROOT is {facts['static_root']!r}, so the static files have no place in the release;"
                " read it: STATIC_ROOT = os.environ['STATIC_ROOT']"
            )

    def _media_has_no_place(self, facts: dict):
        """Uploads that a project keeps inside its own folder go to the shared one."""
        if not facts["media_root"]:
            return
        shared, code, root = (
            Path(os.path.realpath(path)) for path in (self.options["media"], self.code, facts["media_root"])
        )
        if root.is_relative_to(shared):
            return
        advice = "read it: MEDIA_ROOT = os.environ['MEDIA_ROOT']"
        if not root.is_relative_to(code):
            yield f"MEDIA_ROOT is {facts['media_root']}, where the site may not write; {advice}"
        elif root.is_dir() and {path.name for path in root.iterdir()} - PLACEHOLDERS:
            yield f"MEDIA_ROOT is {root.relative_to(code)}, which holds files of the source; {advice}"
        else:
            # As the site's user: its own code had a hand in this path.
            link = 'rm -rf "$1" && mkdir -p "$(dirname "$1")" && ln -s "$2" "$1"'
            self.sandboxed("media", "sh", "-c", link, "sh", str(root), str(shared))

    def _media_is_not_shared(self, facts: dict):
        """What one host takes the others have to serve."""
        if self.options["several"] and facts["stored"] and not is_shared(self.options["media"]):
            yield (
                f"{', '.join(facts['stored'])} would be kept on the host that takes it, and the site has several;"
                " keep uploads elsewhere, as by django-storages with S3 in STORAGES, or mount a network file system"
                f" at {self.options['media']} on all app hosts"
            )

    def _guess_application(self) -> str:
        found = sorted(self.project.glob("*/wsgi.py"))
        if len(found) != 1:
            raise StepError(
                "settings", "WSGI_APPLICATION is not set", "Set django_application, such as shop.wsgi:application."
            )
        return f"{found[0].parent.name}.wsgi.application"

    def _move_static(self) -> None:
        if self.static_root is None:
            return
        if self.static_root != Path(os.path.realpath(self.static)):
            # The project collects into its own folder, where the web server has no business: move it out.
            move = 'cp -a "$1/." "$2/" && rm -rf "$1" && ln -s "$2" "$1"'
            self.sandboxed("collectstatic", "sh", "-c", move, "sh", str(self.static_root), str(self.static))

    def _compress_static(self) -> None:
        """Once here and not at each request; where names bear a hash, nobody asks for the others."""
        every = (str(path.relative_to(self.static)) for path in self.static.rglob("*") if path.is_file())
        names = hashed_assets(self.static) or every
        wanted = [name for name in sorted(names) if Path(name).suffix in TEXTS and "\n" not in name]
        wanted = [name for name in wanted if (self.static / name).stat().st_size >= WORTH]
        if wanted:
            folders = (str(self.static), str(self.site.home / "static"))
            lines = "".join(f"{name}\n" for name in wanted)
            self.sandboxed("collectstatic", "sh", "-c", COMPRESS, "sh", *folders, stdin=None, input=lines)

    def _keep_hashed_assets(self) -> None:
        """Put the assets whose name says what they hold where they outlive this release."""
        for name in hashed_assets(self.static):
            kept = self.site.home / "static" / name
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.static / name, kept.with_name(f".{kept.name}.new"))
                os.replace(kept.with_name(f".{kept.name}.new"), kept)

    def _seal(self) -> None:
        """Take the release from the site's user, and mark it whole as the very last step."""
        # A file that does not compile may be a template of somebody's; what matters was imported by the check.
        self.sandboxed("compile", "sh", "-c", f"{self.venv}/bin/python -I -S -m compileall -q {self.code} >&2 || true")
        group = self.options["user"]
        for folder in (self.code, self.venv):
            if folder.owner() != "root":
                take(folder, group)
                folder.chmod(0o750)
        take(self.static, "root", public=True)
        # Only now: nothing that the project's code wrote can change under root's hands any more.
        for path in self.static.rglob("*"):
            if path.is_symlink():
                raise StepError("collectstatic", f"{path.relative_to(self.static)} is a link", "Collect files only.")
        self._keep_hashed_assets()
        facts = {
            "version": self.options["version"],
            "fingerprint": self.fingerprint,
            "application": self.application,
            "migrations": self.migrations,
            "packages": self.packages,
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **size_of(self.path),
        }
        run("seal", ["sync", "--file-system", str(self.path)])
        write_file(self.path / MARKER, json.dumps(facts, indent=2) + "\n")


def next_id(site: Site) -> str:
    now = time.time()
    # A clock that was set back must not make a release older than those there are.
    newest = max((entry.name for entry in site.releases.glob("*")), default="")
    while (name := time.strftime(ID, time.gmtime(now))) <= newest:
        now = max(now, calendar.timegm(time.strptime(newest, ID))) + 1
    return name


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
            *("settings_module", "application", "static_url", "media_url", "media", "environment"),
        )
    }
    for path in (options["secret_key_file"], *options["copies"], *options["depends_on"]):
        try:
            known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except FileNotFoundError:
            known[path] = None
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def is_shared(folder: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Whether a folder lies on a file system that other hosts may have too."""
    path = os.path.realpath(folder)
    kinds = {}
    for line in Path(mounts).read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        # Spaces and the like are written as octal numbers; of two at one place the later is on top.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        kinds[point] = after.split()[0]
    above = (point for point in kinds if path == point or path.startswith(f"{point.rstrip('/')}/"))
    return bool(SHARED.fullmatch(kinds[max(above, key=len)]))


def size_of(folder: Path) -> dict[str, int]:
    """Bytes and files of a release; those it shares with others count, as they may have to be made anew."""
    stats = [os.lstat(os.path.join(base, name)) for base, folders, files in os.walk(folder) for name in folders + files]
    return {"bytes": sum(stat.st_blocks * 512 for stat in stats), "files": len(stats)}


def enough_space(site: Site) -> None:
    """Refuse to begin what may fill the disk that the site needs; there has to be room for the last release twice."""
    last = [facts for facts in map(site.facts, site.whole()) if "bytes" in facts][-1:]
    wanted = {"bytes": 2 * last[0]["bytes"], "files": 2 * last[0]["files"]} if last else FIRST
    for path, need in ((site.home, wanted), (Path("/var"), FIRST)):
        disk = os.statvfs(path)
        free = disk.f_bavail * disk.f_frsize
        mount = next(str(folder) for folder in (path, *path.parents) if os.path.ismount(folder))
        if free < need["bytes"]:
            cause, look = f"{mount} has {free >> 20} MB free, and {need['bytes'] >> 20} MB are needed", "du -xm"
        elif disk.f_files and disk.f_favail < need["files"]:
            cause, look = f"{mount} has {disk.f_favail} inodes free, and {need['files']} are needed", "du -x --inodes"
        else:
            continue
        raise StepError(
            "disk",
            cause,
            f"Look what fills it: {look} {mount} | sort -n | tail. playbooks/releases.yml lists the releases that could"
            " be removed; a lower django_keep_releases counts from the next switch on.",
        )


def end_builds(user: str) -> None:
    """End what a run that died still builds."""
    subprocess.run(["systemctl", "stop", f"{user}-build-*.service"], capture_output=True, check=False)


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
            "content": {"type": "str", "no_log": True},
            "archive": {"type": "path"},
            "force": {"type": "bool", "default": False},
            "home": {"type": "path", "required": True},
            "id": {"type": "str"},
            "version": {"type": "str", "default": ""},
            "user": {"type": "str", "required": True},
            "manage": {"type": "path", "required": True},
            "environment": {"type": "str", "required": True, "no_log": True},
            "secret_key_file": {"type": "path", "required": True, "no_log": False},
            "copies": {"type": "list", "elements": "path", "default": []},
            "depends_on": {"type": "list", "elements": "path", "default": []},
            "media": {"type": "path", "required": True},
            "several": {"type": "bool", "default": False},
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

    def those_of_the_same(fingerprint: str) -> list[str]:
        known = {name: site.facts(name) for name in ([] if options["force"] else site.whole())}
        return [name for name, facts in known.items() if facts["fingerprint"] == fingerprint and not facts.get("bad")]

    def answer(same: list[str]) -> str | None:
        if options["id"]:
            return options["id"] if options["id"] in same else None
        return live if live in same else (same or [None])[-1]

    try:
        if not module.check_mode:
            secret_key(Path(options["secret_key_file"]))
        fingerprint = fingerprint_of(options)
        same = those_of_the_same(fingerprint)
        found = answer(same)
        told = {}
        if module.check_mode:
            others = [name for name in site.whole() if name not in same]
            told = {"same": same, "others": others, "next": next_id(site)}
        if found:
            # A release that is live has been migrated: only then was it switched to. A rollback may have died since.
            pending = found != live or bool(site.facts(found).get("undone"))
            module.exit_json(changed=False, release=found, live=live, pending=pending, **told)
        if module.check_mode or not (options["archive"] or options["content"]):
            after = before_and_after("(a new release)")
            module.exit_json(changed=True, release="", live=live, pending=True, diff=after, **told)
        end_builds(options["user"])
        with only_one(site.home):
            remove_halves(site)
            enough_space(site)
            build = Build(module, site, fingerprint)
            build.make()
        told = {"release": build.id, "live": live, "pending": build.pending}
        module.exit_json(changed=True, **told, diff=before_and_after(build.id))
    except StepError as error:
        module.fail_json(msg=str(error), step=error.step)
    except OSError as error:
        module.fail_json(msg=f"disk: {error.filename or site.home}: {error.strerror}", step="disk")


if __name__ == "__main__":
    main()
