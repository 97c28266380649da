#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Write several files as one change, and validate them together
version_added: 1.0.0
description:
  - Writes files, links and folders as one change, then runs one command that validates them together.
  - When the command refuses the files, or a write fails, the module restores every path exactly, so that no reload and
    no reboot uses a configuration that was not accepted.
  - Fragments of the configuration of nginx, systemd or PostgreSQL can only be validated together. The module also needs
    a single round trip for the complete configuration of a role, including the daemons that read it.
  - With O(guard) the module also tests that logins still work, over a new connection with the options and the rights of
    the play. When that login fails, the module restores every path and applies the old configuration again. Without a
    connection to the controller, the host does so 30 seconds after the change; if it loses power before, it does so at
    its next boot.
options:
  files:
    description:
      - Files, links and folders to write or remove, in this order. Missing parent folders are created with the mode
        C(0755) and the owner root.
      - Until O(validate) has accepted the change, the old state of each path is kept in the same folder under a hidden
        name.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Absolute path. Each path can be given only once.
          - A symbolic link at this path is replaced, never followed.
        type: path
        required: true
      state:
        description:
          - V(file) needs O(files[].content) or O(files[].template), and V(link) needs O(files[].target).
          - V(absent) removes a file, a link, or an empty folder, and ignores the other options.
          - The default is V(link) with O(files[].target) and V(file) with O(files[].content).
          - The module refuses to replace a folder by a file or link, or a file or link by a folder.
        type: str
        choices: [file, directory, link, absent]
      content:
        description:
          - Exact content of the file.
        type: str
      template:
        description:
          - Template on the controller that renders to the content, in the search path of
            P(ansible.builtin.template#module). Excludes O(files[].content). Rendered only with O(files[].state=file).
        type: path
      target:
        description: Target of the symbolic link. It need not exist.
        type: str
      owner:
        description:
          - Name or number of the owner.
          - In check mode the owner need not exist, because the package that creates it may not be installed yet.
        type: str
        default: root
      group:
        description: Name or number of the group. In check mode it need not exist.
        type: str
        default: root
      mode:
        description:
          - Four octal digits in quotes, such as V("0640"). Links have no mode.
          - The default is V("0644") for files and V("0755") for folders.
        type: raw
      secret:
        description: Whether to omit the content from differences and results.
        type: bool
        default: false
      pristine:
        description:
          - Text that only a file of this module contains. A file without it is replaced only when it is as its package
            installed it, so that changes by an administrator or another program are not lost.
        type: str
  validate:
    description:
      - Command that validates the files in their final place, as a list of words or as a string that is split like in a
        shell. No shell runs it.
      - It also runs when nothing has changed, because the run that wrote the files can have died before the validation.
        It does not run in check mode when there are changes.
      - C(/usr/local/sbin), C(/usr/sbin) and C(/sbin) are always in its search path.
    type: raw
  units:
    description:
      - Units that run with these files, in this order. The options and the effects are those of
        M(django_vps.stack.unit).
      - A unit that does not run in the end fails the task. If it ran before and the files have changed, the module
        restores the files and the unit runs with the old ones again; otherwise the new files stay, except with
        O(guard).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Full name of the unit, such as V(nginx.service).
        type: str
        required: true
      enabled:
        description: Whether the unit starts at boot. Null leaves this unchanged.
        type: bool
        default: true
      restart_when_newer:
        description: Restart the unit when one of these paths changed after it began to start.
        type: list
        elements: path
        default: []
      reload_when_newer:
        description: Reload the unit when one of these paths changed after it was last reloaded, or began to start.
        type: list
        elements: path
        default: []
      conditional:
        description: Whether the unit need not run when one of its own conditions is not met.
        type: bool
        default: false
  guard:
    description:
      - For files that decide about logins, such as those of sshd, of sudo or of the firewall. The change becomes
        permanent only after a successful login; without a change there is no login.
    type: dict
    suboptions:
      keep:
        description:
          - Shell commands that save other state to restore, such as that of running services, to files in their working
            directory.
        type: str
        default: ""
      take_back:
        description:
          - Shell commands that apply the files to running services once the files are restored. The files of
            O(guard.keep) are in C(going/). After a command that fails, the next one runs. At boot the commands run
            before sshd and the firewall start, so they must not wait for these.
        type: str
        required: true
  login:
    description: Result of the login. The action plugin sets it.
    type: str
    choices: [good, refused]
attributes:
  check_mode:
    support: full
    description: Reports what would change and changes nothing.
  diff_mode:
    support: full
    description: Shows each path before and after, except secret or binary content.
notes:
  - An interrupted run is safe to repeat. The next run with the same paths first restores the paths that were not
    validated, then makes the complete change.
  - A host makes one change at a time; a second one waits. The lock ends with the process that holds it.
  - After a run that was killed before the login, the host can still revert the changes. The next run reverts them and
    makes them again, or tests the login if there is nothing else to do.
  - Restored paths count as changed, because no program can set their ctime. The next run restarts or reloads the units
    that read them.
  - A replaced file loses its access control lists and extended attributes.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Write the nginx configuration
  django_vps.stack.config_files:
    files:
      - path: /etc/nginx/conf.d/shop.conf
        template: conf.d/shop.conf.j2
      - path: /etc/nginx/sites-enabled/shop
        target: ../sites-available/shop
      - path: /etc/nginx/sites-enabled/default
        state: absent
      - path: /var/www/acme
        state: directory
        group: www-data
        mode: "0750"
    validate: nginx -t

- name: Write the environment of the application
  django_vps.stack.config_files:
    files:
      - path: /etc/shop/env
        template: env.j2
        mode: "0600"
        secret: true

- name: Allow key-based logins only
  django_vps.stack.config_files:
    files:
      - path: /etc/ssh/sshd_config.d/00-keys.conf
        content: |
          PasswordAuthentication no
    validate: sshd -t
    units:
      - name: ssh.service
        reload_when_newer: [/etc/ssh/sshd_config.d]
    guard:
      take_back: systemctl reload ssh.service
"""

RETURN = r"""
paths:
  description:
    - Paths that were changed, or would be in check mode. Empty when they were restored.
  returned: always
  type: list
  elements: str
  sample: [/etc/nginx/conf.d/shop.conf]
action:
  description: Actions on the units, or those that would follow in check mode.
  returned: success
  type: list
  elements: str
  sample: [reload nginx.service]
validation:
  description: Output of the command, including its errors. Empty when it did not run.
  returned: always
  type: str
  sample: "nginx: configuration file /etc/nginx/nginx.conf test is successful"
cmd:
  description: Command that refused the files.
  returned: when O(validate) failed
  type: list
  elements: str
  sample: [nginx, -t]
rc:
  description: Exit code of that command; V(127) when it could not be run.
  returned: when O(validate) failed
  type: int
  sample: 1
diff:
  description: One entry for each changed path.
  returned: in diff mode
  type: list
  elements: dict
  sample:
    - before_header: /etc/shop/site.conf (0644 root:root)
      before: "a\n"
      after_header: /etc/shop/site.conf (0644 root:root)
      after: "b\n"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils import atomic_change, units
from ansible_collections.django_vps.stack.plugins.module_utils.errors import ModuleError, refer
from ansible_collections.django_vps.stack.plugins.module_utils.file_entries import FILE, ChangeError
from ansible_collections.django_vps.stack.plugins.module_utils.guard import LOGIN_SECONDS, Guard

#: The section of docs/troubleshooting.md about failures of this module.
SECTION = "configuration-files-and-units"


def change(options: dict, check_mode: bool) -> dict:
    """Write the files and apply them to the units; restore the files when a unit that ran before does not run."""
    if check_mode:
        result = atomic_change.run(options["files"], options["validate"], check_mode)
        action = units.run_all(options["units"], check_mode)
        return {**result, "action": action, "changed": result["changed"] or bool(action)}
    action, failures = [], []

    def prove(has_changed: bool) -> None:
        # Writing files stops no unit, so the units that run now ran before. A guard restores the files itself.
        at_risk = options["units"] if has_changed and not options["guard"] else []
        ran = [unit["name"] for unit in at_risk if units.is_up(unit["name"])]
        try:
            action.extend(units.run_all(options["units"], check_mode))
        except units.UnitError as error:
            if error.unit in ran:
                raise
            failures.append(error)

    try:
        result = atomic_change.run(options["files"], options["validate"], check_mode, prove)
    except units.UnitError as error:
        files_are = "The files are as they were"
        if error.not_put_back:
            files_are = f"These could NOT be put back: {'; '.join(error.not_put_back)}"
        try:
            units.run_all(options["units"], check_mode)
            outcome = f"{error.unit} runs with them again"
        except units.UnitError as again:
            outcome = f"still: {again}"
        raise units.UnitError(f"{error}\n{files_are}, and {outcome}", **error.result) from None
    if failures:
        raise failures[0]
    return {**result, "action": action, "changed": result["changed"] or bool(action)}


def apply(options: dict, check_mode: bool, guard: Guard) -> dict:
    """Make the change, and return the result of the module, with `prove` where a login must follow."""
    if check_mode or not options["guard"]:
        return change(options, check_mode)
    foreseen = change(options, check_mode=True)
    if not foreseen["changed"]:
        return {**foreseen, "prove": guard.is_armed}
    guard.arm([spec["path"] for spec in options["files"]], **options["guard"])
    try:
        return {**change(options, check_mode=False), "prove": True}
    except (ChangeError, units.UnitError):
        guard.take_back()
        raise


def main():
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": FILE},
            "validate": {"type": "raw"},
            "units": {"type": "list", "elements": "dict", "default": [], "options": units.UNIT},
            "guard": {
                "type": "dict",
                "options": {"keep": {"type": "str", "default": ""}, "take_back": {"type": "str", "required": True}},
            },
            "login": {"type": "str", "choices": ["good", "refused"]},
        },
        supports_check_mode=True,
    )
    options = {**module.params, "files": [dict(spec) for spec in module.params["files"]]}
    for spec in module.params["files"]:
        if spec["secret"]:
            spec["content"] = "(secret content)"
    guard = Guard()
    try:
        if options["login"] == "refused":
            guard.take_back()
            module.exit_json(changed=False)
        if options["login"] == "good":
            if not guard.disarm():
                module.fail_json(
                    msg=f"With these settings no login succeeds within {LOGIN_SECONDS} seconds: the host had reverted"
                    " them when the login came. Run it again if the connection was slow."
                    f"\n{refer(SECTION)}"
                )
            module.exit_json(changed=True)
        result = apply(options, module.check_mode, guard)
    except ModuleError as error:
        unchanged = {"changed": False, "paths": [], "validation": ""} if isinstance(error, ChangeError) else {}
        module.fail_json(msg=f"{error}\n{refer(SECTION)}", **unchanged | error.result)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
