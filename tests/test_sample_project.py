"""The sample project's own tests, with the packages of the test environment."""

from __future__ import annotations

import os
import subprocess
import sys


def test_the_sample_project_passes_its_own_tests(root):
    done = subprocess.run(
        [sys.executable, "manage.py", "test"],
        cwd=root / "sample_project",
        env={**os.environ, "DEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 0 tests" not in done.stderr
