"""How long the steps and the tests of a scenario take, and how busy its containers are meanwhile.

The hook is for molecule/conftest.py, `Steps` for who runs molecule; tests/durations prints what both noted.
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

#: A file for each scenario, of its last run.
NOTES = ROOT / ".cache/durations"
NOTES_OF_RUN = "durations.jsonl"
STEP = re.compile(r"^INFO +\[\w+ > (\w+)\] Executing$")


def note(folder: Path, **what: str | float) -> None:
    with (folder / NOTES_OF_RUN).open("a") as file:
        file.write(json.dumps(what) + "\n")


class Steps:
    """Notes the steps of a scenario as molecule prints them."""

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
        # Where molecule did not begin there is none, and its own message counts.
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(self.folder / NOTES_OF_RUN, NOTES / f"{self.scenario}.jsonl")


def containers() -> list[str]:
    argv = ["docker", "ps", "--quiet", "--no-trunc", "--filter", f"label=django-vps.run={os.environ['VPS_RUN']}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


def processor_seconds(containers: list[str]) -> float:
    """What this process, the children it waited for and the containers have used so far."""
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
        # A container that has been restarted counts from zero again.
        processor=max(0, processor_seconds(watched) - used),
    )
    return result
