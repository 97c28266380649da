# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remove old releases, and the assets that no release has any more."""

from __future__ import annotations

import os

from ansible_collections.django_vps.stack.plugins.module_utils.assets import prune_assets
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import remove_tree
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site


def prune_releases(site: Site, release: str, keep: int, running: set[str]) -> tuple[list[str], str]:
    """Remove releases beyond the number to keep, and older ones that were never live, but none that is needed.

    Returns the ids of the removed releases, and a message when some of their files could not be removed.
    """
    complete, switches = site.complete_releases(), site.switches()
    needed = {release, site.live, *running, *(entry["from"] for entry in switches[-1:])}
    needed.add(site.previous(release))
    # The releases that were live last are kept longest.
    lived = list(dict.fromkeys(entry["to"] for entry in reversed(switches) if entry["to"] in complete))
    kept = {*lived[:keep], *needed, *(name for name in complete if name > release)}
    removed = [name for name in complete if name not in kept]
    for name in removed:
        site.removed.mkdir(mode=0o700, exist_ok=True)
        os.rename(site.releases / name, site.removed / name)
    if site.removed.exists():
        prune_assets([site.releases / name / "static" for name in site.complete_releases()], site.home / "static")
        try:
            remove_tree(site.removed)
        except StepError as error:
            # This error must not mark a release as bad.
            return removed, str(error)
    return removed, ""
