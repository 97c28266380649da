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
  files:
    description:
      - Content of further files of the source by their path in it, for a project that reads its configuration from a
        file. Each takes the place of a file of that name. The action plugin puts them into the packed source.
    type: dict
    default: {}
  includes:
    description:
      - Files of a source folder, as paths in which C(*) stands for any part, that are packed though git ignores them or
        they look like secrets or dumps. The action plugin keeps back the others that git does not track, and warns.
    type: list
    elements: str
    default: []
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
  shared_paths:
    description:
      - Folders inside the source that the project writes. Each is a link to one in C(shared/) of O(home), which the
        site owns and all releases share.
    type: list
    elements: str
    default: []
  several:
    description:
      - Whether the site has several hosts. Then what a project keeps on disk needs a O(media) and a C(shared/) that all
        hosts share, a network file system, or the release is refused.
    type: bool
    default: false
  python:
    description:
      - What the virtual environment is made with, the path of an interpreter on the host or versions such as V(3.12) or
        V(>=3.11,<3.13).
      - By default what C(.python-version), C(requires-python), Poetry's dependencies, C(Pipfile.lock) or C(runtime.txt)
        in the source ask for. The
        distribution's is taken where it fits, else one that is on the host, else uv fetches one that all sites share.
    type: str
    default: ""
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
      - By default that of the folder nearest to C(manage.py); in one folder C(uv.lock) comes first, then
        C(poetry.lock), C(Pipfile.lock), C(requirements.txt) and C(pyproject.toml).
    type: str
    default: ""
  groups:
    description:
      - Groups of packages to install beside the main one, those of C(uv.lock), C(poetry.lock) and
        C([dependency-groups]), or the categories of C(Pipfile.lock).
    type: list
    elements: str
    default: []
  extras:
    description: The same for extras.
    type: list
    elements: str
    default: []
  extra_packages:
    description: Packages to install that the project does not require, each as a line of C(requirements.txt).
    type: list
    elements: str
    default: []
  fetch_environment:
    description: Environment of what reaches the network while a release is built, such as a proxy.
    type: dict
    default: {}
  build_environment:
    description: The same, of this project, such as the credentials of its package index. It is kept in no release.
    type: dict
    default: {}
  git_key:
    description:
      - Text of a private SSH key, which git fetches packages with. It is kept in no release.
      - The host key of a server is believed when it is met first and nothing is known in C(/etc/ssh/ssh_known_hosts),
        and has to be the same from then on.
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
  before_collectstatic:
    description:
      - Commands that are run in the folder of C(manage.py) once the packages are installed, as the site's user, in the
        sandbox of the build, with the environment of the release and the programs of its virtual environment. No shell
        reads them.
    type: list
    elements: str
    default: []
  after_collectstatic:
    description: The same once the static files are collected and the settings are checked.
    type: list
    elements: str
    default: []
  collectstatic:
    description: Whether the static files are collected. If not, C(STATIC_ROOT) is in the source, with all of them.
    type: bool
    default: true
  after_migrate:
    description: Commands of C(manage.py) that the site runs once for each release. Here they tell one from another.
    type: list
    elements: str
    default: []
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
  - the django_vps.stack authors (!UNKNOWN)
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
unchecked:
  description: Whether C(manage.py check --deploy) has to be asked again once the migrations are there.
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
import contextlib
import errno
import glob
import grp
import hashlib
import json
import os
import pwd
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils import project_scripts as scripts
from ansible_collections.django_vps.stack.plugins.module_utils.advice import find_advice
from ansible_collections.django_vps.stack.plugins.module_utils.assets import keep_hashed_assets, list_hashed_assets
from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.disk_space import enough_space, size_of
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import remove_tree, replace_link, write_file
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.output import explain
from ansible_collections.django_vps.stack.plugins.module_utils.poetry import canonical
from ansible_collections.django_vps.stack.plugins.module_utils.project import find_project, settings_of
from ansible_collections.django_vps.stack.plugins.module_utils.project_shell import (
    ANSWER,
    ask_project,
    compose_program,
    parse_answers,
)
from ansible_collections.django_vps.stack.plugins.module_utils.python import (
    DISTRIBUTION,
    debian_pip,
    fits,
    python_of,
    wanted,
)
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    LOCKS,
    Wish,
    base_of,
    find_requirements,
    inputs_of,
    member_of,
    requirements_of,
    root_package,
)
from ansible_collections.django_vps.stack.plugins.module_utils.settings_check import Settings, is_free
from ansible_collections.django_vps.stack.plugins.module_utils.site import MARKER, Site

