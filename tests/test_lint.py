"""The tools that read the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ["ansible-lint", "--offline", "--strict"],
        ["yamllint", "--strict", "."],
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["ansible-playbook", "--syntax-check", "site.yml", "-i", "inventories/prod"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_code_is_clean(root, command):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
