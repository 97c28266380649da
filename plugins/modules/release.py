#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Build a release of a Django project, whole and beside the one that serves
version_added: 1.0.0
description:
  - Packs the source on the controller, and on the host makes one folder that holds all that the release needs,
    its code, its virtual environment, its static files and its environment.
  - The site is not touched. C(current) stays where it is, and a build that fails leaves nothing behind.
  - A release is known by what went into it. When a whole release of the same source, environment, installer and
    configuration is on the host already, that one is the answer and nothing changes.
  - Code of the project and of its packages runs as O(user) in a sandbox, never as root.
options:
  source:
    description:
      - Folder or C(.tar.gz) on the controller. Of a git work tree, what git does not ignore is taken, committed or not.
      - A C(.tar.gz) with one folder at its top is taken without that folder.
    type: path
    required: true
  digest:
    description: Digest of the packed source. The action plugin computes it.
    type: str
  content:
    description: The packed source in base64, when it is small. The action plugin packs it.
    type: str
  archive:
    description: The packed source on the host, when it is large. The action plugin brings it when it is needed.
    type: path
  files:
    description:
      - Content of further files of the source by their path in it, for a project that reads its configuration from a
        file. Each takes the place of a file of that name. The action plugin puts them into the packed source.
    type: dict
    default: {}
  includes:
    description:
      - Files of a source folder, as paths in which C(*) stands for any part, that are packed though git ignores them or
        they look like secrets or dumps. The action plugin keeps back the others that git does not track, and warns.
    type: list
    elements: str
    default: []
  force:
    description: Build a new release, with its packages fetched anew, though there is one of just the same.
    type: bool
    default: false
  home:
    description: Folder of the site on the host. It has to exist; C(releases/) and C(static/) are made in it.
    type: path
    required: true
  id:
    description:
      - Name of the release, digits and letters that sort by time, for hosts that are to call it the same. Only one of
        this name counts as the same then.
      - By default it is the one that there is, and the time in UTC for a new one.
    type: str
  version:
    description: What people call this version, kept with the release.
    type: str
    default: ""
  user:
    description: System user the site runs as.
    type: str
    required: true
  manage:
    description: Program that runs C(manage.py) of a release as the site does, called with C(--release=ID).
    type: path
    required: true
  environment:
    description: Environment of the release in the format of systemd's C(EnvironmentFile), one assignment a line.
    type: str
    required: true
  secret_key_file:
    description: File with the site's secret key. It is made when it is missing, and kept.
    type: path
    required: true
  copies:
    description: Further files that each release keeps a copy of.
    type: list
    elements: path
    default: []
  depends_on:
    description: Files that are shared by all releases, but a change of which makes a new release.
    type: list
    elements: path
    default: []
  media:
    description: Folder of the uploads, shared by all releases.
    type: path
    required: true
  shared_paths:
    description:
      - Folders inside the source that the project writes. Each is a link to one in C(shared/) of O(home), which the
        site owns and all releases share.
    type: list
    elements: str
    default: []
  several:
    description:
      - Whether the site has several hosts. Then what a project keeps on disk needs a O(media) and a C(shared/) that all
        hosts share, a network file system, or the release is refused.
    type: bool
    default: false
  python:
    description:
      - What the virtual environment is made with, the path of an interpreter on the host or versions such as V(3.12) or
        V(>=3.11,<3.13).
      - By default what C(.python-version), C(requires-python), Poetry's dependencies, C(Pipfile.lock) or C(runtime.txt)
        in the source ask for. The
        distribution's is taken where it fits, else one that is on the host, else uv fetches one that all sites share.
    type: str
    default: ""
  installer:
    description: What installs the packages. V(pip) cannot read C(uv.lock).
    type: str
    choices: [uv, pip]
    default: uv
  uv:
    description: The pinned uv as a line of a requirements file with its hashes. With V(pip) it is not used.
    type: str
    default: ""
  requirements:
    description:
      - Requirements file inside the source, such as V(requirements/production.txt).
      - By default that of the folder nearest to C(manage.py); in one folder C(uv.lock) comes first, then
        C(poetry.lock), C(Pipfile.lock), C(requirements.txt) and C(pyproject.toml).
    type: str
    default: ""
  groups:
    description:
      - Groups of packages to install beside the main one, those of C(uv.lock), C(poetry.lock) and
        C([dependency-groups]), or the categories of C(Pipfile.lock).
    type: list
    elements: str
    default: []
  extras:
    description: The same for extras.
    type: list
    elements: str
    default: []
  extra_packages:
    description: Packages to install that the project does not require, each as a line of C(requirements.txt).
    type: list
    elements: str
    default: []
  fetch_environment:
    description: Environment of what reaches the network while a release is built, such as a proxy.
    type: dict
    default: {}
  build_environment:
    description: The same, of this project, such as the credentials of its package index. It is kept in no release.
    type: dict
    default: {}
  git_key:
    description:
      - Text of a private SSH key, which git fetches packages with. It is kept in no release.
      - The host key of a server is believed when it is met first and nothing is known in C(/etc/ssh/ssh_known_hosts),
        and has to be the same from then on.
    type: str
    default: ""
  packages:
    description: Packages the stack needs, each as C(name==version), installed when the project does not bring them.
    type: list
    elements: str
    default: []
  subdirectory:
    description: Folder of C(manage.py) inside the source. By default the top, or the one folder below it that has it.
    type: str
    default: ""
  settings_module:
    description: By default what C(manage.py) names.
    type: str
    default: ""
  application:
    description: WSGI or ASGI application as C(module:name). By default what C(WSGI_APPLICATION) of the settings names.
    type: str
    default: ""
  before_collectstatic:
    description:
      - Commands that are run in the folder of C(manage.py) once the packages are installed, as the site's user, in the
        sandbox of the build, with the environment of the release and the programs of its virtual environment. No shell
        reads them.
    type: list
    elements: str
    default: []
  after_collectstatic:
    description: The same once the static files are collected and the settings are checked.
    type: list
    elements: str
    default: []
  collectstatic:
    description: Whether the static files are collected. If not, C(STATIC_ROOT) is in the source, with all of them.
    type: bool
    default: true
  after_migrate:
    description: Commands of C(manage.py) that the site runs once for each release. Here they tell one from another.
    type: list
    elements: str
    default: []
  host:
    description: Name of the site that its settings have to answer to.
    type: str
    required: true
  static_url:
    description: Path under which the web server serves the static files.
    type: str
    default: /static/
  media_url:
    description: Path under which the web server serves the uploads.
    type: str
    default: /media/
  check_level:
    description: Level from which on a finding of C(manage.py check --deploy) fails the release.
    type: str
    choices: [WARNING, ERROR, CRITICAL]
    default: ERROR
