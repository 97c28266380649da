#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: unit
short_description: Keep a systemd unit enabled, running and as new as its files
version_added: 1.0.0
description:
  - Takes the place of handlers. A handler is lost when its run dies; this module compares what
    runs with what is on disk instead, so any later run sees what is still to be done.
  - What it does, in this order, and only where needed, is daemon-reload, enable or disable, start,
    then restart or reload.
  - Fails, with the last lines of the journal, when the unit does not run in the end.
options:
  name:
    description: Full name of the unit, such as V(nginx.service) or V(certbot.timer).
    type: str
    required: true
  enabled:
    description: Whether the unit starts at boot. Null leaves that alone.
    type: bool
    default: true
  restart_when_newer:
    description:
      - Restart the unit when one of these paths changed after it began to start.
      - Of a link both the link and its target count; of a folder, all that is in it, at any depth,
        and the folder itself, so that a removed file counts too. What is not there is passed over.
      - Name only what the unit reads and never writes.
    type: list
    elements: path
    default: []
  reload_when_newer:
    description:
      - Reload the unit when one of these paths changed after it was last reloaded, or began to
        start.
      - A unit that cannot reload is restarted. A restart makes a reload needless.
    type: list
    elements: path
    default: []
  conditional:
    description:
      - Whether it is well that the unit does not run because one of its own conditions is not met, as in a container.
        C(systemd) asks them when it is to start, so each run tries.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Tells what would be done and does nothing.
  diff_mode:
    support: full
    description: Shows the state before and after, and what is done in between.
notes:
  - A path counts as changed at its ctime, which no program can set and which every write, rename,
    C(chmod) and C(chown) moves.
  - The clock may be stepped. A start counts as early as the clock of then or of now puts it; a
    path stamped in the future counts as changed, and its ctime is brought to the present.
  - A reload that systemd saw fail does not count. A daemon that keeps its old configuration and
    says so nowhere but in its log, as nginx does on SIGHUP, goes unseen. Have the files judged
    first, as M(django_vps.stack.config_files) does.
  - A file that changes while the daemon reloads goes unseen too.
  - A C(Type=oneshot) service without C(RemainAfterExit) is left alone once it has ended well since
    boot.
author:
  - the django_vps.stack authors (!UNKNOWN)
seealso:
  - module: ansible.builtin.systemd_service
  - module: django_vps.stack.config_files
"""

EXAMPLES = r"""
- name: Keep nginx running with its present configuration
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
  description: What was done, or would be in check mode, in this order.
  returned: success
  type: list
  elements: str
  sample: [daemon-reload, enable, start]
status:
  description: What C(systemctl show) said of the unit in the end.
  returned: success
  type: dict
  sample:
    ActiveState: active
    LoadState: loaded
    SubState: running
    UnitFileState: enabled
diff:
  description: The state before and after.
  returned: success
  type: dict
  sample:
    before: {action: [], active: inactive, enabled: disabled}
    after: {action: [enable, start], active: active, enabled: enabled}
stderr:
  description: What the failed systemctl command printed.
  returned: when a command failed
  type: str
journal:
  description: The last lines of the unit's journal.
  returned: when the unit did not do as it was told
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.units import UNIT, UnitError, run


def main():
    module = AnsibleModule(argument_spec=UNIT, supports_check_mode=True)
    try:
        module.exit_json(**run(**module.params, check_mode=module.check_mode))
    except UnitError as error:
        module.fail_json(msg=str(error), **error.result)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
