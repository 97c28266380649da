"""Record the durations of a scenario's steps and tests, and the processor time of its containers.

The hook is for molecule/conftest.py, `Steps` for the caller of molecule; tests/durations prints the records of both.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from .runs import ROOT

#: The folder with a file for the last run of each scenario.
NOTES = ROOT / ".cache/durations"
NOTES_OF_RUN = "durations.jsonl"
STEP = re.compile(r"^INFO +\[\w+ > (\w+)\] Executing$")


def note(folder: Path, **what: str | float) -> None:
    with (folder / NOTES_OF_RUN).open("a") as file:
        file.write(json.dumps(what) + "\n")


class Steps:
    """A recorder of the steps of a scenario from the output of molecule."""

    def __init__(self, scenario: str, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.step, self.began = "", 0.0

    def __enter__(self) -> Steps:
        return self

    def read(self, line: str) -> None:
        if step := STEP.match(line):
            self.end()
            self.step, self.began = step[1], time.monotonic()

    def end(self) -> None:
        if self.step:
            note(self.folder, step=self.step, seconds=time.monotonic() - self.began)

    def __exit__(self, *_) -> None:
        self.end()
        NOTES.mkdir(exist_ok=True)
        # The file is missing if molecule did not start; then the message of molecule is enough.
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(self.folder / NOTES_OF_RUN, NOTES / f"{self.scenario}.jsonl")


def containers() -> list[str]:
    argv = ["docker", "ps", "--quiet", "--no-trunc", "--filter", f"label=django-vps.run={os.environ['VPS_RUN']}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


def processor_seconds(containers: list[str]) -> float:
    """Return the processor time so far of this process, its ended children and the containers."""
    times = os.times()
    used = times.user + times.system + times.children_user + times.children_system
    for container in containers:
        for path in Path("/sys/fs/cgroup").glob(f"cpuacct/docker/{container}/cpuacct.usage"):
            used += int(path.read_text()) / 1e9
        for folder in (f"docker/{container}", f"system.slice/docker-{container}.scope"):
            for path in Path("/sys/fs/cgroup").glob(f"{folder}/cpu.stat"):
                used += int(path.read_text().split()[1]) / 1e6
    return used


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    watched = containers()
    began, used = time.monotonic(), processor_seconds(watched)
    result = yield
    note(
        Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]),
        test=item.nodeid,
        seconds=time.monotonic() - began,
        # A restarted container counts from zero again.
        processor=max(0, processor_seconds(watched) - used),
    )
    return result
