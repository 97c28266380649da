# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Replace folders in the source by links to folders that all releases share."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.sandbox import Workspace
from ansible_collections.django_vps.stack.plugins.module_utils.settings_check import is_free


def link_shared_paths(workspace: Workspace) -> None:
    """Replace the folders that the project writes by links to folders that are kept when the release is removed."""
    uid, gid = pwd.getpwnam(workspace.options["user"])[2:4]
    for name in workspace.options["shared_paths"]:
        path = workspace.code / name
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(workspace.code)) or not is_free(path):
            raise StepError(
                "source",
                f"{name} holds files of the source",
                "Write a folder that only the site fills into django_shared_paths.",
            )
        folder = workspace.site.home / "shared"
        for part in ("", *Path(name).parts):
            # In a folder that the site can write, a link could lead root to any path.
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
        _replace_by_link(workspace, "source", path, folder)


def move_media(workspace: Workspace, root: Path) -> None:
    """Replace the folder of the project's uploads by a link to the shared one."""
    shared = Path(os.path.realpath(workspace.options["media"]))
    if not is_free(root):
        # Files such as default pictures; --no-clobber keeps newer uploads of the same name and modes of folders.
        copy = ("cp", "--recursive", "--no-clobber", f"{root}/.", str(shared))
        workspace.run_sandboxed("media", *copy, writes=str(shared))
    _replace_by_link(workspace, "media", root, shared)


def _replace_by_link(workspace: Workspace, step: str, path: Path, target: Path) -> None:
    # This runs as the site's user, because the project's code can have changed this path.
    link = 'rm -rf "$1" && mkdir -p "$(dirname "$1")" && ln -s "$2" "$1"'
    workspace.run_sandboxed(step, "sh", "-c", link, "sh", str(path), str(target))
