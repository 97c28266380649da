#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: lock
short_description: Lock a host against other runs while this run lasts
version_added: 1.0.0
description:
  - Takes a lock on the host that lasts until C(ansible-playbook) ends, however it ends. A process on the host holds the
    lock, and ends with the connection to the controller of this run. So a run that was killed, or whose controller lost
    its power, blocks no other run, and no lock has to be removed by hand.
  - A lock that another run holds fails the task within five seconds. The message describes that run.
  - The same run can take the lock more than once.
options:
  path:
    description: File of the lock. It stays after the lock is released; only a process that holds it counts.
    type: path
    required: true
  what:
    description: What the run does, for the message of a run that fails because of this lock.
    type: str
    required: true
  run:
    description: Identifier of this run. The action plugin sets it.
    type: str
  who:
    description: Name of the user for messages. By default the user and the host of the controller.
    type: str
attributes:
  check_mode:
    support: full
    description: Takes no lock.
  diff_mode:
    support: none
    description: Changes no files.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Lock the site against other runs
  django_vps.stack.lock:
    path: /run/shop-deploy.lock
    what: deploys shop
"""

RETURN = r"""
who:
  description: Name of the user whose run holds the lock now.
  returned: success
  type: str
  sample: ana@laptop
"""

import fcntl
import json
import os
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.errors import refer

#: Seconds in which a run that has just ended releases the lock, and in which the connection that holds the lock starts.
PATIENCE = 1
CONNECT_SECONDS = 20


def holder(path: Path) -> dict:
    """Return what the run that holds the lock wrote to it; empty if that run has ended."""
    try:
        written = json.loads(path.read_text())
        # The shell of the action plugin has the lock file as file descriptor 9.
        return written if os.path.samefile(f"/proc/{written['process']}/fd/9", path) else {}
    except (OSError, ValueError, KeyError):
        return {}


def is_held(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "what": {"type": "str", "required": True},
            "run": {"type": "str"},
            "who": {"type": "str"},
        },
        supports_check_mode=True,
    )
    path, run = Path(module.params["path"]), module.params["run"]
    began = time.monotonic()
    while not module.check_mode and not (holder(path).get("run") == run and is_held(path)):
        other = holder(path)
        of_another = is_held(path) and other.get("run") != run
        if time.monotonic() - began > (PATIENCE if of_another else CONNECT_SECONDS):
            if of_another:
                module.fail_json(
                    msg=f"lock: {other['who']} {other['what']}, since {other['since']}.\n"
                    "Wait until that run has ended; when it dies, its lock goes with it."
                    f" Where its machine is gone for good, free it on the host: fuser -k {path}"
                    f"\n{refer('lock')}"
                    if other
                    else f"lock: {path} is held, and by no run of the stack.\nSee on the host by what: fuser -v {path}"
                    f"\n{refer('lock')}",
                    holder=other,
                )
            module.fail_json(
                msg=f"lock: {path} cannot be taken, and no process holds it.\n"
                "Is the connection to the host lost, or does its sshd refuse a second session (MaxSessions)?"
                f"\n{refer('lock')}"
            )
        time.sleep(0.05)
    module.exit_json(changed=False, who=module.params["who"] or "")


if __name__ == "__main__":
    main()
