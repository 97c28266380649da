#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: unit
short_description: Keep a systemd unit enabled, running and up to date with its files
version_added: 1.0.0
description:
  - Replaces handlers. A handler is lost when its run dies; this module compares the running unit with the files on the
    disk instead, so any later run finds the remaining actions.
  - The actions, in this order and only if needed, are daemon-reload, enable or disable, start, then restart or reload.
  - Fails with the last lines of the journal when the unit does not run in the end.
options:
  name:
    description: Full name of the unit, such as V(nginx.service) or V(certbot.timer).
    type: str
    required: true
  enabled:
    description: Whether the unit starts at boot. Null leaves this unchanged.
    type: bool
    default: true
  restart_when_newer:
    description:
      - Restart the unit when one of these paths changed after it began to start.
      - A link counts together with its target. A folder counts together with its content at any depth, so that a
        removed file counts too. A missing path is ignored.
      - List only paths that the unit reads and never writes.
    type: list
    elements: path
    default: []
  reload_when_newer:
    description:
      - Reload the unit when one of these paths changed after it was last reloaded, or began to
        start.
      - A unit that cannot reload is restarted. After a restart there is no reload.
    type: list
    elements: path
    default: []
  conditional:
    description:
      - Whether the unit need not run when one of its own conditions is not met, as in a container. C(systemd) evaluates
        the conditions only at a start, so each run tries to start the unit.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Reports the actions and does none.
  diff_mode:
    support: full
    description: Shows the state before and after, and the actions in between.
notes:
  - A path counts as changed at its ctime, which no program can set and which every write, rename, C(chmod) and
    C(chown) updates.
  - After a step of the clock, the time of a start is the earlier one of those by the old and the present clock. A path
    with a ctime in the future counts as changed, and the module sets its ctime to the present.
  - A reload that failed according to systemd does not count. The module does not notice when a daemon keeps its old
    configuration and reports this only in its log, as nginx does on SIGHUP. Validate the files first, as
    M(django_vps.stack.config_files) does.
  - The module does not notice a file that changes while the daemon reloads.
  - A C(Type=oneshot) service without C(RemainAfterExit) is not started again once it has succeeded since the boot.
author:
  - the django_vps.stack authors (!UNKNOWN)
seealso:
  - module: ansible.builtin.systemd_service
  - module: django_vps.stack.config_files
"""

EXAMPLES = r"""
- name: Keep nginx running with its current configuration
  django_vps.stack.unit:
    name: nginx.service
    restart_when_newer:
      - /etc/systemd/system/nginx.service.d
      - /usr/sbin/nginx
    reload_when_newer:
      - /etc/nginx
      - /etc/letsencrypt/live/shop/fullchain.pem

- name: Keep the renewal timer running
  django_vps.stack.unit:
    name: certbot.timer
    restart_when_newer:
      - /etc/systemd/system/certbot.timer.d
"""

RETURN = r"""
action:
  description: Actions that were done, or would be in check mode, in this order.
  returned: success
  type: list
  elements: str
  sample: [daemon-reload, enable, start]
status:
  description: Properties of the unit from C(systemctl show) in the end.
  returned: success
  type: dict
  sample:
    ActiveState: active
    LoadState: loaded
    SubState: running
    UnitFileState: enabled
diff:
  description: State before and after.
  returned: success
  type: dict
  sample:
    before: {action: [], active: inactive, enabled: disabled}
    after: {action: [enable, start], active: active, enabled: enabled}
stderr:
  description: Output of the failed systemctl command.
  returned: when a command failed
  type: str
journal:
  description: Last lines of the unit's journal.
  returned: when an action failed or the unit does not run
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.errors import refer
from ansible_collections.django_vps.stack.plugins.module_utils.units import UNIT, UnitError, run


def main():
    module = AnsibleModule(argument_spec=UNIT, supports_check_mode=True)
    try:
        module.exit_json(**run(**module.params, check_mode=module.check_mode))
    except UnitError as error:
        module.fail_json(msg=f"{error}\n{refer('configuration-files-and-units')}", **error.result)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
