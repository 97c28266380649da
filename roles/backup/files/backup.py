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
from database import DATA, Database, compare_rows, scratch_database
from elsewhere import Elsewhere, count_dump, database_of, version_for_test
from migrations import check_migrations
from point_in_time import PgBackRest
from repository import Restic, hide, parse_time, started
from restore_point import make_restore_point, quick_set
from sets import active_parts, create
from settings import DUMP, MANIFEST, OLD, RECENT, BackupError, Site, require_room, utc

#: A test is too old after two weeks and a day.
OLD_TEST = 15 * 86400
#: Advice for a restore to a host that has data.
NOT_BARE = "Fix: to replace live data, run playbooks/restore.yml."


def read_manifest(restic: Restic, one: dict, folder: Path) -> dict:
    restic.restore(one, str(folder), f"{restic.site.set}/{MANIFEST}")
    return json.loads((folder / restic.site.set.relative_to("/") / MANIFEST).read_text())


def fetch_dump(restic: Restic, one: dict, folder: Path) -> Path:
    restic.restore(one, str(folder), f"{restic.site.set}/{DUMP}")
    return folder / restic.site.set.relative_to("/") / DUMP


def choose(restic: Restic, which: str, parts: list[str], is_recovery: bool = False) -> dict[str, dict]:
    """Return for each part what to restore: a set, or for the database a point in time."""
    site = restic.site
    is_time = not restic.is_id(which)
    # The latest point in time of a running server is its present state; that of a lost one is its last minute.
    if not (site.archive and "database" in parts and is_time and (which != "latest" or is_recovery)):
        return restic.find(which, parts)
    point = PgBackRest(site).find(None if which == "latest" else parse_time(which), is_recovery)
    if not point:
        return restic.find(which, parts)
    return {"database": point, **restic.find(which, [part for part in parts if part != "database"], is_optional=True)}


def name_of(one: dict) -> str:
    """Return what a user calls a set or a point in time."""
    if "base" not in one:
        return f"set {one['short_id']} of {utc(started(one))}"
    point = utc(one["point"]) if one["point"] else "the last moment in the archive"
    return f"point in time {point}, from the base backup of {utc(one['base']['timestamp']['stop'])}"


def find(site: Site, which: str) -> str:
    """Return a line about each part that a restore would restore, or leave as it is."""
    parts = active_parts(site)
    chosen = choose(Restic(site), which, parts)
    lines = [f"{part}: {name_of(one)}" for part, one in chosen.items()]
    # A set that a deploy has made has the database only.
    missing = [part for part in parts if part not in chosen and part != "certificates"]
    return "\n".join([*lines, *(f"{part}: not in this set, so a restore does not change them" for part in missing)])


def restore(site: Site, which: str, beside: bool) -> str:
    """Restore the parts of this host, and return a line about each."""
    restic = Restic(site)
    restic.run("unlock")
    chosen = choose(restic, which, active_parts(site))
    if not beside:
        site.note(restoring=time.time())
    lines = replace(site, restic, chosen, beside)
    if not beside:
        site.note(restoring=0)
    return "\n".join(lines)


def replace(site: Site, restic: Restic, chosen: dict[str, dict], beside: bool = False) -> list[str]:
    """Restore the uploads and the database; nothing live changes before both are there and compared."""
    lines = []
    uploads, rows = chosen.get("files"), chosen.get("database")
    name = f"{site.database[:50]}_restored" if beside else site.database
    target = site.home / "restored" if beside else site.media
    try:
        if uploads:
            with site.scratch("restore") as folder:
                manifest = read_manifest(restic, uploads, folder)
            require_room(site.home if beside else site.media, restic.size(uploads), "the restored uploads")
            for live in site.uploads:
                shutil.rmtree(target / live.relative_to("/") if beside else live / files.STAGING, ignore_errors=True)
                restored = stage(restic, uploads, live, target if beside else live / files.STAGING / "new")
                if live == site.media:
                    files.compare(restored, manifest["sample"])
                if not beside:
                    files.change_owner(restored, manifest["owner"], site.media.stat())
        if rows:
            with site.scratch("restore") as folder:
                if site.service_file:
                    fill_elsewhere(restic, rows, folder, name)
                else:
                    fill_database(restic, rows, folder).take_name(name)
            lines.append(f"database {name}: {name_of(rows)}")
        if uploads:
            if not beside:
                for live in site.uploads:
                    files.exchange(live, live / files.STAGING / "new" / live.relative_to("/"))
            lines.append(f"uploads {target}: {name_of(uploads)}")
    except BaseException:
        if not beside:
            for live in site.uploads:
                files.remove_staged(live)
        raise
    return lines


