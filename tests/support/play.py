"""Run playbooks as an administrator does, for the tests of scenarios."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from .runs import ROOT

#: The inventory of the scenario's hosts, with the variables that all scenarios have.
INVENTORY = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "."), "inventory")


def command(playbook: str, *options: str, nice: int = 10, inventory: Path = INVENTORY, **variables) -> list[str]:
    """Return the command that runs a playbook on the scenario's hosts."""
    # A real controller is another machine and takes no processor time from the servers. A server with traffic also has
    # no other busy sites.
    argv = ["nice", f"--adjustment={nice}", "ansible-playbook", f"playbooks/{playbook}.yml", "-i", str(inventory)]
    return [*argv, *options, "--extra-vars", json.dumps(variables)]


def play(playbook: str, *options: str, **more) -> subprocess.CompletedProcess:
    """Run a playbook on the scenario's hosts, and print its output for the report of a failed test."""
    argv = command(playbook, *options, **more)
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    return done
