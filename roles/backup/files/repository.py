"""The repository of a site, and the choice of a set in it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from datetime import UTC, datetime

from settings import BackupError, Site, utc, write

#: What restic says of a repository that does not exist yet.
MISSING = ("Is there a repository", "no such file", "does not exist", "NoSuchKey", "NoSuchBucket")


#: Tag of the set that a restore makes of the live data.
BEFORE_RESTORE = "before-restore"


class Restic:
    """Runs restic on the repository of a site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        secrets = json.loads((site.private / "secrets.json").read_text())
        self.environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            "RESTIC_REPOSITORY": site.repository,
            "RESTIC_PASSWORD": secrets["password"],
            "RESTIC_CACHE_DIR": f"/var/cache/{site.name}-backup",
            **site.environment,
        }
        self.options = []
        if site.repository.startswith("sftp:"):
            key = site.private / "ssh_key"
            if not key.exists() or key.read_text() != secrets["ssh_key"]:
                write(key, secrets["ssh_key"])
            self.options = ["-o", f"sftp.command={self.ssh()} -s sftp"]

    def ssh(self) -> str:
        """Return the command of SSH for a repository such as sftp:USER@HOST:PATH or sftp://USER@HOST:PORT/PATH."""
        name, port = self.site.repository.removeprefix("sftp:"), "22"
        if name.startswith("//"):
            login = name[2:].partition("/")[0]
            if login.rpartition(":")[2].isdigit():
                login, _colon, port = login.rpartition(":")
        else:
            login = name.partition(":")[0]
        private = self.site.private
        return (
            f"ssh -p {port} -i {private}/ssh_key -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=20"
            f" -o UserKnownHostsFile={private}/known_hosts -o StrictHostKeyChecking=accept-new"
            f" -o ServerAliveInterval=15 {login}"
        )

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            ["restic", *self.options, *argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise BackupError(self.explain(argv[0], done.stderr))
        return done

    def explain(self, command: str, said: str) -> str:
        """Return the message for a command that failed: its last lines, and what to do."""
        cause, advice = "\n".join(said.strip().splitlines()[-4:]) or "no message", ""
        if "Permission denied (" in said and self.site.repository.startswith("sftp:"):
            argv = ["ssh-keygen", "-y", "-f", self.site.private / "ssh_key"]
            public = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
            advice = (
                "\nFix: on that server, add this line to ~/.ssh/authorized_keys of the user:\n"
                f"{public[0]} {public[1]} {self.site.name}-backup\nThen run the playbook again"
            )
        elif "wrong password" in said or "no key found" in said:
            advice = (
                "\nFix: the repository was made with another password. Name the recovery file that has it by"
                " backup_recovery_file, or set backup_repository to an empty folder."
            )
        return f"restic {command}: {self.site.repository}: {cause}{advice}"

    def open(self) -> None:
        """Create the repository if it does not exist."""
        if self.site.repository.startswith("sftp:"):
            # restic often ends before it has read what SSH says.
            argv = [*shlex.split(self.ssh()), "-s", "sftp"]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BackupError(self.explain("cat config", done.stderr))
        done = self.run("cat", "config", check=False)
        if done.returncode:
            if not any(words in done.stderr for words in MISSING):
                raise BackupError(self.explain("cat config", done.stderr))
            self.run("init")

    def sets(self, part: str = "") -> list[dict]:
        """Return the sets of the site, of those that have a part, the oldest first."""
        tags = ",".join(filter(None, ["django_vps", part]))
        sets = json.loads(self.run("snapshots", "--json", f"--host={self.site.name}", f"--tag={tags}").stdout) or []
        return sorted(sets, key=started)

    def find(self, which: str) -> dict[str, dict]:
        """Return for each part of this host the set that `which` means: latest, an id, or the last one up to a time."""
        at = time.time()
        wanted = "" if which == "latest" else which
        chosen = {}
        for part in self.site.parts:
            sets = self.sets(part)
            if not sets:
                raise BackupError(f"{self.site.repository} has no set of {self.site.name} with the part {part}")
            named = [one for one in sets if wanted and one["id"].startswith(wanted) and len(wanted) >= 8]
            if not named and wanted:
                at = parse_time(wanted)
            # `latest` is not the set that a restore has just made of the live data.
            fitting = named or [
                one for one in sets if started(one) <= at and (wanted or BEFORE_RESTORE not in one["tags"])
            ]
            if not fitting:
                raise BackupError(f"restore_to: {utc(at)} is before the first set, which is of {utc(started(sets[0]))}")
            chosen[part] = fitting[-1]
        return chosen


def parse_time(text: str) -> float:
    """Return the time that a user means, in UTC if it has no offset."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BackupError(
            f"restore_to: expected latest, the id of a set, or a time such as 2026-11-27 10:15 in UTC, got {text!r}"
        ) from None
    seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if seconds > time.time():
        raise BackupError(f"restore_to: {utc(seconds)} is in the future, now it is {utc(time.time())}")
    return seconds


def started(one: dict) -> float:
    """Return when a set was made."""
    # restic writes nanoseconds, of which Python reads only microseconds.
    seconds, rest = one["time"][:19], one["time"][19:]
    return datetime.fromisoformat(seconds + rest.lstrip(".0123456789").replace("Z", "+00:00")).timestamp()
