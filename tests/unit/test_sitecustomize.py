"""What the tests change in Ansible on the controller."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CONTROLLER = Path(__file__).parents[1] / "support/controller"
HOSTS = 6
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Display more than a pipe holds
      chatter:
      when: inventory_hostname != "localhost5"
    - name: Skip a task on all hosts but one
      chatter:
      when: inventory_hostname == "localhost0"
"""
ACTION = """
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        for _ in range(50):
            Display().vvvv("x" * 50_000)
        return {"changed": False}
"""


def test_a_skipped_task_does_not_wait_for_the_output_of_others(tmp_path):
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins/chatter.py").write_text(ACTION)
    (tmp_path / "site.yml").write_text(PLAYBOOK)
    hosts = ",".join(f"localhost{number}" for number in range(HOSTS))
    done = subprocess.run(
        ["ansible-playbook", "-vvvv", "-i", hosts, "-c", "local", "site.yml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CONTROLLER)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipping: [localhost") == HOSTS
