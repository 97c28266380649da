#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: check_inventory
short_description: Refuse an inventory that cannot work, before any host is spoken to
version_added: 1.0.0
description:
  - Judges the variables that the inventory and the command line give to a host, and names all that
    is wrong at once, a line for each, with what to write instead. Values that may be secret are
    not repeated.
  - Refused are variables with the prefix C(site_) or of a role that no argument spec knows, those
    that the playbooks hand to the roles themselves, values of another kind than the spec says,
    values that would do harm where they end up, and values that contradict each other.
  - Refused too are names of variables and groups that are nearly one of the stack's, and a C(--limit) that leaves
    nothing to do.
  - A value that is made of C(ansible_facts) is not judged, as the host has told nothing yet.
options:
  groups:
    description: The run needs a host of one of these groups.
    type: list
    elements: str
    default: [web, app, database, valkey]
  deploys:
    description: Whether the run brings a release. If not, the source is not judged.
    type: bool
    default: true
  source:
    description: Where the source that C(django_source) names by an address is by now. With it that alone is judged.
    type: path
attributes:
  action:
    description: Runs on the controller alone.
    support: full
  check_mode:
    description: Changes nothing.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
notes:
  - There is no module behind it, the action plugin does the work without a connection.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Refuse variables that cannot work
  django_vps.stack.check_inventory:
    groups: [app]
"""

RETURN = r"""#"""
