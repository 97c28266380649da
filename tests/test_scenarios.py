"""Every molecule scenario, each with containers and a state folder of its own."""

from __future__ import annotations

import re
import subprocess

import pytest
from support.durations import Steps
from support.runs import ROOT, Run

#: The main path, which is part of every run.
MAIN = "default"
#: Measures how long visitors wait.
QUIET = "redeploy"
#: The longest, the longest first.
LONG = ["cluster", "host", "default", "front", "broken_release", "projects", "rollback", "upgrade"]


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
        }
        argv = ["molecule", "test", "--scenario-name", scenario, "--destroy", "never"]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(argv, cwd=ROOT, env=environment, text=True, errors="replace", **pipes) as molecule:
            try:
                for line in molecule.stdout:
                    output.write(line)
                    output.flush()
                    steps.read(line)
            except BaseException:
                molecule.kill()
                raise
    if molecule.returncode:
        pytest.fail(f"{log}:\n{told(log.read_text())}", pytrace=False)


def told(log: str) -> str:
    """What failed and why, without the code of the tests: a CI shows a part of what it is given."""
    lines = log.splitlines()
    failures = [number for number, line in enumerate(lines) if re.match("=+ (FAILURES|ERRORS) =+$", line)]
    if not failures:
        return "\n".join(lines[-60:])
    return "\n".join(line[:300] for line in lines[failures[0] :] if re.match(r"_+ .* _+$|>  |E  |\S+:\d+: ", line))
