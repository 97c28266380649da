# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return the restore point that the database hosts of a site have named before migrations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DOCUMENTATION = r"""
name: restore_point
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Restore point of a deploy, by what the database hosts have reported
description:
  - The primary reports a set of the backup. A standby reports none, and need not be reachable.
options:
  _input:
    description: Result of a task that has run the backup on each database host in a loop. Can be empty.
    type: dict
    required: true
"""

EXAMPLES = r"""
backup_restore_point: "{{ __backup_asked | default({}) | django_vps.stack.restore_point }}"
"""

RETURN = r"""
_value:
  description: The restore point.
  type: dict
  contains:
    set:
      description: Id of the set that restores the database. Empty if there is none.
      type: str
    time:
      description: Time of the set in UTC. Empty if there is none.
      type: str
    message:
      description: A sentence about the set, or why there is none. Empty where none is needed, as for an empty database.
      type: str
    failures:
      description: A line for each host that failed to report. Empty if another host has reported a set.
      type: list
      elements: str
"""

#: Exit code of argparse for a command that the program does not know.
UNKNOWN_COMMAND = 2


def restore_point(asked: Mapping[str, Any]) -> dict[str, Any]:
    message, failures = "", []
    for answer in asked.get("results", ()):
        host, output = answer["item"], answer.get("stdout", "")
        if output.startswith("{"):
            if report := json.loads(output):
                return {**{name: report[name] for name in ("set", "time", "message")}, "failures": []}
        elif answer.get("unreachable"):
            failures.append(f"{host}: {answer['msg']}")
        elif answer.get("rc") == UNKNOWN_COMMAND:
            failures.append(f"{host}: its backup is of an earlier version of the stack; run site.yml")
        elif answer.get("rc"):
            failures.append(f"{host}: {answer.get('stderr') or answer.get('msg')}")
        elif output:
            # The module has found no command to run.
            message = f"{host} has no backup yet, so there is no set to go back to; site.yml sets it up"
    return {"set": "", "time": "", "message": message, "failures": failures}


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"restore_point": restore_point}