attributes:
  check_mode:
    support: full
    description: Tells whether a release would be made.
  diff_mode:
    support: full
    description: Shows the version that is live and the one that would follow.
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
  description: Id of the release that C(current) names, empty before the first.
  returned: always
  type: str
pending:
  description: Whether the database may lack migrations of the release.
  returned: success
  type: bool
unchecked:
  description: Whether C(manage.py check --deploy) has to be asked again once the migrations are there.
  returned: success
  type: bool
same:
  description: Ids of the whole releases that are good and of just the same, and so may be the answer.
  returned: in check mode
  type: list
  elements: str
others:
  description: Ids of the whole releases that are not.
  returned: in check mode
  type: list
  elements: str
next:
  description: Id that a new release would have.
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
    """Return the difference to display: the live release, and the one that would follow."""
    facts = site.facts(live) or {}
    return {"before": f"{live} {facts.get('version', '')}".strip() + "\n", "after": f"{after} {version}".strip() + "\n"}


def build(module: AnsibleModule, site: Site, fingerprint: str) -> Build:
    """Build a new release; first remove what builds that died or failed have left."""
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
    """Find a release of just these options, or build it; returns the result of the module."""
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
        # The live release has been migrated: only then it was switched to. But a rollback may have died since.
        pending = not is_live or bool(facts.get("undone"))
        unchecked = not is_live and bool(facts.get("unchecked"))
        return {"changed": False, "release": release, "pending": pending, "unchecked": unchecked, **result}
    # The action plugin sends a large source only once it knows that a release has to be built.
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
