"""Make sets, which are snapshots of restic; restore them; and test that the newest one can be restored.

Each host of a site backs up the parts that it has; a snapshot has their names as tags.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import files
from database import Database, compare_rows, scratch_database
from repository import Restic, started
from settings import DUMP, MANIFEST, BackupError, Site, require_room, utc

#: A set is too old after this many seconds, two nights and a day; a test after two weeks and a day.
OLD, OLD_TEST = 60 * 3600, 15 * 86400
#: What certbot needs on a new host.
CERTIFICATES = [Path("/etc/letsencrypt", name) for name in ("accounts", "archive", "live", "renewal")]


#: Advice for a restore to a host that has data.
NOT_BARE = "Fix: to replace live data, run playbooks/restore.yml."


def create(site: Site, tag: str) -> str:
    """Make a set, and return a sentence about it."""
    began, restic = time.time(), Restic(site)
    # Locks of processes that have ended, such as by a kill.
    restic.run("unlock")
    with site.scratch("set"):
        parts, manifest, paths = [], {"site": site.name, "time": utc(began)}, [site.set]
        if "database" in site.parts:
            database = Database(site.socket_dir, site.database)
            # A standby has the same data as the primary, which makes the sets.
            if not database.is_standby():
                require_room(site.set, int(database.sql("SELECT pg_database_size(current_database())")), "the dump")
                manifest["rows"] = database.dump(site.set / DUMP)
                parts.append("database")
        if "files" in site.parts:
            manifest |= files.describe(site.media, began)
            paths += [*site.uploads, site.config_dir / "secret_key"]
            parts.append("files")
        if "certificates" in site.parts:
            paths += CERTIFICATES
            parts.append("certificates")
        if not parts:
            return "this host has the standby; the primary makes the sets"
        (site.set / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        options = [f"--tag={one}" for one in ("django_vps", *parts, *filter(None, [tag]))]
        options += [
            f"--exclude={one}" for one in (*(f"{path}/{files.STAGING}" for path in site.uploads), *site.exclude)
        ]
        argv = ["backup", "--json", f"--host={site.name}", *options, *(str(path) for path in paths if path.exists())]
        done = restic.run(*argv, check=False)
        # 3 means that a file could not be read; one that a visitor has just deleted is none of the set.
        errors = [line for line in done.stderr.splitlines() if '"message_type":"error"' in line or "error:" in line]
        if done.returncode and (done.returncode != 3 or any("no such file" not in line for line in errors)):
            raise BackupError(restic.explain("backup", done.stderr))
    made = json.loads(done.stdout.splitlines()[-1])
    size, new = made["total_bytes_processed"] / 1e6, made["data_added"] / 1e6
    site.note(last={"id": made["snapshot_id"][:8], "time": began, "megabytes": round(size, 1)})
    keep = [f"--keep-{period}={number}" for period, number in site.keep.items() if number]
    # A set that was asked for stays at least for two days.
    restic.run("forget", "--prune", f"--host={site.name}", "--tag=django_vps", "--keep-within=2d", *keep)
    return (
        f"set {made['snapshot_id'][:8]} of {utc(began)}: {', '.join(parts)}; {size:.1f} MB, {new:.1f} MB of it new,"
        f" in {time.time() - began:.0f} s"
    )


def fetch(site: Site, restic: Restic, one: dict, folder: Path) -> dict:
    """Restore the dump and the manifest of a set to a folder, and return the manifest."""
    restic.run("restore", one["id"], f"--target={folder}", f"--include={site.set}")
    for path in (folder / site.set.relative_to("/")).iterdir():
        path.rename(folder / path.name)
    return json.loads((folder / MANIFEST).read_text())


def restore(site: Site, which: str, beside: bool) -> str:
    """Restore the parts of this host, and return a line about each."""
    restic, lines = Restic(site), []
    restic.run("unlock")
    for part, one in restic.find(which).items():
        with site.scratch("restore") as folder:
            if part == "database":
                where = restore_database(site, fetch(site, restic, one, folder), folder, beside)
            elif part == "files":
                where = restore_files(site, restic, one, fetch(site, restic, one, folder), beside)
            else:
                continue
        lines.append(f"{where}: set {one['short_id']} of {utc(started(one))}")
    return "\n".join(lines)


def recover(site: Site, which: str) -> str:
    """Restore what a bare host has of the site, also the secret key and the certificates; return a line about each."""
    restic, lines = Restic(site), []
    restic.run("unlock")
    chosen, done = restic.find(which), site.state.get("recovered", {})
    # What an interrupted run has restored is not restored again.
    chosen = {part: one for part, one in chosen.items() if done.get(part) != one["id"]}
    for part in chosen:
        if part == "database" and Database(site.socket_dir, site.database).count():
            raise BackupError(f"restore: the database {site.database} has tables. {NOT_BARE}")
        if part == "files" and any(path.name != files.STAGING for path in site.media.iterdir()):
            raise BackupError(f"restore: {site.media} has files. {NOT_BARE}")
    for part, one in chosen.items():
        with site.scratch("restore") as folder:
            manifest = fetch(site, restic, one, folder)
            if part == "database":
                restore_database(site, manifest, folder, beside=False)
            elif part == "files":
                restore_files(site, restic, one, manifest, beside=False)
                restic.run("restore", one["id"], "--target=/", f"--include={site.config_dir}/secret_key")
            else:
                restic.run("restore", one["id"], "--target=/", *(f"--include={path}" for path in CERTIFICATES))
        done = {**done, part: one["id"]}
        site.note(recovered=done)
        lines.append(f"{part}: set {one['short_id']} of {utc(started(one))}")
    return "\n".join(lines)


def restore_database(site: Site, manifest: dict, folder: Path, beside: bool) -> str:
    name = f"{site.database[:50]}_restored" if beside else site.database
    new = Database(site.socket_dir, f"{site.database[:50]}_restoring")
    if not new.is_standby():
        require_room(Path("/var/lib/postgresql"), (folder / DUMP).stat().st_size * 2, "the restored database")
        new.create(site.owner)
        new.restore(folder / DUMP)
        compare_rows(manifest["rows"], new.count())
        new.sql("ANALYZE")
        new.take_name(name)
    return f"database {name}"


def restore_files(site: Site, restic: Restic, one: dict, manifest: dict, beside: bool) -> str:
    for live in site.uploads:
        target = site.home / "restored" if beside else live / files.STAGING / "new"
        restored = target / live.relative_to("/")
        shutil.rmtree(restored if beside else live / files.STAGING, ignore_errors=True)
        target.mkdir(parents=True, exist_ok=True)
        restic.run("restore", one["id"], f"--target={target}", f"--include={live}")
        if live == site.media:
            files.compare(restored, manifest["sample"])
        if restored.exists() and not beside:
            files.change_owner(restored, manifest["owner"], site.media.stat())
            files.exchange(live, restored)
    return f"uploads {site.home / 'restored' if beside else site.media}"


def drill(site: Site) -> str:
    """Restore the newest set beside everything, compare it with its manifest, and return a sentence about it."""
    restic, began = Restic(site), time.time()
    restic.run("unlock")
    sets = restic.find("latest")
    for part, one in sets.items():
        if began - started(one) > OLD:
            raise BackupError(
                f"the newest set of the {part} is of {utc(started(one))}; read the log of its timer's unit"
            )
    # Reads a tenth of all data, in addition to the set below.
    restic.run("check", "--read-data-subset=10%")
    for part, one in sets.items():
        with site.scratch("drill") as folder:
            size = json.loads(restic.run("stats", "--json", "--mode=restore-size", one["id"]).stdout)["total_size"]
            require_room(folder, size * 2, "the test of the newest set")
            if part == "database":
                manifest = fetch(site, restic, one, folder)
                with scratch_database(site) as database:
                    database.restore(folder / DUMP, "--no-owner", "--no-privileges")
                    compare_rows(manifest["rows"], database.count())
            elif part == "files":
                sample = fetch(site, restic, one, folder)["sample"]
                restic.run("restore", one["id"], f"--target={folder}", f"--include={site.media}")
                files.compare(folder / site.media.relative_to("/"), sample)
    newest = max(started(one) for one in sets.values())
    site.note(proven={"set": newest, "time": began})
    return f"the set of {utc(newest)} can be restored: {', '.join(sets)}; tested in {time.time() - began:.0f} s"


def describe_state(site: Site) -> str:
    """Return lines about the newest set and the last test; a problem starts with an exclamation mark."""
    state, now, lines = site.state, time.time(), []
    if last := state.get("last"):
        what = f"newest set: {last['id']} of {utc(last['time'])}, {last['megabytes']} MB, in {site.repository}"
        lines.append(f"! {what}, which is too old" if now - last["time"] > OLD else what)
    else:
        lines.append(f"no set yet in {site.repository}; the next night makes one, or playbooks/backup.yml")
    if proven := state.get("proven"):
        what = f"newest set that was restored in a test: of {utc(proven['set'])}, on {utc(proven['time'])}"
        lines.append(f"! {what}, which is too long ago" if now - proven["time"] > OLD_TEST else what)
    elif last:
        lines.append("no set was restored in a test yet; the weekly test does so")
    if site.repository.startswith("/"):
        lines.append("the sets are on this host, and are lost with its disk; set backup_repository to another server")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path, help="the file that the role has written")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("open", help="create the repository if it does not exist")
    commands.add_parser("create", help="make a set").add_argument("--tag", default="", help="an additional tag")
    commands.add_parser("list", help="list the sets")
    commands.add_parser("drill", help="restore the newest set in a test")
    commands.add_parser("status", help="show the age of the newest set and of the last test")
    for name, what in (
        ("find", "say which set a restore would use"),
        ("recover", "restore a set to a bare host"),
        ("restore", "restore a set"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("which", help="latest, the id of a set, or a time in UTC such as '2026-11-27 10:15'")
    command.add_argument("--beside", action="store_true", help="leave the live data alone")
    options = parser.parse_args()
    site = Site(options.settings)
    os.umask(0o077)
    try:
        if options.command == "status":
            print(describe_state(site))
            return 0
        with site.lock():
            print(run(site, options))
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(site: Site, options: argparse.Namespace) -> str:
    match options.command:
        case "open":
            # No connection for a repository that was there in an earlier run.
            if site.state.get("repository") != site.repository:
                Restic(site).open()
                site.note(repository=site.repository)
            return f"{site.repository} is open"
        case "create":
            return create(site, options.tag)
        case "drill":
            return drill(site)
        case "recover":
            return recover(site, options.which)
        case "list":
            sets = Restic(site).sets()
            return "\n".join(f"{one['short_id']}  {utc(started(one))}  {' '.join(one['tags'][1:])}" for one in sets)
        case "find":
            chosen = Restic(site).find(options.which)
            return "\n".join(f"{part}: set {one['short_id']} of {utc(started(one))}" for part, one in chosen.items())
        case _:
            return restore(site, options.which, options.beside)


if __name__ == "__main__":
    sys.exit(main())
