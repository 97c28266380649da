"""What the owner of a site types, for tests of scenarios."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from .runs import ROOT

#: Of the scenario's hosts, with the variables that all scenarios have.
INVENTORY = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "."), "inventory")


def play(
    playbook: str, *options: str, nice: int = 10, inventory: Path = INVENTORY, **variables
) -> subprocess.CompletedProcess:
    """Run a playbook on the scenario's hosts; what it said is printed too, for a test that fails."""
    # The controller is another machine than the servers, and takes nothing from them. One that visitors wait for is not
    # busy with other sites either.
    argv = ["nice", f"--adjustment={nice}", "ansible-playbook", f"playbooks/{playbook}.yml", "-i", str(inventory)]
    argv += [*options, "--extra-vars", json.dumps(variables)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    return done
