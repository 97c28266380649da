# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Move the static files of a release to the folder from which nginx serves them, and compress them."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.assets import list_hashed_assets
from ansible_collections.django_vps.stack.plugins.module_utils.compress_script import compress
from ansible_collections.django_vps.stack.plugins.module_utils.project_shell import compose_program
from ansible_collections.django_vps.stack.plugins.module_utils.sandbox import Workspace

#: Types of files that compression makes smaller, and the smallest size worth compressing.
COMPRESSIBLE = frozenset(
    f".{kind}" for kind in ("css", "eot", "htm", "html", "js", "json", "map", "mjs", "otf", "svg", "ttf", "txt", "xml")
)
MIN_COMPRESS_BYTES = 1024


def move_static_files(workspace: Workspace, root: Path) -> None:
    """Move collected files from a folder of the project, which nginx cannot read."""
    if root != Path(os.path.realpath(workspace.static)):
        move = 'cp -a "$1/." "$2/" && rm -rf "$1" && ln -s "$2" "$1"'
        workspace.run_sandboxed("collectstatic", "sh", "-c", move, "sh", str(root), str(workspace.static))


def compress_static_files(workspace: Workspace) -> None:
    """Compress files once and not for each request; files whose copy has a hash in its name are not requested."""
    static = workspace.static
    every = (str(path.relative_to(static)) for path in static.rglob("*") if path.is_file())
    names = list_hashed_assets(static) or every
    names = [name for name in sorted(names) if Path(name).suffix in COMPRESSIBLE and "\n" not in name]
    names = [name for name in names if (static / name).stat().st_size >= MIN_COMPRESS_BYTES]
    if names:
        folders = (str(static), str(workspace.site.home / "static"))
        lines = "".join(f"{name}\n" for name in names)
        program = compose_program(compress, "compress(*sys.argv[1:])")
        python = (str(workspace.venv / "bin/python"), "-I", "-S", "-c", program)
        workspace.run_sandboxed("collectstatic", *python, *folders, stdin=None, input=lines)
