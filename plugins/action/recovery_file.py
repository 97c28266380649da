# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep the secrets of a repository in a file on the controller."""

from __future__ import annotations

import contextlib
import json
import secrets
from pathlib import Path

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib
from ansible.plugins.action import ActionBase
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file

with contextlib.suppress(ImportError):
    # ansible-core requires it, but the import test of ansible-test runs without it.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def new_ssh_key() -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        spec = {
            "path": {"type": "path", "required": True},
            "repository": {"type": "str", "required": True},
            "found": {"type": "str", "default": "", "no_log": True},
        }
        _result, arguments = self.validate_argument_spec(spec)
        changed = self.keep(Path(arguments["path"]), arguments["repository"], arguments["found"])
        return {**result, "changed": changed}

    def keep(self, path: Path, repository: str, found: str) -> bool:
        """Write the file if it differs from what the host or the file itself has."""
        present = self.read(path)
        try:
            of_file, of_host = (json.loads(text or "{}") for text in (present, found))
            known = {**of_file, **of_host}
        except (ValueError, TypeError) as error:
            raise AnsibleActionFail(f"backup_recovery_file: {path} is not a recovery file: {error}") from error
        if len({each["password"] for each in (of_file, of_host) if each.get("password")}) > 1:
            raise AnsibleActionFail(
                f"backup_recovery_file: {path} has another password than the host, and nothing was changed. Fix: if the"
                " file has that of the repository, move backup/secrets.json in the site_config_dir of the host away;"
                " if the host has it, move the file away. Keep what you move."
            )
        wanted = {
            "backup_repository": repository,
            "password": known.get("password") or secrets.token_hex(32),
            "ssh_key": known.get("ssh_key") or new_ssh_key(),
        }
        content = json.dumps(wanted, indent=1) + "\n"
        in_vault = path.exists() and path.read_bytes().startswith(b"$ANSIBLE_VAULT")
        changed = content != present or bool(self._loader._vault.secrets) > in_vault
        if changed and not self._task.check_mode:
            self.write(path, content)
        return changed

    def read(self, path: Path) -> str:
        if not path.exists():
            return ""
        try:
            return self._loader.get_text_file_contents(str(path))
        except AnsibleError as error:
            raise AnsibleActionFail(f"backup_recovery_file: {path} cannot be read: {error}") from error

    def write(self, path: Path, content: str) -> None:
        vault: VaultLib = self._loader._vault
        data = vault.encrypt(content).decode() if vault.secrets else content
        try:
            write_file(path, data, 0o600)
        except OSError as error:
            raise AnsibleActionFail(
                f"backup_recovery_file: {path}: {error.strerror}. Fix: name a file in a folder that you can write to."
            ) from error
        self._display.display(f"{path} is needed to read the backups on a new host. Keep a copy in a safe place.")
