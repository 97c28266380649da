# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check the state of the host, which the module of this name reads."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase
from ansible_collections.django_vps.stack.plugins.module_utils.errors import refer
from ansible_collections.django_vps.stack.plugins.plugin_utils.host_state import judge_host


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        state = self._execute_module(module_args=self._task.args, task_vars=task_vars)
        if state.get("failed") or "ansible_facts" not in state:
            return {**result, **state}
        result |= {"ansible_facts": state["ansible_facts"], "changed": False}
        arguments = state["invocation"]["module_args"]
        if found := list(judge_host(task_vars["inventory_hostname"], arguments, state, time.time())):
            result |= {"failed": True, "msg": "\n".join([*found, refer("the-server")])}
        return result
