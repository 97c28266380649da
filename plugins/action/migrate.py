# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run the module, and display a migration that takes long while it runs."""

from __future__ import annotations

import json
import shlex
import threading

from ansible.plugins.action import ActionBase
from ansible_collections.django_vps.stack.plugins.module_utils.errors import make_printable
from ansible_collections.django_vps.stack.plugins.module_utils.migrations import progress_file

#: Seconds between two messages.
INTERVAL = 10


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        ended = threading.Event()
        if not self._task.check_mode:
            threading.Thread(target=self.report, args=(ended,), daemon=True).start()
        try:
            return self._execute_module("django_vps.stack.migrate", module_args=self._task.args, task_vars=task_vars)
        finally:
            ended.set()

    def report(self, ended: threading.Event) -> None:
        """Read the progress from the host over a separate connection, and display it."""
        command = f"cat {shlex.quote(str(progress_file(self._task.args['home'])))} && date +%s"
        while not ended.wait(INTERVAL):
            message = describe(self._low_level_execute_command(command)["stdout"])
            if message and not ended.is_set():
                self._display.display(f"migrate: {message}")


def describe(output: str) -> str:
    """Return a message from the progress file and the clock of the host; empty when no migration runs."""
    try:
        progress, now = output.splitlines()
        progress = json.loads(progress)
        return f"{make_printable(progress['migration'])} has been running for {int(now) - progress['since']} s"
    except (ValueError, KeyError, TypeError):
        return ""