def stage(restic: Restic, one: dict, live: Path, target: Path) -> Path:
    """Restore a folder below another one, and return where it is."""
    restored = target / live.relative_to("/")
    restored.mkdir(parents=True)
    restic.restore(one, str(target), str(live))
    return restored


def fill_database(restic: Restic, one: dict, folder: Path) -> Database:
    """Restore the dump of a set or of a point in time to a new database, and return it."""
    site = restic.site
    if "base" in one:
        manifest, dump = PgBackRest(site).fetch(one, folder), folder / DUMP
    else:
        manifest = read_manifest(restic, one, folder)
        require_room(folder, manifest["bytes"], "the dump")
        dump = fetch_dump(restic, one, folder)
    require_room(DATA, manifest["bytes"] * 3, "the restored database beside the live one")
    new = Database(site.socket_dir, f"{site.database[:50]}_restoring")
    new.create(site.owner, manifest["roles"])
    new.restore(dump)
    compare_rows(manifest["rows"], new.count())
    new.grant(site.privileges)
    new.sql("ANALYZE")
    return new


def fill_elsewhere(restic: Restic, one: dict, folder: Path, name: str) -> None:
    """Restore the dump of a set to the database that the stack does not manage, or to one beside it."""
    site, manifest = restic.site, read_manifest(restic, one, folder)
    require_room(folder, manifest["bytes"], "the dump")
    dump, live = fetch_dump(restic, one, folder), database_of(site)
    target = live if name == site.database else Elsewhere(site, name)
    if not target.exists():
        live.create_beside(name)
    target.replace(dump, manifest["rows"])


def recover(site: Site, which: str) -> str:
    """Restore what a bare host has of the site, also the secret key and the certificates; return a line about each."""
    restic = Restic(site)
    restic.run("unlock")
    begun, done = site.state.get("recovering", {}), site.state.get("recovered", [])
    # What a run that was interrupted a short time ago has begun is restored again; what was restored never is.
    begun = begun.get("parts", []) if time.time() - begun.get("time", 0) < RECENT else []
    # A server that the stack does not manage still has its database.
    parts = [part for part in active_parts(site) if part != "database" or not site.service_file]
    chosen = {part: one for part, one in choose(restic, which, parts, is_recovery=True).items() if part not in done}
    for part in chosen.keys() - {*begun}:
        if part == "database" and database_of(site).count():
            raise BackupError(f"restore: the database {site.database} has tables. {NOT_BARE}")
        if part == "files" and {path.name for path in site.media.iterdir()} - {files.STAGING, "lost+found"}:
            raise BackupError(f"restore: {site.media} has files. {NOT_BARE}")
    site.note(recovering={"time": time.time(), "parts": [*chosen]})
    lines = replace(site, restic, {part: one for part, one in chosen.items() if part != "certificates"})
    if one := chosen.get("files"):
        restic.restore(one, "/", f"{site.config_dir}/secret_key")
    if one := chosen.get("certificates"):
        # restic 0.14 does not replace links.
        for path in site.certificates[1:]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if paths := [path for path in one["paths"] if path.startswith("/etc/letsencrypt/")]:
            restic.restore(one, "/", *paths)
        lines.append(f"certificates: {name_of(one)}")
    if site.service_file and chosen:
        lines.append(f"database {site.database}: on its own server, and not changed; playbooks/restore.yml replaces it")
    site.note(recovered=[*done, *chosen])
    return "\n".join(lines)


