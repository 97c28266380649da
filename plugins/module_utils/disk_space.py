# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Measure releases, and check that the disk has space for another one."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

#: The space to require for the first release, whose size is not known yet.
FIRST_RELEASE_SIZE = {"bytes": 100 << 20, "files": 5000}


def measure_size(folder: Path) -> dict[str, int]:
    """Return bytes and files of a release; shared files count, because the next release can need its own."""
    stats = [os.lstat(os.path.join(base, name)) for base, folders, files in os.walk(folder) for name in folders + files]
    return {"bytes": sum(stat.st_blocks * 512 for stat in stats), "files": len(stats)}


def require_space(site: Site) -> None:
    """Refuse a build that could fill the disk that the site needs; the last release must fit twice."""
    last = [facts for facts in map(site.facts, site.complete_releases()) if "bytes" in facts][-1:]
    wanted = {"bytes": 2 * last[0]["bytes"], "files": 2 * last[0]["files"]} if last else FIRST_RELEASE_SIZE
    for path, need in ((site.home, wanted), (Path("/var"), FIRST_RELEASE_SIZE)):
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
