# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Choose the interpreter of a release."""

from __future__ import annotations

import os

from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.python import DISTRIBUTION, fits, wanted
from ansible_collections.django_vps.stack.plugins.module_utils.sandbox import Workspace
from ansible_collections.django_vps.stack.plugins.module_utils.uv import find_python


def choose_python(workspace: Workspace) -> str:
    """Return the selected interpreter, else the distribution's where it fits, else one that uv finds or installs."""
    options, option = workspace.options, workspace.options["python"]
    if option.startswith("/"):
        major = workspace.run_sandboxed("python", option, "-c", "import sys; print(sys.version_info[0])").strip()
        if major != "3":
            raise StepError("python", f"{option} is no Python 3 (it says {major!r})", "Correct django_python.")
        return os.path.realpath(option)
    # As for uv, 3.12 means any version 3.12.
    versions, where = (f"=={option}.*" if option[:1].isdigit() else option, "django_python")
    if not option:
        versions, where = wanted(workspace.project, workspace.code)
    own = run("python", [DISTRIBUTION, "-c", "import platform; print(platform.python_version())"]).strip()
    if not versions or fits(own, versions, where):
        return DISTRIBUTION
    cause = f"{where} asks for Python {versions.removeprefix('==').removesuffix('.*')}, and the host's is {own}"
    way_out = f"set django_python to the path of one that is on the host, or to versions that {own} fits"
    if options["installer"] != "uv":
        raise StepError("python", cause, f"Leave out django_installer, as uv fetches one; or {way_out}.")
    try:
        # Return the file itself and not a link, because the interpreter finds its library from the path of the file.
        return os.path.realpath(find_python(options, versions))
    except StepError as error:
        raise StepError(
            "python",
            f"{cause}; uv cannot fetch another:\n{error.cause}",
            "Let the host reach that address (site_network_environment names a proxy, or UV_PYTHON_INSTALL_MIRROR);"
            f" or {way_out}.",
        ) from None
