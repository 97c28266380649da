# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find out on which file system a folder is."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: Types of file systems that several hosts can mount; those of FUSE are called fuse.something.
SHARED = re.compile(
    r"nfs4?|cifs|smb3|ceph|lustre|gfs2?|ocfs2|9p|virtiofs|afs|beegfs|gpfs|orangefs"
    r"|fuse\.(?!(lxcfs|gvfs|gvfsd-fuse|overlayfs|fuse-overlayfs|mergerfs|encfs|gocryptfs|portal|snapfuse|squashfuse)$).*"
)


def is_shared(folder: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Return whether a folder is on a file system that other hosts can mount too."""
    path = os.path.realpath(folder)
    kinds = {}
    for line in Path(mounts).read_text(errors="replace").splitlines():
        before, _dash, after = line.partition(" - ")
        # The file has spaces and similar characters as octal numbers; of two mounts at one place the later is on top.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        kinds[point] = after.split()[0]
    above = (point for point in kinds if path == point or path.startswith(f"{point.rstrip('/')}/"))
    return bool(SHARED.fullmatch(kinds[max(above, key=len)]))
