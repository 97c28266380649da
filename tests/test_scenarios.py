"""Every molecule scenario, each with containers and a state folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.usefixtures("machine")
def test_scenario(scenario):
    # The sockets of SSH's connections lie in the folder, and their paths have to be short.
    with tempfile.TemporaryDirectory(prefix="vps-") as folder:
        run_scenario(scenario, folder)


def run_scenario(scenario: str, folder: str) -> None:
    run = uuid.uuid4().hex[:8]
    log = ROOT / ".cache" / f"scenario-{scenario}.log"
    log.parent.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VPS_RUN": run,
        "MOLECULE_EPHEMERAL_DIRECTORY": folder,
        "MOLECULE_GLOB": "molecule/*/molecule.yml",
        "NO_COLOR": "1",
    }
    try:
        with log.open("w") as output:
            done = subprocess.run(
                ["molecule", "test", "--scenario-name", scenario, "--destroy", "never"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            )
    finally:
        remove_containers(run)
    assert done.returncode == 0, f"{log}:\n" + "\n".join(log.read_text().splitlines()[-120:])


def remove_containers(run: str) -> None:
    """Whatever became of the scenario, nothing of it stays."""
    listed = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", f"name={run}"], capture_output=True, text=True, check=True
    )
    if containers := listed.stdout.split():
        subprocess.run(["docker", "rm", "--force", "--volumes", *containers], capture_output=True, check=True)
    networks = subprocess.run(
        ["docker", "network", "ls", "--quiet", "--filter", f"name={run}"], capture_output=True, text=True, check=True
    )
    for network in networks.stdout.split():
        subprocess.run(["docker", "network", "rm", network], capture_output=True, check=True)
