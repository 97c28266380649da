#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: check_web
short_description: Check that nginx on this host answers clients of a site
version_added: 1.0.0
description:
  - Requests a page of the site from nginx over HTTPS, as a client does, and accepts any certificate.
  - Fails when nginx does not run, refuses the handshake, does not answer in time, does not know the name, or answers
    with a status of 500 or more. Other answers, redirects and closed connections pass, because nginx can be configured
    to refuse requests.
options:
  name:
    description: Name of the site to request.
    type: str
    required: true
  path:
    description: Path to request.
    type: str
    default: /
  timeout:
    description: Seconds in which nginx must answer.
    type: int
    default: 60
  closed:
    description: File that switches maintenance mode on. While it exists, the module requests nothing.
    type: path
attributes:
  check_mode:
    support: full
    description: Reports the complaint, and does not fail.
  diff_mode:
    support: none
    description: Changes no files.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Request the site as a client
  django_vps.stack.check_web:
    name: shop.example.com
    path: /health/
"""

RETURN = r"""
wrong:
  description: Complaint about the answer. Empty if it was good.
  returned: always
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.advice import WEB_SERVER_ADVICE
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.health import ask_web_server


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/"},
            "timeout": {"type": "int", "default": 60},
            "closed": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    is_closed = bool(given["closed"]) and os.path.exists(given["closed"])
    wrong = "" if is_closed else ask_web_server(given["name"], given["path"], given["timeout"])
    if wrong and not module.check_mode:
        module.fail_json(msg=str(StepError("health", wrong, WEB_SERVER_ADVICE)), wrong=wrong)
    module.exit_json(changed=False, wrong=wrong)


if __name__ == "__main__":
    main()
