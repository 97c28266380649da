"""What a run leaves when it is killed is removed by the next one, and no other run loses anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.runs import ROOT, Run, no_sweep, sweep

#: A run with a container, a network and a folder, which lasts until it is killed.
PROGRAM = """
import subprocess, time
from support.runs import ROOT, Run, labels

with Run() as run:
    argv = ["docker", "network", "create", *labels(run.id), f"vps-{run.id}"]
    subprocess.run(argv, check=True, capture_output=True)
    subprocess.run([ROOT / "tools/vps", "up", "left", "trixie"], env=run.environment, check=True, capture_output=True)
    print(run.id, run.folder, flush=True)
    time.sleep(600)
"""


def start() -> tuple[subprocess.Popen, str, Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT / "tests", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run, folder = process.stdout.readline().split()
    return process, run, Path(folder)


def what_is_there(run: str, folder: Path) -> tuple[int, int, bool]:
    """How many containers and networks bear the id of a run, and whether it has its folder."""
    label = f"label=django-vps.run={run}"
    counts = [
        len(subprocess.run(["docker", *argv, "--filter", label], capture_output=True, check=True).stdout.splitlines())
        for argv in (["container", "ls", "--quiet", "--all"], ["network", "ls", "--quiet"])
    ]
    return (*counts, folder.exists())


def test_a_sweep_removes_what_a_killed_run_left_and_nothing_else():
    (alive, *of_alive), (killed, *of_killed) = start(), start()
    with alive, killed:
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
