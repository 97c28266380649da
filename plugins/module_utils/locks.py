# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files to lock."""

from __future__ import annotations

import os


def private_file(path: str | os.PathLike[str]) -> int:
    """Open a file that root alone can open, for whoever can read a file can lock it, and keep all others waiting."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.fchmod(handle, 0o600)
    return handle
