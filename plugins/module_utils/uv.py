# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Install the pinned uv on this host, and use it to find or install interpreters."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.environment import merge_network_environment
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.python import DISTRIBUTION, debian_pip
from ansible_collections.django_vps.stack.plugins.module_utils.sandbox import CERTIFICATES

UV_HOME = Path("/usr/local/lib/django_vps")

#: Folders that the sandbox of the build hides, with interpreters such as those of pyenv.
HIDDEN_FOLDERS = ("/root/", "/home/", "/run/user/")


def install_uv(options: dict) -> Path:
    """Return the pinned uv, one for all sites; its wheel contains only a program, so pip can unpack it anywhere."""
    line = options["uv"]
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
            env={**os.environ, "PIP_CERT": CERTIFICATES, **merge_network_environment(options)},
        )
        os.replace(scratch / "uv/bin/uv", path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def find_python(options: dict, versions: str) -> str:
    """Return an interpreter of the host, or install one where all sites find it."""
    environment = {
        **os.environ,
        "UV_CACHE_DIR": str(UV_HOME / "cache"),
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_PREFERENCE": "system",
        "SSL_CERT_FILE": CERTIFICATES,
        **merge_network_environment(options),
        "UV_PYTHON_INSTALL_DIR": str(UV_HOME / "python"),
    }
    uv = str(install_uv(options))
    find = [uv, "python", "find", "--no-project", "--no-python-downloads", versions]
    for preference in (environment["UV_PYTHON_PREFERENCE"], "only-managed"):
        environment["UV_PYTHON_PREFERENCE"] = preference
        try:
            python = run("python", find, env=environment).strip()
        except StepError:
            continue
        if not os.path.realpath(python).startswith(HIDDEN_FOLDERS):
            return python
    # The host has no such interpreter yet.
    run("python", [uv, "python", "install", "--no-bin", versions], env=environment, timeout=600)
    return run("python", find, env=environment).strip()
