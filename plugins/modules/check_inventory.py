#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: check_inventory
short_description: Check the variables of a host, before Ansible connects to it
version_added: 1.0.0
description:
  - Checks the variables that the inventory and the command line give to a host, and reports all problems at once, one
    on a line, each with a fix. It does not repeat values that can be secret.
  - Refuses variables with the prefix C(site_) or the prefix of a role that are in no argument spec, variables that the
    playbooks pass to the roles themselves, values of another type than that of the spec, values that would do harm in
    the place where they are used, and values that contradict each other.
  - Also refuses names of variables and groups that are similar to one of the stack, and a C(--limit) that leaves no
    host for the run.
  - Does not check a value that uses C(ansible_facts), because Ansible has not read the facts of the host yet.
options:
  groups:
    description: Groups of which the run needs at least one host.
    type: list
    elements: str
    default: [web, app, database, valkey]
  deploys:
    description: Whether the run deploys a release. If not, the source is not checked.
    type: bool
    default: true
  reads:
    description:
      - Variables that the playbook itself reads from the command line. Others from the command line that belong to
        another playbook, or whose names have a word of these, are refused, unless an expression of the inventory uses
        them. Without this option, none is.
    type: list
    elements: str
  source:
    description: >-
      Path of the source on the controller, such as that of the one that was fetched from the address in
      C(django_source). With this option, only the source is checked.
    type: path
  python:
    description: >-
      Version of the host's Python. With this option and O(source), a project for which pip installs packages is
      refused if it requires another version.
    type: str
    default: ""
attributes:
  action:
    description: Runs only on the controller.
    support: full
  check_mode:
    description: Changes nothing.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
notes:
  - The action plugin does all of the work without a connection, so there is no module on the host.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Check the variables of the inventory
  django_vps.stack.check_inventory:
    groups: [app]
"""

RETURN = r"""#"""
