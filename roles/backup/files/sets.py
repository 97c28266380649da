"""Make sets."""

from __future__ import annotations

import json
import time

import files
from elsewhere import database_of
from migrations import live_release
from repository import BEFORE_RESTORE, Restic
from settings import DUMP, MANIFEST, RECENT, BackupError, Site, require_room, utc


def active_parts(site: Site) -> list[str]:
    """Return the parts that this host backs up; the primary has the database."""
    is_standby = "database" in site.parts and database_of(site).is_standby()
    return [part for part in site.parts if part != "database" or not is_standby]


def create(site: Site, tag: str) -> str:
    """Make a set of the parts of this host, and return a sentence about it."""
    restic, parts = Restic(site), active_parts(site)
    if not parts:
        site.note(last=None)
        return "this host has the standby; the primary makes the sets"
    made = make_set(restic, parts, tag)
    site.note(last={"id": made["id"], "time": made["began"], "megabytes": round(made["megabytes"], 1)})
    keep = [f"--keep-{period}={number}" for period, number in site.keep.items() if number]
    # A set that was asked for stays at least for two days. Sets with other tags do not count.
    if keep:
        of_site = (f"--host={site.name}", "--tag=django_vps", "--group-by=host,tags")
        restic.run("forget", "--prune", *of_site, "--keep-within=2d", *keep)
    return describe(made)


def make_set(restic: Restic, parts: list[str], tag: str) -> dict:
    """Make a set of some parts, and return its id, size and duration."""
    site, began = restic.site, time.time()
    # Locks of processes that have ended, such as by a kill.
    restic.run("unlock")
    # What a restore that has failed leaves is not what the next one goes back to.
    failed = [BEFORE_RESTORE] if began - site.state.get("restoring", 0) < RECENT else []
    tags = dict.fromkeys(filter(None, ("django_vps", *parts, tag, *failed)))
    with site.scratch("set"):
        manifest, paths = {"site": site.name, "time": utc(began)}, [site.set]
        if "database" in parts:
            database = database_of(site)
            size = database.size()
            require_room(site.set, size, "the dump")
            manifest |= live_release(site)
            manifest |= {"rows": database.dump(site.set / DUMP), "roles": database.roles()}
            manifest["bytes"] = (site.set / DUMP).stat().st_size
            site.note(dump={"bytes": size, "seconds": time.time() - began})
        if "files" in parts:
            manifest |= files.describe(site.media, began, site.exclude)
            paths += [*site.uploads, site.config_dir / "secret_key"]
        if "certificates" in parts:
            paths += site.certificates
        (site.set / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        exclude = [*(f"{path}/{files.STAGING}" for path in site.uploads), *site.exclude]
        options = [*(f"--tag={one}" for one in tags), *(f"--exclude={one}" for one in exclude)]
        made = snapshot(restic, *options, *(str(path) for path in paths if path.exists()))
    return {
        "id": made["snapshot_id"][:8],
        "parts": parts,
        "began": began,
        "seconds": time.time() - began,
        "megabytes": made["total_bytes_processed"] / 1e6,
        "new": made["data_added"] / 1e6,
    }


def describe(made: dict) -> str:
    return (
        f"set {made['id']} of {utc(made['began'])}: {', '.join(made['parts'])}; {made['megabytes']:.1f} MB,"
        f" {made['new']:.1f} MB of it new, in {made['seconds']:.0f} s"
    )


def snapshot(restic: Restic, *options: str) -> dict:
    """Let restic make a snapshot, and return its summary."""
    done = restic.run("backup", "--json", f"--host={restic.site.name}", *options, check=False)
    made = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    # 3 means that a file could not be read. One that a visitor has just removed is no part of the set; restic names the
    # error, or has its number only.
    errors = [line for line in done.stderr.splitlines() if '"error"' in line or line.startswith("error")]
    if done.returncode == 3 and errors and all("no such file" in line or '"Err":2' in line for line in errors):
        return made
    if done.returncode:
        if made.get("snapshot_id"):
            restic.run("forget", made["snapshot_id"], check=False)
        raise BackupError(restic.explain("backup", done.stderr))
    return made
