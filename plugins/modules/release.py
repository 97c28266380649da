#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Build a complete release of a Django project beside the live one
version_added: 1.0.0
description:
  - Packs the source on the controller, and on the host builds one folder with all parts of the release, which are its
    code, its virtual environment, its static files and its environment.
  - Does not change the live site. C(current) is unchanged, and a failed build leaves no release.
  - A release is identified by its inputs. When the host has a complete release of the same source, environment,
    installer and configuration already, the module returns that release and changes nothing.
  - Code of the project and of its packages runs as O(user) in a sandbox, never as root.
options:
  source:
    description:
      - Folder or C(.tar.gz) on the controller. Of a git work tree, the source has the files that git does not ignore,
        committed or not.
      - The top folder of a C(.tar.gz) that has only one is stripped.
    type: path
    required: true
  digest:
    description: Digest of the packed source. The action plugin computes it.
    type: str
  content:
    description: Packed source in base64, if it is small. The action plugin packs it.
    type: str
  archive:
    description: Packed source on the host, if it is large. The action plugin transfers it when it is needed.
    type: path
  files:
    description:
      - Content of additional files of the source by their path in it, for a project that reads its configuration from a
        file. Each replaces a file of that name. The action plugin adds them to the packed source.
    type: dict
    default: {}
  includes:
    description:
      - Files of the source, as paths in which C(*) matches any part, that are packed although git ignores them or they
        look like secrets, dumps or caches. The action plugin leaves out the other files of these kinds that git does
        not track, and warns. All files of an archive that C(git archive) made are tracked.
    type: list
    elements: str
    default: []
  force:
    description: Whether to build a new release with newly fetched packages, even if there is an identical release.
    type: bool
    default: false
  home:
    description: Folder of the site on the host. It must exist; the module creates C(releases/) and C(static/) in it.
    type: path
    required: true
  id:
    description:
      - Name of the release, digits and letters that sort by time, so that several hosts use the same name. Then only a
        release of this name counts as identical.
      - The default is the name of the identical release, or the time in UTC for a new one.
    type: str
  version:
    description: Version for people to read, which is stored with the release.
    type: str
    default: ""
  user:
    description: System user that the site runs as.
    type: str
    required: true
  manage:
    description: Program that runs C(manage.py) of a release in the environment of the site, with C(--release=ID).
    type: path
    required: true
  environment:
    description: Environment of the release in the format of systemd's C(EnvironmentFile), one assignment on a line.
    type: str
    required: true
  secret_key_file:
    description: File with the site's secret key. The module generates it when it is missing, and keeps it.
    type: path
    required: true
  copies:
    description: Other files, of which each release has a copy.
    type: list
    elements: path
    default: []
  depends_on:
    description: Files that all releases share. A change of one of them causes a new release.
    type: list
    elements: path
    default: []
  media:
    description: Folder of the uploads, which all releases share.
    type: path
    required: true
  shared_paths:
    description:
      - Folders inside the source that the project writes to. Each is a link to a folder in C(shared/) of O(home), which
        the site owns and all releases share.
    type: list
    elements: str
    default: []
  several:
    description:
      - Whether the site has several hosts. Then a project that stores files on the disk needs a O(media) and a
        C(shared/) on a network file system that all hosts share, or the release is refused.
    type: bool
    default: false
  subdirectory:
    description: Folder of C(manage.py) inside the source. By default the top, or the only folder below it that has it.
    type: str
    default: ""
  settings_module:
    description: Settings module. By default that of C(manage.py).
    type: str
    default: ""
  application:
    description: WSGI or ASGI application as C(module:name). By default that of C(WSGI_APPLICATION) in the settings.
    type: str
    default: ""
  before_collectstatic:
    description:
      - Commands that run in the folder of C(manage.py) after the packages are installed, as the site's user, in the
        sandbox of the build, with the environment of the release and the programs of its virtual environment. No shell
        runs them.
    type: list
    elements: str
    default: []
  after_collectstatic:
    description: Commands that run in the same way after the static files are collected and the settings are checked.
    type: list
    elements: str
    default: []
  collectstatic:
    description: Whether to collect the static files. If not, the source must contain C(STATIC_ROOT) with all of them.
    type: bool
    default: true
  after_migrate:
    description: >-
      Commands of C(manage.py) that the site runs once for each release. Releases with different commands are not
      identical.
    type: list
    elements: str
    default: []
  host:
    description: Name of the site that its settings must allow.
    type: str
    required: true
  static_url:
    description: Path at which nginx serves the static files.
    type: str
    default: /static/
  media_url:
    description: Path at which nginx serves the uploads.
    type: str
    default: /media/
  check_level:
    description: Lowest level of the findings of C(manage.py check --deploy) that fail the release.
    type: str
    choices: [WARNING, ERROR, CRITICAL]
    default: ERROR
extends_documentation_fragment: [django_vps.stack.packages]
attributes:
  check_mode:
    support: full
    description: Reports whether a release would be built.
  diff_mode:
    support: full
    description: Shows the live version and the next one.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Build the release
  django_vps.stack.release:
    source: ~/shop
    home: /srv/shop
    user: shop
    manage: /usr/local/sbin/shop-manage
    environment: "DEBUG=False"
    secret_key_file: /etc/shop/secret_key
    media: /srv/shop/media
    host: shop.example.com
    installer: pip
"""

RETURN = r"""
release:
  description: Id of the release.
  returned: always
  type: str
  sample: 20261121T081500Z
live:
  description: Id of the live release, to which C(current) points. Empty before the first release.
  returned: always
  type: str
pending:
  description: Whether migrations of the release may not be applied yet.
  returned: success
  type: bool
unchecked:
  description: Whether C(manage.py check --deploy) must run again after the migrations.
  returned: success
  type: bool
