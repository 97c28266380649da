"""The tools that read the code."""

from __future__ import annotations

import subprocess

import pytest


@pytest.mark.early(12)
def test_the_linters_find_nothing(root):
    done = subprocess.run(
        [root / "tools/lint"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
