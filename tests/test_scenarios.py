"""Every molecule scenario, each with containers and a state folder of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.durations import Steps
from support.runs import ROOT, Run

#: The main path, which is part of every run.
MAIN = "default"
#: Measures how long visitors wait.
QUIET = "redeploy"
#: The longest, the longest first.
LONG = ["cluster", "host", "default", "front", "broken_release", "projects", "rollback", "backup", "upgrade"]

#: Seconds until a scenario is ended because it hangs; the longest takes 18 minutes on two cores. A test of it has less
#: time, because pytest then shows what each thread was waiting for.
LIMIT = 45 * 60
LIMIT_OF_TEST = 30 * 60


def scenarios():
    for name in sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")):
        marks = [] if name == MAIN else [pytest.mark.extended]
        marks += [pytest.mark.quiet] if name == QUIET else []
        marks += [pytest.mark.early(LONG.index(name))] if name in LONG else []
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("scenario", list(scenarios()))
def test_scenario(scenario, request):
    if "image: site-" in (ROOT / "molecule" / scenario / "molecule.yml").read_text():
        request.getfixturevalue("site_images")
    log = ROOT / ".cache" / f"scenario-{scenario}.log"
    with Run() as run, log.open("w") as output, Steps(scenario, run.folder) as steps:
        environment = {
            **run.environment,
            "MOLECULE_EPHEMERAL_DIRECTORY": str(run.folder),
            "MOLECULE_GLOB": "molecule/*/molecule.yml",
            "NO_COLOR": "1",
            "PYTHONPATH": str(ROOT / "tests/support/controller"),
            "VPS_MODULES": str(run.folder / "modules"),
            "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -o faulthandler_timeout={LIMIT_OF_TEST}"
            " -o faulthandler_exit_on_timeout=true",
        }
        argv = ["molecule", "test", "--scenario-name", scenario, "--destroy", "never"]
        # The output goes to a file, because a process in the background would keep a pipe open.
        options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT, "process_group": 0}
        with subprocess.Popen(argv, cwd=ROOT, env=environment, **options) as molecule:
            try:
                follow(molecule, log, steps)
            except BaseException:
                os.killpg(molecule.pid, signal.SIGKILL)
                raise
    if molecule.returncode:
        pytest.fail(f"{log}:\n{told(log)}", pytrace=False)


def follow(molecule: subprocess.Popen, log: Path, steps: Steps) -> None:
    """Note the steps until molecule ends, or end it."""
    began = time.monotonic()
    with log.open(errors="replace") as lines:
        while molecule.poll() is None:
            if time.monotonic() - began > LIMIT:
                pytest.fail(f"{log}: not done after {LIMIT // 60} minutes:\n{told(log)}", pytrace=False)
            time.sleep(0.2)
            for line in lines:
                steps.read(line)


def told(log: Path) -> str:
    """What failed and why, without the code of the tests: a CI shows a part of what it is given."""
    lines = log.read_text(errors="replace").splitlines()
    failures = [number for number, line in enumerate(lines) if re.match("=+ (FAILURES|ERRORS) =+$", line)]
    if not failures:
        return "\n".join(lines[-60:])
    return "\n".join(line[:300] for line in lines[failures[0] :] if re.match(r"_+ .* _+$|>  |E  |\S+:\d+: ", line))
