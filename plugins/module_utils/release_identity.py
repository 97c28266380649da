# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Identify a release by a digest of its inputs, and by its id."""

from __future__ import annotations

import calendar
import hashlib
import json
import os
import time
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.python import DISTRIBUTION
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

#: Format of ids, which sort by time and need no escaping in the name of a unit.
ID_FORMAT = "%Y%m%dT%H%M%SZ"


def next_id(site: Site) -> str:
    now = time.time()
    # When the clock was set back, a new release must still sort after the existing ones.
    newest = max((entry.name for entry in site.releases.glob("*")), default="")
    while (name := time.strftime(ID_FORMAT, time.gmtime(now))) <= newest:
        now = max(now, calendar.timegm(time.strptime(newest, ID_FORMAT))) + 1
    return name


def compute_fingerprint(options: dict) -> str:
    """Return a digest of all inputs of a release."""
    known = {
        name: options[name]
        for name in (
            *("digest", "user", "installer", "requirements", "packages", "subdirectory"),
            *("groups", "extras", "extra_packages", "build_environment", "git_key", "shared_paths"),
            *("settings_module", "application", "static_url", "media_url", "media", "environment"),
            *("before_collectstatic", "after_collectstatic", "collectstatic", "after_migrate"),
            "check_level",
        )
    }
    # An upgrade of the distribution removes the Python of earlier releases.
    known["python"] = [options["python"], os.path.realpath(DISTRIBUTION)]
    for path in (options["secret_key_file"], *options["copies"], *options["depends_on"]):
        try:
            known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except FileNotFoundError:
            known[path] = None
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def find_same(site: Site, fingerprint: str) -> list[str]:
    """Return the ids of the complete releases with this fingerprint that are good and have a Python to run with."""
    # A release whose Python was removed must be built again.
    able = [name for name in site.complete_releases() if site.find_interpreter(name)]
    known = {name: site.facts(name) for name in able}
    return [name for name, facts in known.items() if facts["fingerprint"] == fingerprint and not facts.get("bad")]


def choose_release(options: dict, same: list[str], live: str) -> str | None:
    """Return the release to use in place of a new one: that with the id, else the live one, else the newest."""
    if options["id"]:
        return options["id"] if options["id"] in same else None
    return live if live in same else (same or [None])[-1]
