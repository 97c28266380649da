"""A sample of the points that tests/kill_at_every_task kills runs at."""

from __future__ import annotations

import subprocess

import pytest


@pytest.mark.extended
@pytest.mark.early(10)
@pytest.mark.usefixtures("site_images")
def test_killed_deploy_keeps_the_site_up_and_next_run_fixes_it(root, tmp_path):
    done = subprocess.run(
        [root / "tests/kill_at_every_task", "--playbook", "deploy", "--points", "1", "--logs", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)
    assert done.stdout.count("1/1 recovered") == 2
