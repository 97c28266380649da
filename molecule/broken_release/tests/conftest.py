"""A deploy as a user types it, over a site that is being visited, and what has to be as it was when it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.load import Load

ROOT = Path(__file__).parents[3]
EPHEMERAL = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "."))

# As in .config/molecule/config.yml: connections do not outlive the containers for long.
SSH = "-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"

# All that a deploy may change: what serves, what runs, what lies there, what the database is like.
LOOK = r"""
cd /srv/site13
echo "live: $(readlink current)"
echo "journal: $(wc -l < journal)"
systemctl list-units --all --plain --no-legend --type=service,socket,timer 'site13*' |
  awk '$3 != "inactive" { print "unit:", $1, $3, $4 }'
ps -u site13 -o cgroup= | sort -u | sed 's/^/process: /'
find . -maxdepth 1 | sort | sed 's/^/file: /'
for release in releases/*; do
  # The packages of a failed build, for the next one.
  if [ "$(echo $(ls $release))" = 'packages venv' ]; then continue; fi
  if [ ! -e $release/release.json ]; then state=half
  elif grep -q "\"to\": \"${release##*/}\"" journal; then state=lived
  elif grep -q '"bad": ".' $release/release.json; then state=bad
  else state=unused
  fi
  echo "release: ${release##*/} $state"
done
find /home/debian/.ansible/tmp /usr/local/lib/django_vps -mindepth 1 | sed 's/^/left: /'
cd /
runuser -u postgres -- pg_dump --schema-only site13 | sed '/^--/d; /^\\/d; /^$/d; s/^/schema: /'
runuser -u postgres -- psql -XAtqd site13 -c "SELECT 'migrated: ' || app || '.' || name FROM django_migrations"
"""


@dataclass
class Run:
    """An ansible-playbook that has been started, with all it has printed by now."""

    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0

    def reads(self, words: str) -> None:
        """Wait until it has printed these words."""
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return
        pytest.fail(f"it ended before it said {words!r}:\n{self.output}")

    def end(self) -> Run:
        self.lines += self.process.stdout
        self.process.wait()
        self.seconds = time.monotonic() - self.began
        return self

    def kill(self) -> None:
        """As when the controller loses its power: all of it is gone at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def rc(self) -> int:
        return self.process.returncode

    @property
    def output(self) -> str:
        return "".join(self.lines)


class Project:
    """A copy of the sample project, to be broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "sample_project", folder, ignore=shutil.ignore_patterns("__pycache__"))
        # No two are the same: what has been built already is not built again.
        self.append("notes/models.py", f"# {uuid.uuid4().hex}")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def append(self, name: str, text: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(f"\n{text}\n")

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def migration(self, *operations: str, atomic: bool = True) -> None:
        self.write(
            "notes/migrations/0002_change.py",
            "from django.db import migrations, models\n\n\n"
            "def fail(apps, schema_editor):\n    raise ValueError('a notice without an author')\n\n\n"
            f"class Migration(migrations.Migration):\n    atomic = {atomic}\n"
            f"    dependencies = [('notes', '0001_initial')]\n    operations = [{', '.join(operations)}]\n",
        )


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def start(tmp_path):
    """Start a deploy of a folder or of an address."""
    runs = []

    def start(source: object, **variables: object) -> Run:
        environment = {
            **os.environ,
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(EPHEMERAL / "ssh"),
            "ANSIBLE_SSH_ARGS": SSH,
            # Copies of repositories are kept here and not among the user's.
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "NO_COLOR": "1",
        }
        # The configuration of the checkout is the user's; molecule has one of its own.
        environment.pop("ANSIBLE_CONFIG", None)
        process = subprocess.Popen(
            [
                *("ansible-playbook", "playbooks/deploy.yml", "--inventory", str(EPHEMERAL / "inventory")),
                *("--extra-vars", json.dumps({"django_source": str(source), **variables})),
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        runs.append(Run(process))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.kill()
        # Shown when the test fails.
        print(f"--- rc {run.rc} after {run.seconds:.1f} s\n{run.output}")


@pytest.fixture
def visited(site):
    """Visitors all the while, none of whom may notice anything; with `patience`, nobody waits longer than that."""

    @contextmanager
    def visited(patience: float = 5):
        paths = ["/health/", "/", "/static/notes/site.css"]
        began = time.monotonic()
        with Load(site.address, site.canonical, path=paths, rate=10) as load:
            yield load
            # What is refused at once is over before they have come to every page.
            time.sleep(max(0, began + 3 - time.monotonic()))
        result = load.result()
        assert result["failures"] == []
        assert result["requests"] > 20
        assert result["slowest"] < patience

    return visited


@pytest.fixture
def look(site):
    """The state of the site, a line for each thing."""
    return lambda: site.host.check_output(LOOK).splitlines()


@pytest.fixture
def lock_is_free(site):
    """A run that has ended holds the lock no more."""

    def free() -> bool:
        return site.host.run("flock --nonblock /run/site13-deploy.lock true").rc == 0

    return free


@pytest.fixture
def refused(start, visited, look, lock_is_free):
    """Deploy and expect that it fails, says all this, and that the site is as it was.

    What is left of the release is told: nothing, one that is marked as bad, or one that was never live.
    """

    def refused(
        source: object, *said: str, leaves: str = "", within: float = 120, patience: float = 5, **variables: object
    ) -> Run:
        before = look()
        with visited(patience):
            run = start(source, **variables).end()
        after = look()
        assert run.rc != 0
        # The screen shows the message in lines, and again as JSON.
        output = run.output.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
        assert [words for words in said if words not in output] == []
        assert steady(after) == steady(before)
        assert [new.split()[-1] for new in after if new not in before and new.startswith("release: ")] == leaves.split()
        assert lock_is_free()
        assert run.seconds < within
        return run

    return refused


def steady(lines: list[str]) -> list[str]:
    """Without the releases that never were live: the next run may clear them away."""
    return [line for line in lines if not re.fullmatch(r"release: \S+ (bad|unused)", line)]


@pytest.fixture
def goes_live(site, start, visited):
    """Deploy and expect that it works."""

    def goes_live(source: object, **variables: object) -> Run:
        before = site.release
        with visited() as load:
            run = start(source, **variables).end()
        assert run.rc == 0
        assert list(load.result()["releases"]) == [before, site.release]
        return run

    return goes_live
