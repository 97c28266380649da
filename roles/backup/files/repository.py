"""The repository of a site, and the choice of a set in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import time
from datetime import UTC, datetime

from settings import BackupError, Site, utc, write

#: What restic says of a repository that does not exist, or no more.
MISSING = ("Is there a repository", "no such file", "does not exist", "NoSuchKey", "NoSuchBucket")
#: What it says while another host of the site has an exclusive lock, and for how many seconds that may last.
LOCKED, PATIENCE = "already locked", 4 * 3600
#: Tag of the set that a restore makes of the live data.
BEFORE_RESTORE = "before-restore"
#: Characters that have a meaning in restic's patterns.
PATTERN = re.compile(r"[*?\[\\]")


class Restic:
    """Runs restic on the repository of a site.

    With a timeout in seconds it can only read, and waits for no lock.
    """

    def __init__(self, site: Site, timeout: float | None = None) -> None:
        self.site, self.timeout = site, timeout
        text = (site.private / "secrets.json").read_text()
        secrets = json.loads(text or "{}")
        if not secrets.get("password"):
            raise BackupError(f"{site.private}/secrets.json has no password. Fix: run site.yml with the recovery file.")
        #: Changes with the repository and its secrets.
        self.identity = hashlib.sha256(f"{site.repository} {text}".encode()).hexdigest()
        self.environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            "RESTIC_REPOSITORY": site.repository,
            "RESTIC_PASSWORD": secrets["password"],
            "RESTIC_CACHE_DIR": f"/var/cache/{site.name}-backup",
            # Otherwise a long backup writes millions of lines about its progress.
            "RESTIC_PROGRESS_FPS": "0.01",
            **site.environment,
        }
        self.options = ["--no-lock"] if timeout else []
        if site.repository.startswith("sftp:"):
            key = site.private / "ssh_key"
            if not key.exists() or key.read_text() != secrets["ssh_key"]:
                write(key, secrets["ssh_key"])
            self.options += ["-o", f"sftp.command={self.ssh()} -s sftp"]

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
        began = time.monotonic()
        while True:
            try:
                done = subprocess.run(
                    ["restic", *self.options, *argv],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=self.timeout,
                )
            except subprocess.TimeoutExpired:
                raise BackupError(self.explain(argv[0], f"no answer within {self.timeout} s")) from None
            if not done.returncode or LOCKED not in done.stderr or time.monotonic() - began > PATIENCE:
                break
            time.sleep(10)
        if done.returncode and any(words in done.stderr for words in MISSING):
            # The next run of site.yml looks for the repository again.
            self.site.note(opened="")
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
                "\nFix: the repository was made with another password. Move"
                f" {self.site.private}/secrets.json on the host and the recovery file away, put the recovery file with"
                " that password in its place, and run site.yml; or set backup_repository to an empty folder"
            )
        return hide(f"restic {command}: {self.site.repository}: {cause}{advice}")

    def open(self) -> None:
        """Create the repository if it does not exist."""
        if self.site.state.get("opened") == self.identity:
            return
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
        self.site.note(opened=self.identity)

    def sets(self) -> list[dict]:
        """Return the sets of the site, the oldest first; the tags say which parts they have."""
        sets = json.loads(self.run("snapshots", "--json", f"--host={self.site.name}", "--tag=django_vps").stdout) or []
        return sorted(sets, key=started)

    def is_id(self, which: str) -> bool:
        return any(len(which) >= 8 and one["id"].startswith(which) for one in self.sets())

    def find(self, which: str, parts: list[str], is_optional: bool = False) -> dict[str, dict]:
        """Return for each part the set that `which` means: latest, an id, or the last one up to a time.

        A part that is optional need not have such a set.
        """
        sets = self.sets()
        if named := [one for one in sets if len(which) >= 8 and one["id"].startswith(which)]:
            return {part: one for one in named for part in parts if part in one["tags"]}
        at = time.time() if which == "latest" else parse_time(which)
        chosen = {}
        for part in parts:
            # `latest` is not the set that a restore has just made of the live data.
            known = [
                one for one in sets if part in one["tags"] and (which != "latest" or BEFORE_RESTORE not in one["tags"])
            ]
            fitting = [one for one in known if started(one) <= at]
            if is_optional and not fitting:
                continue
            if not known:
                raise BackupError(hide(f"{self.site.repository} has no set of {self.site.name} with its {part}"))
            if not fitting:
                raise BackupError(
                    f"restore_to: {utc(at)} is before the first set, which is of {utc(started(known[0]))}"
                )
            chosen[part] = fitting[-1]
        return chosen

    def restore(self, one: dict, target: str, path: str, *others: str) -> None:
        """Restore some paths of a set, without which it would be all of it, below a folder."""
        # A name can have characters of a pattern.
        includes = ["--include=" + PATTERN.sub(r"\\\g<0>", each) for each in (path, *others)]
        done = self.run("restore", one["id"], f"--target={target}", *includes, check=False)
        errors = [line for line in done.stderr.splitlines() if "ignoring error" in line]
        # A network file system may refuse another owner than its own.
        if done.returncode and not (errors and all("lchown" in line for line in errors)):
            raise BackupError(self.explain("restore", done.stderr))

    def size(self, one: dict) -> int:
        """Return the bytes of all files of a set."""
        return json.loads(self.run("stats", "--json", "--mode=restore-size", one["id"]).stdout)["total_size"]

    def stored(self) -> int:
        """Return the bytes of all data in the repository."""
        return json.loads(self.run("stats", "--json", "--mode=raw-data").stdout)["total_size"]


def hide(text: str) -> str:
    """Remove the password from an address such as rest:https://USER:PASSWORD@HOST/."""
    return re.sub(r"//[^/@\s]*:[^/@\s]*@", "//", text)


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
