# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prepare the environment of a release and of its build."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file

#: The fewest characters of a value of an environment that is masked in the result.
MIN_MASKED_LENGTH = 8


def quote_value(value: str) -> str:
    """Quote a value for a file of environment variables of systemd."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def ensure_secret_key(path: Path) -> str:
    """Return the site's secret key; the first call generates and stores it."""
    if not path.exists():
        write_file(path, secrets.token_urlsafe(48) + "\n", 0o600)
    return path.read_text().strip()


def merge_network_environment(options: dict) -> dict[str, str]:
    """Return the environment of the build's programs that use the network."""
    given = {**options["fetch_environment"], **options["build_environment"]}
    return {name: str(value) for name, value in given.items()}


def mask_values(module: AnsibleModule, values: list) -> None:
    """Mask long values in the output of the module; a short one, such as 1, would mask half of the result."""
    long = {str(value) for value in values if len(str(value)) >= MIN_MASKED_LENGTH}
    try:
        from ansible.module_utils.secrets import register_secrets
    except ImportError:
        # Before ansible-core 2.22.
        module.no_log_values |= long
    else:
        register_secrets(long)
