"""The restore point of a deploy: the set to which the database can go back when its migrations cannot be undone.

It is a set of the database, made now where that is quick, or the newest set. Another kind of restore point, such as a
name in the log of PostgreSQL, belongs into `make_restore_point` as well.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

from elsewhere import database_of
from repository import Restic, started
from sets import make_set
from settings import BackupError, Site, utc

#: The most seconds that a set is expected to take where a deploy waits for it, and those after which it is ended.
QUICK, LIMIT = 60, 90
#: Bytes of a database that a set has in a second at least, for what no earlier set has measured.
RATE = 1 << 24
#: Seconds in which the repository must name the newest set.
ANSWER = 30
#: Tag of the sets that deploys make. They have a group of their own in the retention, so they replace no nightly set.
TAG = "before-migrations"


def make_restore_point(site: Site) -> str:
    """Return the restore point as JSON: the id of the set, its time, whether it was made now, and a sentence.

    There is none on a standby, and none for a database without tables, as before the first deploy.
    """
    database = database_of(site)
    if "database" not in site.parts or database.is_standby() or not database.tables():
        return "{}"
    size = database.size()
    if (seconds := expect_seconds(site, size)) > QUICK:
        reason = f"a new one of the database ({size / 1e9:.1f} GB) would take about {in_words(seconds)}"
    elif made := make_quickly(site):
        at = utc(made["began"])
        sentence = f"restore point: set {made['id']} of {at}, {made['megabytes']:.1f} MB"
        return json.dumps({"set": made["id"], "time": at, "made": True, "message": sentence})
    else:
        reason = f"a new one of the database was not complete after {LIMIT} s"
    newest = Restic(site, timeout=ANSWER).find("latest", ["database"])["database"]
    at, age = utc(started(newest)), in_words(time.time() - started(newest))
    sentence = f"restore point: the newest set, {newest['short_id']} of {at}, {age} old; {reason}"
    return json.dumps({"set": newest["short_id"], "time": at, "made": False, "message": sentence})


def expect_seconds(site: Site, size: int) -> float:
    """Return how long a set of a database is expected to take, by the last one and what was added since."""
    last = site.state.get("dump", {"bytes": 0, "seconds": 0})
    return last["seconds"] + (size - last["bytes"]) / RATE


def make_quickly(site: Site) -> dict | None:
    """Make a set with the priority of the nightly one; None when it was ended because it took too long."""
    began = time.monotonic()
    # systemd ends all processes of a set, also when this one is killed.
    limits = (f"RuntimeMaxSec={LIMIT}", "TimeoutStopSec=10", *site.priority)
    options = ("--quiet", "--wait", "--pipe", "--collect", "--service-type=exec")
    argv = ["systemd-run", *options, *(f"--property={one}" for one in limits), sys.executable, *sys.argv[:2]]
    done = subprocess.run([*argv, "quick-set"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if not done.returncode:
        return json.loads(done.stdout)
    if time.monotonic() - began < LIMIT:
        raise BackupError(done.stderr.strip())
    return None


def quick_set(site: Site) -> str:
    """Make a set of the database, and return it as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    size = database_of(site).size()
    try:
        made = make_set(Restic(site), ["database"], TAG)
    except SystemExit:
        # The next deploy does not try again before another set has measured the duration anew.
        site.note(dump={"bytes": size, "seconds": LIMIT})
        raise
    site.note(dump={"bytes": size, "seconds": made["seconds"]})
    return json.dumps(made)


def in_words(seconds: float) -> str:
    for unit, length in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 2 * 60)):
        if seconds >= length:
            return f"{2 * seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
