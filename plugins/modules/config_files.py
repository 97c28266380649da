#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Write several files as one change, judged together
version_added: 1.0.0
description:
  - Writes files, links and folders in one go, then asks one command whether they are right
    together.
  - When the command says no, or a write fails midway, every path goes back to exactly what it was,
    so that no reload and no reboot ever meets a configuration that nobody accepted.
  - Fragments of nginx, systemd or PostgreSQL can be judged in no other way. It is also a single
    round trip for all that a role configures, the daemons that read it included.
  - With O(guard) it also stands for them that people can still log in. It does so over a new connection, made as the
    play makes its own and with the rights that the play has. When that login does not succeed every path goes back,
    and what runs goes with it. The host does so by itself 30 seconds after the change, should nobody be able to tell
    it, and at its next boot, should it lose power meanwhile.
options:
  files:
    description:
      - What shall stand on the host, done in this order. Missing parent folders are made, C(0755),
        owned by root.
      - What each path was is kept beside it, under a hidden name, until O(validate) has spoken.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Where it stands, as an absolute path. A path may be given only once.
          - A symbolic link found there is replaced, never followed.
        type: path
        required: true
      state:
        description:
          - V(file) needs O(files[].content) or O(files[].template), and V(link) needs O(files[].target).
          - V(absent) removes a file, a link, or a folder with nothing in it, and minds no other
            option.
          - Without it, O(files[].target) makes it V(link) and O(files[].content) makes it V(file).
          - A path that is a folder is never turned into something else, nor something else into a
            folder.
        type: str
        choices: [file, directory, link, absent]
      content:
        description:
          - Exact content of the file.
        type: str
      template:
        description:
          - Template on the controller to make the content of, found as P(ansible.builtin.template#module) finds it.
            Excludes O(files[].content). Not rendered with another O(files[].state) than V(file).
        type: path
      target:
        description: What the symbolic link shall point at. It need not exist.
        type: str
      owner:
        description:
          - Name or number of the owner.
          - In check mode it may be unknown as yet, since the package that makes it may not be
            there.
        type: str
        default: root
      group:
        description: Name or number of the group. In check mode it may be unknown as yet.
        type: str
        default: root
      mode:
        description:
          - Four octal digits in quotes, such as V("0640"). Links have none.
          - The default is V("0644") for files and V("0755") for folders.
        type: raw
      secret:
        description: Keeps the content out of differences and results.
        type: bool
        default: false
      pristine:
        description:
          - Text that only our own file has. A file without it is replaced only when it is as its package brought it, so
            that nothing is lost that somebody else wrote.
        type: str
  validate:
    description:
      - Command that judges the files where they stand, as a list of words or as a string split
        like a shell would. No shell runs it.
      - It runs when nothing changed too, since the run that wrote the files may have died before
        it asked. Only in check mode with changes to come is it left out.
      - C(/usr/local/sbin), C(/usr/sbin) and C(/sbin) are always searched for it.
    type: raw
  units:
    description:
      - Units that shall run with these files, each with the options of M(django_vps.stack.unit) and as it keeps them,
        in this order.
      - A unit that does not run in the end fails the task. Where it ran before and the files have changed, they go back
        and it runs with the old ones again; otherwise they stay, except with O(guard).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Full name of the unit, such as V(nginx.service).
        type: str
        required: true
      enabled:
        description: Whether the unit starts at boot. Null leaves that alone.
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
        description: Whether it is well that the unit does not run because one of its own conditions is not met.
        type: bool
        default: false
  guard:
    description:
      - For files that decide who may log in, such as those of sshd, of sudo or of the firewall. A login proves them
        before they may stay; where nothing has to change nobody logs in.
    type: dict
    suboptions:
      keep:
        description:
          - Shell commands that write what else is to come back, such as the state of what runs, into files in the
            folder where they run.
        type: str
        default: ""
      take_back:
        description:
          - Shell commands that let what runs follow the files once they are what they were. Those that O(guard.keep)
            wrote are in C(going/). One that fails does not keep the next from running. At boot they run before sshd
            and the firewall start, so they must not wait for these.
        type: str
        required: true
  login:
    description: How the login went, which is for the action plugin to say.
    type: str
    choices: [good, refused]
attributes:
  check_mode:
    support: full
    description: Tells what would change and touches nothing.
  diff_mode:
    support: full
    description: Shows each path before and after, except where it is secret or binary.
notes:
  - A run killed in the middle is safe to repeat. The next run over the same paths first puts back
    what nobody had judged, then does the whole change.
  - One change at a time happens on a host; a second one waits. The lock ends with the process that
    holds it.
  - A run that was killed before the login leaves the way back open. The next run takes the changes back and makes them
    anew, or proves them where there is nothing else to do.
  - What was put back counts as changed, since no program can set the time by which that is seen. The next run restarts
    or reloads the units that read it.
  - Access control lists and extended attributes of a replaced file are not carried over to the new
    one.
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

- name: Let people in by key only
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
    - The paths that were changed, or would be in check mode. Empty when they were put back.
  returned: always
  type: list
  elements: str
  sample: [/etc/nginx/conf.d/shop.conf]
action:
  description: What was done to the units, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [reload nginx.service]
validation:
  description: What the command printed, both its outputs in one. Empty when it did not run.
  returned: always
  type: str
  sample: "nginx: configuration file /etc/nginx/nginx.conf test is successful"
cmd:
  description: The command that refused the files.
  returned: when O(validate) failed
  type: list
  elements: str
  sample: [nginx, -t]
rc:
  description: How that command ended; V(127) when it could not be run.
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
from ansible_collections.django_vps.stack.plugins.module_utils.errors import ModuleError
from ansible_collections.django_vps.stack.plugins.module_utils.file_entries import FILE, ChangeError
from ansible_collections.django_vps.stack.plugins.module_utils.guard import LOGIN_SECONDS, Guard


def change(options: dict, check_mode: bool) -> dict:
    """Write the files and bring the units to them; put the files back when a unit that ran cannot run any more."""
    if check_mode:
        result = atomic_change.run(options["files"], options["validate"], check_mode)
        action = units.run_all(options["units"], check_mode)
        return {**result, "action": action, "changed": result["changed"] or bool(action)}
    action, failures = [], []

    def prove(has_changed: bool) -> None:
        # New files alone stop no unit, so those that run now ran before. A guard has a way back of its own.
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
    """Make the change, and return the result of the module, with `prove` where a login has to follow."""
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
                    msg=f"With these settings nobody can log in within {LOGIN_SECONDS} seconds: the host had taken them"
                    " back when the login came. Run it again where it was slow."
                )
            module.exit_json(changed=True)
        result = apply(options, module.check_mode, guard)
    except ChangeError as error:
        module.fail_json(msg=str(error), changed=False, paths=[], **{"validation": ""} | error.result)
    except ModuleError as error:
        module.fail_json(msg=str(error), **error.result)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
