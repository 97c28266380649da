# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hold a lock on the host by a process that ends with this run of ansible-playbook."""

from __future__ import annotations

import getpass
import json
import multiprocessing
import os
import select
import shlex
import signal
import socket
import threading
import time
from pathlib import Path

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# The loop writes to notice the end of the connection: the pipe breaks, or the terminal hangs up.
# LC_ALL is C because flock expects the decimal separator of the locale, which can be a comma.
HOLD = """
umask 077 && exec 9>> {path} && chmod 600 {path} && LC_ALL=C flock --timeout 0.8 9 &&
printf '%s, "process": %d}}' {holder} $$ > {path} && while printf .; do sleep 0.5; done
"""


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        # Each run has its own temporary folder, which all processes of the run share.
        run = Path(constants.DEFAULT_LOCAL_TMP).name
        who = f"{user()}@{socket.gethostname()}"
        arguments = {"who": who, **self._task.args, "run": run}
        if not self._task.check_mode:
            now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            holder = {"run": run, "who": arguments["who"], "what": arguments.get("what"), "since": now}
            # The shell that holds the lock appends its own process id.
            holder = shlex.quote(json.dumps(holder).removesuffix("}"))
            self.hold(HOLD.format(path=shlex.quote(str(arguments.get("path"))), holder=holder))
        return {**result, **self._execute_module("django_vps.stack.lock", module_args=arguments, task_vars=task_vars)}

    def hold(self, command: str) -> None:
        """Run a command on the host until ansible-playbook, the parent of this worker, ends."""
        # os.getppid() would return init, which never ends, if ansible-playbook was killed a moment ago.
        playbook = multiprocessing.parent_process().pid
        if os.fork():
            return
        try:
            # A new process group, so that the connection's processes can be ended with it.
            os.setsid()
            # A worker displays messages through a queue of its parent.
            Display().verbosity = 0
            threading.Thread(target=self.hold_on, args=(command,), daemon=True).start()
            wait_for_end(playbook)
        finally:
            os.killpg(0, signal.SIGKILL)

    def hold_on(self, command: str) -> None:
        try:
            self._low_level_execute_command(command)
        finally:
            os.killpg(0, signal.SIGKILL)


def wait_for_end(process: int) -> None:
    try:
        select.select([os.pidfd_open(process)], [], [])
    except (AttributeError, OSError):
        # The controller is not Linux, or the process has ended already.
        while is_alive(process):
            time.sleep(0.5)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
