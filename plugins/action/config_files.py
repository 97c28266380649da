# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Render the templates of the files, and test a new login before changes to logins become permanent."""

from __future__ import annotations

import re
import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader
from ansible.template import trust_as_template

# These come before the options of the user, because ssh uses the first value of an option.
OWN = "-o ControlMaster=no -o ControlPath=none -o ControlPersist=no -o ConnectTimeout=5 "
# sshd does not listen for a moment while it reloads. A refused login is not tried again, because sshd and fail2ban
# count failed logins.
PASSING = re.compile("Connection (refused|reset|closed)")
TRIES = 3


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        if isinstance(files := self._task.args.get("files"), list):
            self._task.args["files"] = [self.rendered(spec) for spec in files]
        done = self.module(task_vars)
        if done.pop("prove", False):
            refusal = self.try_to_log_in()
            try:
                after = self.module(task_vars, login="refused" if refusal else "good")
            except AnsibleConnectionFailure:
                after = {"failed": True, "msg": "The host reverts them within a minute."}
            if refusal:
                back = after["msg"] if after.get("failed") else "They are reverted."
                after = {"failed": True, "msg": f"With these settings no login succeeds: {refusal}\n{back}"}
            done |= {name: after[name] for name in ("failed", "msg") if name in after}
        return {**result, **done}

    def rendered(self, spec: Any) -> Any:
        """Return a spec with `content` in place of `template`; the module reports a spec that is not a dictionary."""
        if not isinstance(spec, dict) or "template" not in spec:
            return spec
        if "content" in spec:
            raise AnsibleActionFail(f"{spec.get('path')}: content and template exclude each other")
        spec, name = dict(spec), spec["template"]
        del spec["template"]
        if spec.get("state", "file") == "file":
            lookup = f"{{{{ lookup('ansible.builtin.template', {str(name)!r}) }}}}"
            spec["content"] = self._templar.template(trust_as_template(lookup))
        return spec

    def module(self, task_vars: dict, **more) -> dict:
        arguments = {**self._task.args, **more}
        # Otherwise the host's log would contain every configuration with its secrets.
        quiet = {**task_vars, "ansible_no_target_syslog": True}
        return self._execute_module("django_vps.stack.config_files", module_args=arguments, task_vars=quiet)

    def try_to_log_in(self) -> str:
        for _try in range(TRIES):
            refusal = self.log_in()
            if not PASSING.search(refusal):
                break
            time.sleep(1)
        return refusal

    def log_in(self) -> str:
        """Return why a new login with the rights of the play fails; empty when it succeeds."""
        held = self._connection
        try:
            self._connection = fresh = connection_loader.get(held.transport, self._play_context)
            fresh.set_options(direct={name: held.get_option(name) for name in held._options})
            if "ssh_args" in fresh._options:
                fresh.set_option("ssh_args", OWN + (fresh.get_option("ssh_args") or ""))
                fresh.set_option("reconnection_retries", 0)
            fresh.set_become_plugin(held.become)
            done = self._low_level_execute_command("echo logged in")
            return "" if "logged in" in done["stdout"] else (done["stderr"] or done["stdout"]).strip()
        except AnsibleError as error:
            return str(error)
        finally:
            self._connection = held
