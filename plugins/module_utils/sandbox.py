# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run programs in a sandbox on the folders of an incomplete release."""

from __future__ import annotations

import secrets
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import give_to_root
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

#: Debian's store of CAs, which the administrator controls; both installers bring their own stores.
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

# A build may write its own folder and the site's cache, and use the network for packages.
PROPERTIES = (
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    # On the disk, because /tmp can be in memory and too small for unpacked packages.
    "Environment=TMPDIR=/var/tmp",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "RestrictSUIDSGID=yes",
    # The metadata service of a cloud returns credentials.
    "IPAddressDeny=169.254.169.254",
    "UMask=0027",
    # The live site has priority; Nice is for hosts without weights, such as containers.
    "CPUWeight=20",
    "IOWeight=20",
    "Nice=10",
    # A program that hangs must not hold the site's lock forever.
    "RuntimeMaxSec=1800",
)


class Workspace:
    """The folders of one release, and the environment of the programs that work on them."""

    def __init__(self, site: Site, release: str, options: dict) -> None:
        self.site = site
        self.options = options
        self.path = site.releases / release
        self.code = self.path / "code"
        #: The folder of manage.py, once the source is unpacked.
        self.project = self.code
        self.venv = self.path / "venv"
        self.static = self.path / "static"
        self.cache = Path("/var/cache") / options["user"]
        # Both are removed before the release is complete. Only root can read the first.
        self.build_environment = self.path / "build_env"
        self.git_key = self.path / "git_key"

    def run_sandboxed(self, step: str, *argv: str, as_project: bool = False, writes: str = "", **options) -> str:
        """Run a program as the site's user, which can write only to this release, the cache and the folder `writes`.

        With `as_project` the program has the environment of the release and finds the programs of its packages.
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
            "SSL_CERT_FILE": CERTIFICATES,
            "PIP_CERT": CERTIFICATES,
        }
        user = self.options["user"]
        properties = (
            *PROPERTIES,
            f"User={user}",
            f"Group={user}",
            f"CacheDirectory={user}",
            f"ReadWritePaths={self.path} {writes}".rstrip(),
            # In a file, because every user can read arguments and the properties of units.
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
                # Doubled, because systemd would expand variables in the arguments.
                *(word.replace("$", "$$") for word in argv),
            ],
            **options,
        )

    def protect(self, folder: Path) -> None:
        """Make root the owner of a folder with its content, and let only the site's user read it."""
        give_to_root(folder, self.options["user"])
        folder.chmod(0o750)
