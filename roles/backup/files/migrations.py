"""Check that the migrations of a restored database fit the releases of the site."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from database import Database
from settings import BackupError, Site

#: A migration in the output of `migrate --plan`; its operations are indented.
PLANNED = re.compile(r"^(\w+\.\w+)$", re.MULTILINE)


def live_release(site: Site) -> dict[str, object]:
    """Return the id and the migrations of the live release, for the manifest; nothing on a host without releases."""
    try:
        folder = Path(os.path.realpath(site.home / "current", strict=True))
        marker = json.loads((folder / "release.json").read_text())
    except (OSError, ValueError):
        return {}
    return {"release": folder.name, "migrations": marker.get("migrations") or []}


def check_migrations(site: Site, manifest: dict, database: Database) -> str:
    """Let the live release compare its migrations with a restored database; return a sentence, or fail.

    Missing migrations are no error where a release that came after the set has added them.
    """
    live, made_by = live_release(site).get("release"), manifest.get("release")
    if not live:
        return "its migrations were not checked, because this host has no release"
    sockets = Path(database.socket_dir)
    # A release whose database is on another host reads the address from a file.
    service = f"[{site.name}]\nhost={site.socket_dir}\ndbname={database.name}\nuser={site.role}\n"
    (sockets / "pg_service.conf").write_text(service)
    (sockets / "pg_service.conf").chmod(0o644)
    options = (f"--release={live}", f"--scratch-database={sockets}")
    command = ("migrate", "--check", "--plan", "--skip-checks", "--no-color")
    argv = (str(site.manage), *options, *command)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    missing = PLANNED.findall(done.stdout.partition("Planned operations:")[2])
    if done.returncode and not missing:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        if site.service_file and "OperationalError" in said:
            return "its migrations were not checked, because the settings do not read DATABASE_URL"
        raise BackupError(f"manage.py migrate --check of release {live} fails with the restored database: {said}")
    if not missing:
        return f"its migrations fit release {live}"
    if lost := [name for name in missing if made_by == live or name in manifest.get("migrations", [])]:
        raise BackupError(
            f"the restored database lacks migrations of release {made_by}, which was live when the set was made:"
            f" {', '.join(lost)}"
        )
    whose = f"the set is of release {made_by}" if made_by else "the set names no release"
    return f"{whose}; release {live} applies to it: {', '.join(missing)}"
