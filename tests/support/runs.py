"""Label the containers of a run, so that all of them are removed at the end of the run."""

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
#: The lock of the machine: LOCK_SH for tests that share it, LOCK_EX for one that needs it alone.
MACHINE = ROOT / ".cache/machine.lock"
#: Locked by a test that has the machine alone or waits for it.
QUIET = ROOT / ".cache/quiet.lock"


def labels(run: str) -> list[str]:
    """Return the options of docker by which a sweep finds the objects of a run."""
    return [f"--label=django-vps.checkout={ROOT}", f"--label=django-vps.run={run}"]


class Run:
    """A folder and an id; when the block ends, the folder, the containers and the networks of that id are removed.

    While it lasts, the run holds the lock .cache/runs/ID, which has the path of the folder. `tools/vps sweep` removes
    the objects of runs without a held lock, so the next run removes those of a killed one.
    """

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex[:8]
        # The folder has the sockets of SSH's connections, whose paths must be short.
        self.folder = Path(tempfile.gettempdir(), f"vps-{self.id}")
        #: The environment for `tools/vps`, molecule and ansible-playbook.
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VPS_RUN": self.id,
            "VPS_ROOT": str(ROOT),
        }

    def __enter__(self) -> Run:
        (ROOT / ".cache/runs").mkdir(parents=True, exist_ok=True)
        # No sweep may run between the creation of the file and its lock.
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
    """Make sweeps wait until the block ends."""
    with (ROOT / ".cache/runs.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Have the machine alone, but for tests that take what is left of the processors (`beside`)."""
    with QUIET.open("w") as quiet, MACHINE.open("w") as machine:
        fcntl.flock(quiet, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Share the machine with other tests."""
    with MACHINE.open("w") as machine:
        fcntl.flock(machine, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """Do not wait for the machine; while a test has it alone, take only the processor time that nobody else wants."""
    with QUIET.open("w") as quiet:
        try:
            fcntl.flock(quiet, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def sweep() -> None:
    """Remove the containers, networks and folders of ended runs."""
    subprocess.run([ROOT / "tools/vps", "sweep"], check=True)