#: Ids sort by time, and need no escaping in a unit's name.
ID = "%Y%m%dT%H%M%SZ"

UV_HOME = Path("/usr/local/lib/django_vps")

# What a build may do: write its own folder and the site's cache, and reach the network for packages.
SANDBOX = (
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    # On the disk: /tmp may be of memory, and smaller than what is unpacked.
    "Environment=TMPDIR=/var/tmp",
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

#: What a folder of packages has in the place of a release's MARKER; it holds what tells one set from another.
PACKAGES = "packages"

#: Characters from which on a value of an environment is masked in the result.
MIN_MASKED = 8

# Findings of `check --deploy` that the web server in front takes care of.
SEEN_TO = {"security.W004", "security.W005", "security.W008", "security.W021"}


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
        self.wish = Wish(tuple(self.options["groups"]), tuple(self.options["extras"]))
        # Both are gone before the release is whole. The first is of root alone.
        self.build_environment = self.path / "build_env"
        self.git_key = self.path / "git_key"
        #: Whether all packages are there, and another build may share them.
        self.installed = False

    def make(self) -> None:
        try:
            self._lay_out()
            self._extract()
            self._find_project()
            self._write_environment()
            self._choose_python()
            self._install()
            self.installed = bool(self.packages)
            self._link_shared_paths()
            self._run_commands("before_collectstatic")
            self._examine()
            self._run_commands("after_collectstatic")
            self._move_static()
            self._compress_static()
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

    def sandboxed(self, step: str, *argv: str, as_project: bool = False, writes: str = "", **options) -> str:
        """Run a program as the site's user that can write nothing but this release, the cache and the folder `writes`.

        With `as_project` it has the environment of the release and finds the programs of its packages.
        """
        environment = {
            "HOME": self.cache,
            "UV_CACHE_DIR": self.cache / "uv",
            "UV_LINK_MODE": "copy",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_PYTHON_PREFERENCE": "system",
            "UV_NO_PROGRESS": "1",
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
            f"ReadWritePaths={self.path} {writes}".rstrip(),
            # Whatever hangs does not hold the site's lock for ever.
            "RuntimeMaxSec=1800",
            # Not as arguments: anybody may read those, and the properties of units.
            f"EnvironmentFile={self.build_environment}",
        )
        if self.git_key.exists():
            environment["GIT_SSH_COMMAND"] = (
                f"ssh -i {self.git_key} -o IdentitiesOnly=yes -o BatchMode=yes"
                f" -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={self.cache}/known_hosts"
            )
        if as_project:
            environment["PATH"] = f"{self.venv}/bin:/usr/local/bin:/usr/bin:/bin"
            properties += (f"EnvironmentFile={self.path}/env",)
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
        lines = (f"{name}={quoted(value)}\n" for name, value in self._environment().items())
        write_file(self.build_environment, "".join(lines), 0o600)
        if key := self.options["git_key"].strip():
            # ssh reads no key whose last line does not end.
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
            self.sandboxed("extract", "tar", "-xzf", "-", "-C", str(self.code), "--no-same-owner", stdin=archive)

    def _find_project(self) -> None:
        self.project = find_project(self.code, self.options["subdirectory"])
        # The unit of any release finds its working directory under one name.
        replace_link(self.path / "project", os.path.relpath(self.project, self.path))

    def _write_environment(self) -> None:
        settings = settings_of(self.project, self.options["settings_module"])
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

    def _choose_python(self) -> None:
        """The interpreter that is meant, else the distribution's where it fits, else one that uv knows or fetches."""
        option = self.options["python"]
        if option.startswith("/"):
            said = self.sandboxed("python", option, "-c", "import sys; print(sys.version_info[0])").strip()
            if said != "3":
                raise StepError("python", f"{option} is no Python 3 (it says {said!r})", "Correct django_python.")
            self.python = os.path.realpath(option)
            return
        # 3.12 means any 3.12, as it does for uv.
        versions, where = (f"=={option}.*" if option[:1].isdigit() else option, "django_python")
        if not option:
            versions, where = wanted(self.project, self.code)
        own = run("python", [DISTRIBUTION, "-c", "import platform; print(platform.python_version())"]).strip()
        if not versions or fits(own, versions, where):
            self.python = DISTRIBUTION
            return
        cause = f"{where} asks for Python {versions.removeprefix('==').removesuffix('.*')}, and the host's is {own}"
        way_out = f"set django_python to the path of one that is on the host, or to versions that {own} fits"
        if self.options["installer"] != "uv":
            raise StepError("python", cause, f"Leave out django_installer, as uv fetches one; or {way_out}.")
        try:
            # Not by a link to it: from where it lies it finds its library.
            self.python = os.path.realpath(self._python_of_uv(versions))
        except StepError as error:
            raise StepError(
                "python",
                f"{cause}; uv cannot fetch another:\n{error.cause}",
                "Let the host reach that address (host_environment names a proxy, or UV_PYTHON_INSTALL_MIRROR);"
                f" or {way_out}.",
            ) from None

    def _python_of_uv(self, versions: str) -> str:
        """One that is on the host, or is fetched now to where all sites find it."""
        environment = {
            **os.environ,
            "UV_CACHE_DIR": str(UV_HOME / "cache"),
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_PREFERENCE": "system",
            "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
            **self._environment(),
            "UV_PYTHON_INSTALL_DIR": str(UV_HOME / "python"),
        }
        uv = str(self._uv())
        find = [uv, "python", "find", "--no-project", "--no-python-downloads", versions]
        # The sandbox of the build hides these, with all that pyenv has there.
        hidden = ("/root/", "/home/", "/run/user/")
        for preference in (environment["UV_PYTHON_PREFERENCE"], "only-managed"):
            environment["UV_PYTHON_PREFERENCE"] = preference
            try:
                python = run("python", find, env=environment).strip()
            except StepError:
                continue
            if not os.path.realpath(python).startswith(hidden):
                return python
        # Not there yet.
        run("python", [uv, "python", "install", "--no-bin", versions], env=environment, timeout=600)
        return run("python", find, env=environment).strip()

    def _install(self) -> None:
        locked = find_requirements(self.project, self.code, self.options["requirements"], self.wish)
        self.packages = self._packages(locked)
        if self._take_over_packages():
            return
        by_uv = self.options["installer"] == "uv"
        if by_uv:
            uv = str(self._uv())
            self.sandboxed("install", uv, "venv", "--no-project", "--python", self.python, str(self.venv))
            installer = [uv, "pip", "install", "--compile-bytecode", "--python", str(self.venv / "bin/python")]
        else:
            self.sandboxed("install", self.python, "-m", "venv", str(self.venv))
            installer = [str(self.venv / "bin/python"), "-m", "pip", "install", "--no-input"]
        if locked.name == "uv.lock":
            if not by_uv:
                raise StepError("install", "pip cannot read uv.lock", "Set django_installer to uv.")
            where = ["--python", self.python, "--directory", str(member_of(locked, self.project))]
            more = [f"--{kind[:-1]}={name}" for kind in ("groups", "extras") for name in self.options[kind]]
            self.sandboxed("install", uv, "sync", "--frozen", "--no-dev", "--compile-bytecode", *where, *more)
        else:
            requirements = self._as_requirements(locked)
            base = base_of(locked, self.project, self.code)
            options = []
            if by_uv and locked.name in LOCKS and "--extra-index-url" in requirements.read_text():
                # By default uv takes a package from the first index that has its name, in any version. Each one is
                # pinned here, so that pip's way, the version from whichever index has it, is safe.
                options = ["--index-strategy", "unsafe-best-match"]
            self.sandboxed("install", "env", f"--chdir={base}", *installer, *options, "-r", str(requirements))
            if requirements != locked:
                # Its addresses may have credentials in them.
                requirements.unlink()
        if root := root_package(locked, self.project):
            self.sandboxed("install", *installer, "--no-deps", "--editable", str(root))
        if self.options["extra_packages"]:
            self.sandboxed("install", *installer, *self.options["extra_packages"])
        if own := [package for package in self.options["packages"] if not self._has(package)]:
            # What the project tells uv, such as exclude-newer, is not meant for the stack's own packages.
            self.sandboxed("install", *installer, *(["--no-config"] if by_uv else []), *own)
        if self._is_bound():
            self.packages = ""
        # Other releases may share them, so that no command of this one may change them.
        self._take(self.venv)

    def _link_shared_paths(self) -> None:
        uid, gid = pwd.getpwnam(self.options["user"])[2:4]
        for name in self.options["shared_paths"]:
            path = self.code / name
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.code)) or not is_free(path):
                raise StepError(
                    "source",
                    f"{name} holds files of the source",
                    "Write a folder that only the site fills into django_shared_paths.",
                )
            folder = self.site.home / "shared"
            for part in ("", *Path(name).parts):
                # What is in a folder of the site may lead root anywhere.
                if folder.is_symlink() or (folder.exists() and part and folder.lstat().st_uid != os.geteuid()):
                    raise StepError(
                        "source",
                        f"{folder} is the site's own, so nothing in it can be shared by itself",
                        f"Move it away, or write it into django_shared_paths in place of {name}.",
                    )
                folder = folder / part
                folder.mkdir(mode=0o755, exist_ok=True)
            if folder.lstat().st_uid != uid:
                os.lchown(folder, uid, gid)
                folder.chmod(0o750)
            self._replace_by_link("source", path, folder)

    def _replace_by_link(self, step: str, path: Path, target: Path) -> None:
        # As the site's user: its own code had a hand in this path.
        link = 'rm -rf "$1" && mkdir -p "$(dirname "$1")" && ln -s "$2" "$1"'
        self.sandboxed(step, "sh", "-c", link, "sh", str(path), str(target))

    def _run_commands(self, when: str) -> None:
        for command in self.options[when]:
            try:
                # env looks for the program where the command does.
                self.sandboxed("build", "env", *shlex.split(command), as_project=True)
            except StepError as error:
                raise StepError("build", f"{command}:\n{error.cause}", error.advice, details=error.details) from None

    def _packages(self, locked: Path) -> str:
        """What tells one set of packages from another; nothing when that cannot be told by what is written."""
        written = inputs_of(locked, self.wish, self.project)
        if written is None:
            return ""
        names = ("installer", "uv", "packages", "extra_packages", "groups", "extras")
        known = [written, os.path.realpath(self.python), *(self.options[name] for name in names)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _keep_packages(self) -> None:
        """Remove what a failed build leaves, except its packages: the next build shares them."""
        if self.installed:
            # A full disk must not hide why the build failed.
            with contextlib.suppress(OSError, StepError):
                for entry in self.path.iterdir():
                    if entry != self.venv:
                        remove_tree(entry)
                write_file(self.path / PACKAGES, self.packages)
                return
        self._remove()

    def _remove(self) -> None:
        """What is left will be said by the next build, which removes it first; now another failure is told."""
        with contextlib.suppress(OSError, StepError):
            remove_tree(self.path)

    def _is_bound(self) -> bool:
        """Whether the virtual environment names files of this release, as it does of a package that is installed -e."""
        named = glob.glob(str(self.venv / "lib/python3*/site-packages/*.pth"))
        named += glob.glob(str(self.venv / "lib/python3*/site-packages/*.dist-info/direct_url.json"))
        files = (Path(name) for name in named if os.path.isfile(name) and not os.path.islink(name))
        return any(str(self.path) in file.read_text(errors="replace") for file in files)

    def _take_over_packages(self) -> bool:
        """Share the files of an earlier release with the very same packages; they are root's and never change."""
        releases = {name: self.site.facts(name) for name in self.site.whole()}
        releases |= {
            name: {"packages": (self.site.releases / name / PACKAGES).read_text()} for name in failed(self.site)
        }
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
        text = requirements_of(locked, self.wish)
        if text is None:
            return locked
        path = self.path / "requirements.txt"
        # Only the installer, which runs as the site's user, reads the credentials that an address may have.
        write_file(path, text, 0o640)
        shutil.chown(path, group=self.options["user"])
        return path

    def _has(self, package: str) -> bool:
        name = canonical(re.split(r"[\[=<>~! ]", package)[0])
        found = glob.glob(str(self.venv / "lib/python3*/site-packages/*.dist-info"))
        return name in {canonical(Path(path).name.split("-")[0]) for path in found}

    def _environment(self) -> dict[str, str]:
        """Of all that reaches the network."""
        given = {**self.options["fetch_environment"], **self.options["build_environment"]}
        return {name: str(value) for name, value in given.items()}

    def _uv(self) -> Path:
        """The pinned uv, one for all sites; its wheel is a program and no more, so pip can unpack it anywhere."""
        line = self.options["uv"]
        path = UV_HOME / line.split()[0].replace("==", "-")
        if path.exists():
            return path
        pip = debian_pip()
        UV_HOME.mkdir(parents=True, exist_ok=True)
        scratch = UV_HOME / f".{path.name}.{os.getpid()}"
        try:
            scratch.mkdir()
            (scratch / "uv.txt").write_text(line.replace(" --hash", " \\\n  --hash"))
            run(
                "install uv",
                [
                    *(DISTRIBUTION, f"{pip}/pip", "install", "--quiet", "--require-hashes", "--no-deps"),
                    *("--only-binary=:all:", "--no-compile", "--disable-pip-version-check", "--no-cache-dir"),
                    *("--target", str(scratch / "uv"), "-r", str(scratch / "uv.txt")),
                ],
                advice="uv comes from the package index; django_installer: pip does without it.",
                env={**os.environ, "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt", **self._environment()},
            )
            os.replace(scratch / "uv/bin/uv", path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return path

    def _examine(self) -> None:
        """Collect and check; refuse settings under which the site would be unsafe, lose data or serve no assets."""
        wishes = {name: self.options[name] for name in ("host", "check_level", "collectstatic")}
        arguments = {**wishes, "path": os.path.realpath(self.path)}
        argv = [self.options["manage"], f"--release={self.id}", f"--writable={self.path}"]
        try:
            facts, said = ask_project("settings", argv, scripts.examine, arguments)
        except StepError as error:
            facts = parse_answers(error.output)
            self._check_settings(facts)
            # What was said before its last answer is of an earlier step.
            cause, details = explain(
                error.output.rpartition(f"\n{ANSWER} ")[2].partition("\n")[2] if facts else error.output
            )
            raise StepError(
                facts.get("step", "settings"), cause or error.cause, error.advice, details=details
            ) from None
        if facts["key"]:
            again, _said = ask_project("settings", argv, scripts.secret_key, {})
            facts["changing_key"] = again["key"] != facts["key"]
        settings = self._check_settings(facts)
        self.static_root = settings.static_root if settings.serves_static else None
        if settings.media_inside:
            self._move_media(settings.media_inside)
        for finding, text in re.findall(r"^\?: \((\S+)\) (.*)$", said, re.MULTILINE):
            if finding not in SEEN_TO:
                self.module.warn(f"manage.py check --deploy: {finding}: {text}")
        if not self.application:
            module, _dot, name = (facts["application"] or self._guess_application()).rpartition(".")
            self.application = f"{module}:{name}"
        for warning in settings.warnings(self.application):
            self.module.warn(warning)
        self._save_environment(f'{self.generated}APPLICATION="{self.application}"\n')
        self.pending, self.migrations = facts["pending"], facts["migrations"]
        self.unchecked = bool(facts["unchecked"])
        if self.unchecked:
            self.module.warn(f"manage.py check --deploy is asked again after the migrations: {facts['unchecked']}")

    def _check_settings(self, facts: dict) -> Settings | None:
        """Report at once all that the settings have to change; nothing where they could not be read."""
        if "module" not in facts:
            return None
        settings = Settings(facts, self.options, self.code, self.project, self.static, self.site.home / "shared")
        if findings := settings.findings():
            raise StepError("settings", f"{facts['module']}:\n" + "\n".join(f"- {finding}" for finding in findings))
        return settings

    def _move_media(self, root: Path) -> None:
        """Let the uploads that a project keeps in its own folder go to the shared one."""
        shared = Path(os.path.realpath(self.options["media"]))
        if not is_free(root):
            # Default pictures and the like. Uploads of the same name are newer and stay, as do modes of folders.
            copy = ("cp", "--recursive", "--no-clobber", f"{root}/.", str(shared))
            self.sandboxed("media", *copy, writes=str(shared))
        self._replace_by_link("media", root, shared)

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
        names = list_hashed_assets(self.static) or every
        wanted = [name for name in sorted(names) if Path(name).suffix in TEXTS and "\n" not in name]
        wanted = [name for name in wanted if (self.static / name).stat().st_size >= WORTH]
        if wanted:
            folders = (str(self.static), str(self.site.home / "static"))
            lines = "".join(f"{name}\n" for name in wanted)
            call = "compress(*sys.argv[1:])"
            python = (str(self.venv / "bin/python"), "-I", "-S", "-c", compose_program(scripts.compress, call))
            self.sandboxed("collectstatic", *python, *folders, stdin=None, input=lines)

    def _take(self, folder: Path) -> None:
        """Make a folder root's, with all that is in it, and let only the site read it."""
        take(folder, self.options["user"])
        folder.chmod(0o750)

    def _seal(self) -> None:
        """Take the release from the site's user, and mark it whole as the very last step."""
        # A file that does not compile may be a template of somebody's; what matters was imported by the check.
        self.sandboxed("compile", "sh", "-c", f"{self.venv}/bin/python -I -S -m compileall -q {self.code} >&2 || true")
        self.build_environment.unlink()
        self.git_key.unlink(missing_ok=True)
        self._take(self.code)
        take(self.static, "root", public=True)
        # Only now: nothing that the project's code wrote can change under root's hands any more.
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
            **size_of(self.path),
        }
        run("seal", ["sync", "--file-system", str(self.path)])
        write_file(self.path / MARKER, json.dumps(facts, indent=2) + "\n")
        for name in failed(self.site):
            if said := self.site.discard(name):
                self.module.warn(said)


def quoted(value: str) -> str:
    """A value as systemd reads it in a file of environment variables."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


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
            *("digest", "user", "installer", "requirements", "packages", "subdirectory"),
            *("groups", "extras", "extra_packages", "build_environment", "git_key", "shared_paths"),
            *("settings_module", "application", "static_url", "media_url", "media", "environment"),
            *("before_collectstatic", "after_collectstatic", "collectstatic", "after_migrate"),
        )
    }
    # When the distribution has been upgraded, what was built for the one before is gone.
    known["python"] = [options["python"], os.path.realpath(DISTRIBUTION)]
    for path in (options["secret_key_file"], *options["copies"], *options["depends_on"]):
        try:
            known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except FileNotFoundError:
            known[path] = None
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def end_builds(user: str) -> None:
    """End what a run that died still builds."""
    subprocess.run(["systemctl", "stop", f"{user}-build-*.service"], capture_output=True, check=False)


def failed(site: Site) -> list[str]:
    """Ids of the builds that failed and of which the packages are kept, oldest first."""
    return sorted(path.parent.name for path in site.releases.glob(f"*/{PACKAGES}"))


def remove_incomplete(site: Site, next_release: str | None) -> list[str]:
    """Remove what builds that died or failed have left, except the packages of the last one that failed.

    Says what could not be removed.
    """
    kept = {site.live, *[name for name in failed(site) if name != next_release][-1:]}
    names = [entry.name for entry in site.releases.iterdir()] if site.releases.is_dir() else []
    said = [site.discard(name) for name in names if site.facts(name) is None and name not in kept]
    return [line for line in said if line]


def hide(module: AnsibleModule, values: list) -> None:
    """Mask values wherever they occur in what comes of the module; a short one, such as 1, would mask half of it."""
    long = {str(value) for value in values if len(str(value)) >= MIN_MASKED}
    try:
        from ansible.module_utils.secrets import register_secrets
    except ImportError:
        # Before ansible-core 2.22.
        module.no_log_values |= long
    else:
        register_secrets(long)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "digest": {"type": "str"},
            "content": {"type": "str", "no_log": True},
            "archive": {"type": "path"},
            "files": {"type": "dict", "default": {}},
            "includes": {"type": "list", "elements": "str", "default": []},
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
            "shared_paths": {"type": "list", "elements": "str", "default": []},
            "several": {"type": "bool", "default": False},
            "python": {"type": "str", "default": ""},
            "installer": {"type": "str", "choices": ["uv", "pip"], "default": "uv"},
            "uv": {"type": "str", "default": ""},
            "requirements": {"type": "str", "default": ""},
            "groups": {"type": "list", "elements": "str", "default": []},
            "extras": {"type": "list", "elements": "str", "default": []},
            "extra_packages": {"type": "list", "elements": "str", "default": []},
            "fetch_environment": {"type": "dict", "default": {}},
            "build_environment": {"type": "dict", "default": {}},
            "git_key": {"type": "str", "default": "", "no_log": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "subdirectory": {"type": "str", "default": ""},
            "settings_module": {"type": "str", "default": ""},
            "application": {"type": "str", "default": ""},
            "before_collectstatic": {"type": "list", "elements": "str", "default": []},
            "after_collectstatic": {"type": "list", "elements": "str", "default": []},
            "collectstatic": {"type": "bool", "default": True},
            "after_migrate": {"type": "list", "elements": "str", "default": []},
            "host": {"type": "str", "required": True},
            "static_url": {"type": "str", "default": "/static/"},
            "media_url": {"type": "str", "default": "/media/"},
            "check_level": {"type": "str", "choices": ["WARNING", "ERROR", "CRITICAL"], "default": "ERROR"},
        },
        supports_check_mode=True,
    )
    options = module.params
    hide(module, [*options["fetch_environment"].values(), *options["build_environment"].values()])
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
        # One whose Python is gone is built anew.
        able = [] if options["force"] else [name for name in site.whole() if python_of(site.releases / name)]
        known = {name: site.facts(name) for name in able}
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
            unchecked = found != live and bool(site.facts(found).get("unchecked"))
            module.exit_json(changed=False, release=found, live=live, pending=pending, unchecked=unchecked, **told)
        if module.check_mode or not (options["archive"] or options["content"]):
            after = before_and_after("(a new release)")
            module.exit_json(changed=True, release="", live=live, pending=True, diff=after, **told)
        end_builds(options["user"])
        with lock_site(site.home):
            for said in remove_incomplete(site, options["id"]):
                module.warn(said)
            enough_space(site)
            build = Build(module, site, fingerprint)
            build.make()
        told = {"release": build.id, "live": live, "pending": build.pending, "unchecked": build.unchecked}
        module.exit_json(changed=True, **told, diff=before_and_after(build.id))
    except StepError as error:
        module.fail_json(msg=str(error), step=error.step)
    except OSError as error:
        module.fail_json(msg=f"disk: {error.filename or site.home}: {error.strerror}", step="disk")


if __name__ == "__main__":
    main()
