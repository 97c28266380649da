"""What tells the containers of one run from those of another, so that none outlives its run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Who shares the machine locks it (LOCK_SH), and who wants it alone (LOCK_EX).
MACHINE = ROOT / ".cache/machine.lock"


def labels(run: str) -> list[str]:
    """Options of docker by which a sweep finds what belongs to a run."""
    return [f"--label=django-vps.checkout={ROOT}", f"--label=django-vps.run={run}"]


class Run:
    """A folder and an id; when the block ends, the folder, the containers and the networks of that id are removed.

    While the run lasts it holds the lock .cache/runs/ID, which has the path of the folder. `tools/vps sweep` removes
    what belongs to runs that hold none, so the next run removes what a killed one left.
    """

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex[:8]
        # The sockets of SSH's connections lie in the folder, and their paths have to be short.
        self.folder = Path(tempfile.gettempdir(), f"vps-{self.id}")
        #: For `tools/vps`, molecule and ansible-playbook.
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VPS_RUN": self.id,
            "VPS_ROOT": str(ROOT),
        }

    def __enter__(self) -> Run:
        (ROOT / ".cache/runs").mkdir(parents=True, exist_ok=True)
        # No sweep may come between the file and its lock.
        with no_sweep():
            self.lock = (ROOT / ".cache/runs" / self.id).open("w")
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            self.lock.write(str(self.folder))
            self.lock.flush()
            self.folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_) -> None:
        self.lock.close()
        sweep()


@contextlib.contextmanager
def no_sweep() -> Iterator[None]:
    """Keep sweeps waiting."""
    with (ROOT / ".cache/runs.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sweep() -> None:
    """Remove what runs that have ended left behind."""
    subprocess.run([ROOT / "tools/vps", "sweep"], check=True)
