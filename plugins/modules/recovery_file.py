#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: recovery_file
short_description: Write the secrets that the backups of a site need to a file on the controller
version_added: 1.0.0
description:
  - Writes the address of the repository, its password and an SSH key as JSON with the mode C(0600). When Ansible has a
    vault password, the file is encrypted by Ansible Vault.
  - The secrets are those that a host of the site has, else those of an existing file, else new ones. So a bare host
    gets the secrets of the host that it replaces. When both have a password and they differ, the module fails.
options:
  path:
    description: File on the controller. Its folder must exist.
    type: path
    required: true
  repository:
    description: Address of the repository of restic.
    type: str
    required: true
  found:
    description: Content of the same file on a host of the site. Empty when no host has it.
    type: str
    default: ""
attributes:
  action:
    description: Runs only on the controller.
    support: full
  check_mode:
    description: Reports whether the file would change.
    support: full
  diff_mode:
    description: Shows nothing, because the file contains secrets.
    support: none
notes:
  - The action plugin does all of the work without a connection, so there is no module on the host.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Write the recovery file on the controller
  django_vps.stack.recovery_file:
    path: "{{ inventory_dir }}/shop-recovery.txt"
    repository: sftp:backup@backup.example.com:shop
"""

RETURN = r"""#"""
