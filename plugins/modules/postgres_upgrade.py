#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_upgrade
short_description: Upgrade a cluster of PostgreSQL to another version, or go back
version_added: 1.0.0
description:
  - Copies the cluster with port 5432 to one of the new version with C(pg_upgradecluster) (method C(upgrade)), updates
    its extensions, the indexes whose order the C library or ICU has changed, and its statistics, and compares the
    number of rows of each table with the old cluster. Then the new cluster gets the port.
  - Until then only this module can connect to both clusters. The old one is kept as it was, and does not start at boot.
  - If a step fails, the old cluster serves again, and the new one is removed.
  - An interrupted run is recorded in C(/var/lib/django_vps/postgres_upgrade.json), and the next one completes or
    repeats it.
  - In check mode, it refuses what cannot succeed.
options:
  version:
    description: Major version to upgrade to, whose packages must be installed.
    type: str
    required: true
  state:
    description:
      - V(upgraded) lets the new version serve.
      - V(back) lets the old cluster serve again. The new one stays until the next upgrade, which removes it.
      - V(finished) ends the record of this run. Before, the module reports the run as pending.
    type: str
    choices: [upgraded, back, finished]
    default: upgraded
  primary:
    description: Whether to copy the data. Otherwise the new cluster is empty, and must be made a standby.
    type: bool
    default: true
  socket_dir:
    description: Folder of the socket of the cluster that serves.
    type: path
    default: /run/postgresql
attributes:
  check_mode:
    support: full
    description: Reads the clusters only.
  diff_mode:
    support: none
    description: Reports no differences.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Upgrade to PostgreSQL 17
  django_vps.stack.postgres_upgrade:
    version: "17"
"""

RETURN = r"""
pending:
  description: Whether there was something to do, which includes the end of an interrupted run.
  returned: success
  type: bool
serving:
  description: Cluster with the port before the run. Empty if there is none.
  returned: success
  type: str
  sample: 15 main
target:
  description: Cluster with the port after the run.
  returned: success
  type: str
  sample: 17 main
kind:
  description: Whether the cluster is a C(primary) or a C(standby), or C(new) without a database.
  returned: success
  type: str
error:
  description: Why the upgrade failed, after which the old cluster serves. Empty if it did not fail.
  returned: success
  type: str
seconds:
  description: Seconds in which no cluster was serving.
  returned: success
  type: int
rows:
  description: Number of rows of each table before and after the upgrade.
  returned: success
  type: list
  elements: str
  sample: ["shop public.notes_notice: 3 rows before, 3 after"]
notes:
  description: Commands for extensions, indexes and collations that followed the upgrade.
  returned: success
  type: list
  elements: str
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.postgres_upgrade import Outcome, Plan, Record, Upgrade

#: Seconds to wait for a module of an interrupted run.
PATIENCE = 4 * 3600


def describe(plan: Plan) -> dict[str, object]:
    serving = plan.serving
    kind = "standby" if serving and serving.is_standby else "primary" if serving and serving.has_data else "new"
    names = {"serving": str(serving or ""), "target": plan.target}
    return {"pending": plan.pending, "kind": kind, "error": "", "seconds": 0, "rows": [], "notes": [], **names}


def change(module: AnsibleModule, upgrade: Upgrade) -> dict[str, object]:
    """Do what is pending, and return what the result has of it."""
    began, outcome = time.monotonic(), Outcome()
    try:
        if module.params["state"] == "back":
            upgrade.back()
        else:
            outcome = upgrade.upgrade(module.params["primary"])
    except StepError as error:
        if not upgrade.is_served():
            raise
        serving = upgrade.serving()
        return {"error": f"{error}\nPostgreSQL {serving} serves.", "target": str(serving)}
    rows = [f"{table}: {number} rows before, {number} after" for table, number in outcome.rows.items()]
    return {"seconds": round(time.monotonic() - began), "rows": rows, "notes": outcome.notes}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["upgraded", "back", "finished"], "default": "upgraded"},
            "primary": {"type": "bool", "default": True},
            "socket_dir": {"type": "path", "default": "/run/postgresql"},
        },
        supports_check_mode=True,
    )
    given, record = module.params, Record()
    # Programs of PostgreSQL cannot read the home of the user, and pg_createcluster refuses a locale that is not there.
    os.chdir("/")
    os.environ["LC_ALL"] = "C.UTF-8"
    try:
        if module.check_mode:
            upgrade = Upgrade(os.uname().nodename, given["version"], given["socket_dir"], record)
            plan = upgrade.plan_back() if given["state"] == "back" else upgrade.plan()
            module.exit_json(changed=plan.pending and given["state"] != "finished", **describe(plan))
        record.file.parent.mkdir(parents=True, exist_ok=True)
        with lock_site(record.file.parent, PATIENCE):
            record = Record()
            upgrade = Upgrade(os.uname().nodename, given["version"], given["socket_dir"], record)
            if given["state"] == "finished":
                upgrade.finish()
                module.exit_json(changed=False)
            plan = upgrade.plan_back() if given["state"] == "back" else upgrade.plan()
            found = describe(plan)
            done = change(module, upgrade) if plan.pending else {}
    except StepError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=plan.pending, **{**found, **done})


if __name__ == "__main__":
    main()
