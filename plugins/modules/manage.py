#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: manage
short_description: Run commands of a release's C(manage.py)
version_added: 1.0.0
description:
  - Runs the commands one after the other, in the environment of the site, and stops at the first that fails. The
    message then begins with the error, and has only the project's own frames of a traceback.
  - If a command of an interrupted run still runs, the module waits for its end.
options:
  home:
    description: Folder of the site on the host.
    type: path
    required: true
  manage:
    description: Program that runs C(manage.py) of a release in the environment of the site, with C(--release=ID).
    type: path
    required: true
  release:
    description: Id of the release.
    type: str
    required: true
  commands:
    description: Commands with their arguments, quoted as for a shell. No shell runs them.
    type: list
    elements: str
    required: true
  creates:
    description: File that is written after all commands have run. If it exists, no command runs.
    type: path
attributes:
  check_mode:
    support: full
    description: Runs no command.
  diff_mode:
    support: none
    description: Changes no files.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Load the initial data
  django_vps.stack.manage:
    home: /srv/shop
    manage: /usr/local/sbin/shop-manage
    release: 20261121T081500Z
    commands: [createcachetable, loaddata countries]
    creates: /srv/shop/releases/20261121T081500Z/after_migrate
"""

RETURN = r"""
output:
  description: Output of each command.
  returned: success
  type: list
  elements: str
  sample: ["Installed 249 object(s) from 1 fixture(s)\n"]
"""

import contextlib
import shlex
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "manage": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "commands": {"type": "list", "elements": "str", "required": True},
            "creates": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given, output = module.params, []
    site, creates = Site(given["home"]), given["creates"] and Path(given["creates"])
    try:
        with contextlib.nullcontext() if module.check_mode else lock_site(site.home):
            if creates and creates.exists():
                module.exit_json(changed=False, output=output)
            if module.check_mode:
                module.exit_json(changed=True, output=output)
            for command in given["commands"]:
                argv = [given["manage"], f"--release={given['release']}", *shlex.split(command)]
                output.append(run(f"manage.py {command}", argv))
            if creates:
                # This comes last, so that the run after an interrupted one runs all commands.
                write_file(creates, "".join(f"{command}\n" for command in given["commands"]))
    except StepError as error:
        module.fail_json(msg=f"{error}\n{site.describe_live()}", step=error.step)
    module.exit_json(changed=True, output=output)


if __name__ == "__main__":
    main()
