# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Choose the interpreter of a release."""

from __future__ import annotations

import os

from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.python import (
    DISTRIBUTION,
    explain_misfit,
    fits,
    refuse_for_pip,
    required,
)
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
    versions, where = required(option, workspace.project, workspace.code)
    own = run("python", [DISTRIBUTION, "-c", "import platform; print(platform.python_version())"]).strip()
    if options["installer"] != "uv":
        refuse_for_pip(own, versions, where)
    if not versions or fits(own, versions, where):
        return DISTRIBUTION
    cause, way_out = explain_misfit(own, versions, where)
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
