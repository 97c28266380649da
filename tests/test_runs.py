"""What a run leaves when it is killed is removed by the next one, and no other run loses anything."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.runs import ROOT, Run, no_sweep, sweep

#: A run with a container, a network and a folder, which lasts until it is killed.
PROGRAM = """
import subprocess, time
from support.runs import ROOT, Run, labels

with Run() as run:
    argv = ["docker", "network", "create", *labels(run.id), f"vps-{run.id}"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    argv = [ROOT / "tools/vps", "up", "left", "trixie"]
    subprocess.run(argv, env=run.environment, check=True, stdout=subprocess.DEVNULL)
    print(run.id, run.folder, flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def started() -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """The process of such a run, its id and its folder; the process is killed when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            # Nothing when the start failed; pytest shows its error output.
            line = process.stdout.readline()
            assert line, "the run does not start"
            run, folder = line.split()
            yield process, run, Path(folder)
        finally:
            process.kill()


def what_is_there(run: str, folder: Path) -> tuple[int, int, bool]:
    """How many containers and networks bear the id of a run, and whether it has its folder."""
    label = f"label=django-vps.run={run}"
    counts = [
        len(subprocess.run(["docker", *argv, "--filter", label], capture_output=True, check=True).stdout.splitlines())
        for argv in (["container", "ls", "--quiet", "--all"], ["network", "ls", "--quiet"])
    ]
    return (*counts, folder.exists())


def test_sweep_removes_only_leftovers_of_killed_runs():
    with started() as (alive, *of_alive), started() as (killed, *of_killed):
        # Other tests sweep too.
        with no_sweep():
            killed.kill()
            killed.wait()
            assert what_is_there(*of_killed) == (1, 1, True)
        sweep()
        assert what_is_there(*of_killed) == (0, 0, False)
        assert what_is_there(*of_alive) == (1, 1, True)
        alive.kill()
    sweep()
    assert what_is_there(*of_alive) == (0, 0, False)


def test_a_run_that_ends_leaves_nothing():
    with Run() as run:
        assert what_is_there(run.id, run.folder) == (0, 0, True)
    assert what_is_there(run.id, run.folder) == (0, 0, False)
