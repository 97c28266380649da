# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return where pgBackRest keeps base backups and WAL."""

from __future__ import annotations

from typing import Any

from ansible_collections.django_vps.stack.plugins.plugin_utils.pgbackrest import pgbackrest_options

DOCUMENTATION = r"""
name: pgbackrest_options
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Options of pgBackRest for a place beside a repository of restic
description:
  - The place is a folder, a path of a bucket, or a path on an SFTP server with the name of the repository and
    C(-pgbackrest).
options:
  _input:
    description: Repository of restic.
    type: str
    required: true
  environment:
    description: Environment of restic, which has the credentials of S3.
    type: dict
    required: true
  key_file:
    description: SSH key on the host, for SFTP.
    type: str
    required: true
"""

EXAMPLES = r"""
options: "{{ '/var/backups/shop' | django_vps.stack.pgbackrest_options({}, '/etc/pgbackrest/shop.key') }}"
"""

RETURN = r"""
_value:
  description: Options without their prefix C(repo1-), such as C(type) and C(path).
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"pgbackrest_options": pgbackrest_options}
