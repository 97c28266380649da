# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pack the source on the controller, and transfer it only when the host does not have that release."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.django_vps.stack.plugins.module_utils.errors import make_printable
from ansible_collections.django_vps.stack.plugins.plugin_utils.private_files import shorten
from ansible_collections.django_vps.stack.plugins.plugin_utils.source import UNREADABLE, pack, untranslated

MODULE = "django_vps.stack.release"

#: Largest packed source, in bytes, that is sent before the host reports that it needs the source.
SMALL = 1 << 20


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        # Secrets among the options must not appear in the host's log.
        task_vars = {**(task_vars or {}), "ansible_no_target_syslog": True}
        source = self._task.args.get("source")
        if not source or not isinstance(source, str):
            raise AnsibleActionFail("source is required: a folder or a .tar.gz on the controller.")
        path = Path(self._loader.path_dwim(os.path.expanduser(source)))
        with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
            try:
                packed = pack(path, archive, self._task.args.get("files") or {}, self._task.args.get("includes") or [])
            except UNREADABLE as error:
                where = getattr(error, "filename", None) or path
                said = f"source: {where}: {getattr(error, 'strerror', None) or error}"
                # Ansible would repeat the text of a cause.
                raise AnsibleActionFail(make_printable(said)) from None
            arguments = {**self._task.args, "source": str(path), "digest": packed.digest}
            # The packed source contains them.
            for name in ("files", "includes"):
                arguments.pop(name, None)
            # A round trip takes longer than the transfer of a small source.
            small = archive.tell() <= SMALL and not self._task.check_mode
            if small:
                archive.seek(0)
                arguments["content"] = base64.b64encode(archive.read()).decode()
            result = self._execute_module(MODULE, module_args=arguments, task_vars=task_vars)
            commands = [*(arguments.get("before_collectstatic") or ()), *(arguments.get("after_collectstatic") or ())]
            if result.get("changed") and (lacking := untranslated(packed.names, commands)):
                self._display.warning(
                    f"{make_printable(shorten(lacking, 5))}: there is no .mo beside it, so visitors do not see that"
                    " translation; write django_build: {before_collectstatic: [python manage.py compilemessages]} and"
                    " django_system_packages: [gettext]"
                )
            if result.get("changed") and packed.kept_back:
                self._display.warning(
                    f"{make_printable(shorten(packed.kept_back))}: kept back, as they look like secrets, dumps or"
                    " caches and git does not track them; what the project needs goes into django_source_includes"
                )
            if result.get("changed") and not small and not self._task.check_mode:
                archive.flush()
                # Ansible removes the temporary folder of a module when it ends, so the source is in another one.
                folder = self._make_tmp_path()
                remote = self._connection._shell.join_path(folder, "source.tar.gz")
                self._transfer_file(archive.name, remote)
                arguments["archive"] = remote
                try:
                    result = self._execute_module(MODULE, module_args=arguments, task_vars=task_vars)
                finally:
                    self._remove_tmp_path(folder, force=True)
        return result
