# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take locks that end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError

#: Seconds between two attempts to take a lock.
POLL_SECONDS = 0.1


def open_lock_file(path: str | os.PathLike[str]) -> int:
    """Open a lock file that only root can read, because a user that can read it can lock it and block all others."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


@contextlib.contextmanager
def lock_site(home: Path, timeout_seconds: float = 300) -> Iterator[None]:
    """Wait for the end of a step of an interrupted run, and make other steps wait until this one ends."""
    with os.fdopen(open_lock_file(home / ".lock"), "a") as file:
        end = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StepError(
                        "lock",
                        f"a step of an earlier run still works on {home}",
                        f"See who holds {home}/.lock: fuser -v",
                    ) from None
            time.sleep(POLL_SECONDS)
        yield