same:
  description: Ids of the complete releases that are good and identical, so that the module can return one of them.
  returned: in check mode
  type: list
  elements: str
others:
  description: Ids of the other complete releases.
  returned: in check mode
  type: list
  elements: str
next:
  description: Id of a new release.
  returned: in check mode
  type: str
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.build import (
    Build,
    end_builds,
    remove_incomplete_releases,
)
from ansible_collections.django_vps.stack.plugins.module_utils.disk_space import require_space
from ansible_collections.django_vps.stack.plugins.module_utils.environment import ensure_secret_key, mask_values
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.release_identity import (
    choose_release,
    compute_fingerprint,
    find_same,
    next_id,
)
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

ARGUMENTS = {
    "source": {"type": "path", "required": True},
    "digest": {"type": "str"},
    "content": {"type": "str", "no_log": True},
    "archive": {"type": "path"},
    "files": {"type": "dict", "default": {}},
    "includes": {"type": "list", "elements": "str", "default": []},
    "force": {"type": "bool", "default": False},
    "home": {"type": "path", "required": True},
    "id": {"type": "str"},
    "version": {"type": "str", "default": ""},
    "user": {"type": "str", "required": True},
    "manage": {"type": "path", "required": True},
    "environment": {"type": "str", "required": True, "no_log": True},
    "secret_key_file": {"type": "path", "required": True, "no_log": False},
    "copies": {"type": "list", "elements": "path", "default": []},
    "depends_on": {"type": "list", "elements": "path", "default": []},
    "media": {"type": "path", "required": True},
    "shared_paths": {"type": "list", "elements": "str", "default": []},
    "several": {"type": "bool", "default": False},
    "python": {"type": "str", "default": ""},
    "installer": {"type": "str", "choices": ["uv", "pip"], "default": "uv"},
    "uv": {"type": "str", "default": ""},
    "requirements": {"type": "str", "default": ""},
    "groups": {"type": "list", "elements": "str", "default": []},
    "extras": {"type": "list", "elements": "str", "default": []},
    "extra_packages": {"type": "list", "elements": "str", "default": []},
    "fetch_environment": {"type": "dict", "default": {}},
    "build_environment": {"type": "dict", "default": {}},
    "git_key": {"type": "str", "default": "", "no_log": True},
    "packages": {"type": "list", "elements": "str", "default": []},
    "subdirectory": {"type": "str", "default": ""},
    "settings_module": {"type": "str", "default": ""},
    "application": {"type": "str", "default": ""},
    "before_collectstatic": {"type": "list", "elements": "str", "default": []},
    "after_collectstatic": {"type": "list", "elements": "str", "default": []},
    "collectstatic": {"type": "bool", "default": True},
    "after_migrate": {"type": "list", "elements": "str", "default": []},
    "host": {"type": "str", "required": True},
    "static_url": {"type": "str", "default": "/static/"},
    "media_url": {"type": "str", "default": "/media/"},
    "check_level": {"type": "str", "choices": ["WARNING", "ERROR", "CRITICAL"], "default": "ERROR"},
}


def describe_change(site: Site, live: str, after: str, version: str) -> dict:
    """Return the difference to display, between the live release and the next one."""
    facts = site.facts(live) or {}
    return {"before": f"{live} {facts.get('version', '')}".strip() + "\n", "after": f"{after} {version}".strip() + "\n"}


def build(module: AnsibleModule, site: Site, fingerprint: str) -> Build:
    """Build a new release; first remove the files of interrupted and failed builds."""
    options = module.params
    end_builds(options["user"])
    with lock_site(site.home):
        for warning in remove_incomplete_releases(site, options["id"]):
            module.warn(warning)
        require_space(site)
        made = Build(module, site, options["id"] or next_id(site), fingerprint)
        made.run()
    return made


def ensure_release(module: AnsibleModule, site: Site) -> dict:
    """Find a release with the same options, or build it; returns the result of the module."""
    options, live = module.params, site.live or ""
    if not module.check_mode:
        ensure_secret_key(Path(options["secret_key_file"]))
    fingerprint = compute_fingerprint(options)
    same = [] if options["force"] else find_same(site, fingerprint)
    result = {"live": live}
    if module.check_mode:
        others = [name for name in site.complete_releases() if name not in same]
        result |= {"same": same, "others": others, "next": next_id(site)}
    if release := choose_release(options, same, live):
        facts, is_live = site.facts(release), release == live
        # The live release was migrated before it went live, but an interrupted rollback can have undone its migrations.
        pending = not is_live or bool(facts.get("undone"))
        unchecked = not is_live and bool(facts.get("unchecked"))
        return {"changed": False, "release": release, "pending": pending, "unchecked": unchecked, **result}
    # The action plugin sends a large source only after the module has reported that it must build a release.
    if module.check_mode or not (options["archive"] or options["content"]):
        diff = describe_change(site, live, "(a new release)", options["version"])
        return {"changed": True, "release": "", "pending": True, "diff": diff, **result}
    made = build(module, site, fingerprint)
    diff = describe_change(site, live, made.release, options["version"])
    state = {"pending": made.pending, "unchecked": made.unchecked}
    return {"changed": True, "release": made.release, **state, "diff": diff, **result}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    options = module.params
    mask_values(module, [*options["fetch_environment"].values(), *options["build_environment"].values()])
    os.umask(0o022)
    site = Site(options["home"])
    try:
        module.exit_json(**ensure_release(module, site))
    except StepError as error:
        module.fail_json(msg=str(error), step=error.step)
    except OSError as error:
        module.fail_json(msg=f"disk: {error.filename or site.home}: {error.strerror}", step="disk")


if __name__ == "__main__":
    main()