def drill(site: Site) -> str:
    """Restore the newest set beside everything, compare it with its manifest, and return a sentence about it."""
    restic, began, parts = Restic(site), time.time(), active_parts(site)
    if not parts:
        return "this host has the standby; the primary tests the sets"
    restic.run("unlock")
    sets = restic.find("latest", parts)
    for part, one in sets.items():
        if began - started(one) > OLD:
            raise BackupError(
                f"the newest set of the {part} is of {utc(started(one))}; read the log of its timer's unit"
            )
    # Reads 1 GiB of all data or a tenth, whichever is more, in addition to what is restored below.
    share = min(100, max(10, 100 * 2**30 // max(1, restic.stored())))
    restic.run("check", f"--read-data-subset={share}%")
    lines = [", ".join(sets)]
    for part, one in sets.items():
        with site.scratch("drill") as folder:
            manifest = read_manifest(restic, one, folder)
            if part == "database":
                lines.append(test_database(restic, one, manifest, folder))
            elif part == "files" and manifest["sample"]:
                require_room(
                    folder, sum(size for *_facts, size in manifest["sample"].values()), "the sample of uploads"
                )
                restic.restore(one, str(folder), *(f"{site.media}/{name}" for name in manifest["sample"]))
                files.compare(folder / site.media.relative_to("/"), manifest["sample"])
    if site.archive and "database" in parts and (point := PgBackRest(site).find(None)):
        with PgBackRest(site).copy_of_cluster(point) as database:
            database.count()
        lines.append("a point in time was restored, too")
    newest = max(started(one) for one in sets.values())
    site.note(proven={"set": newest, "time": began, "database": lines[1:]}, failed_test="")
    return f"the set of {utc(newest)} can be restored: {'; '.join(lines)}; tested in {time.time() - began:.0f} s"


def test_database(restic: Restic, one: dict, manifest: dict, folder: Path) -> str:
    """Restore the dump of a set in a scratch database; return a sentence about its migrations."""
    site, live = restic.site, database_of(restic.site)
    require_room(folder, manifest["bytes"], "the dump")
    dump = fetch_dump(restic, one, folder)
    version = version_for_test(dump, live) if site.service_file else live.version
    if not version:
        compare_rows(manifest["rows"], count_dump(dump, live))
        return "its dump was read and not restored, because this host has no server with the version and the extensions"
    require_room(DATA, manifest["bytes"] * 2, "the test of the newest dump")
    with scratch_database(site, manifest["roles"], version) as database:
        database.restore(dump)
        compare_rows(manifest["rows"], database.count())
        return check_migrations(site, manifest, database)


def describe_state(site: Site) -> str:
    """Return lines about the newest set and the last test; a problem starts with an exclamation mark."""
    state, now, lines, shown = site.state, time.time(), [], hide(site.repository)
    if last := state.get("last"):
        what = f"newest set: {last['id']} of {utc(last['time'])}, {last['megabytes']} MB, in {shown}"
        lines.append(f"! {what}, which is too old" if now - last["time"] > OLD else what)
    else:
        lines.append(f"no set yet in {shown}; the next night makes one, or playbooks/backup.yml")
    if proven := state.get("proven"):
        tested = "; ".join(["", *proven.get("database", [])])
        what = f"newest set that was restored in a test: of {utc(proven['set'])}, on {utc(proven['time'])}{tested}"
        lines.append(f"! {what}, which is too long ago" if now - proven["time"] > OLD_TEST else what)
    elif last:
        lines.append("no set was restored in a test yet; the weekly test does so")
    if failed := state.get("failed_test"):
        lines.append(f"! the last test failed: {failed}")
    if site.archive:
        lines += PgBackRest(site).describe_state()
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
    commands.add_parser("restore-point", help="make a quick set of the database, or name the newest set; for a deploy")
    commands.add_parser("quick-set", help="make the set of restore-point")
    archive = commands.add_parser("open-archive", help="let pgBackRest know the cluster")
    archive.add_argument("--replaced", action="store_true", help="this server replaces a lost one")
    commands.add_parser("base", help="make a base backup of the cluster, for points in time")
    commands.add_parser("first-base", help="begin the first one")
    commands.add_parser("wal", help="fail unless the WAL is archived")
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
        if options.command == "restore-point":
            print(make_restore_point(site))
            return 0
        if options.command in ("open-archive", "base", "first-base", "wal"):
            # pgBackRest has locks of its own, and a deploy does not wait for a base backup of hours.
            print(keep_archive(site, options))
            return 0
        with site.lock():
            print(run(site, options))
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def keep_archive(site: Site, options: argparse.Namespace) -> str:
    pgbackrest = PgBackRest(site)
    match options.command:
        case "open-archive":
            return pgbackrest.open(options.replaced)
        case "base":
            return pgbackrest.back_up()
        case "first-base":
            return pgbackrest.begin()
        case _:
            return pgbackrest.watch()


def run(site: Site, options: argparse.Namespace) -> str:
    match options.command:
        case "open":
            Restic(site).open()
            return "the repository is open"
        case "create":
            return create(site, options.tag)
        case "quick-set":
            return quick_set(site)
        case "drill":
            try:
                return drill(site)
            except BackupError as error:
                site.note(failed_test=str(error))
                raise
        case "recover":
            return recover(site, options.which)
        case "list":
            sets = Restic(site).sets()
            return "\n".join(f"{one['short_id']}  {utc(started(one))}  {' '.join(one['tags'][1:])}" for one in sets)
        case "find":
            return find(site, options.which)
        case _:
            return restore(site, options.which, options.beside)


if __name__ == "__main__":
    sys.exit(main())
