# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the release and switch modules share: steps that can fail, files on disk, one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.locks import private_file

#: Names of what makes up a release; roles and templates use the same words.
MARKER = "release.json"
#: What a line begins with that the project prints for us.
ANSWER = "DJANGO_VPS"
#: What to do about a file that cannot be written.
WRITES = (
    "The site writes its uploads and nothing else: let it log to the console, or name the folder in"
    " django_shared_paths."
)
#: Lines of a command's output that an error message repeats.
TAIL = 25
#: How a traceback begins, and the frames in it that are of Python, of Django and of the web server.
TRACEBACK = "Traceback (most recent call last)"
FOREIGN = re.compile(
    r'  File "(<frozen |.*/site-packages/(django|gunicorn)/|.*/lib/python3[.\d]*/(?!(site|dist)-packages/))'
)
#: What a terminal acts upon instead of showing it: escape sequences as a whole, other control characters, and those
#: that turn the direction of writing.
CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


class StepError(Exception):
    """A step of a deploy failed: what was tried, what came of it, what to do, and what leads to it in the code."""

    def __init__(self, step: str, cause: str, advice: str = "", said: str = "", details: str = "") -> None:
        cause, advice, details = printable([cause.strip(), advice, details])
        self.step, self.cause, self.advice, self.said, self.details = step, cause, advice, said, details
        super().__init__("\n".join(part for part in (f"{step}: {self.cause}", advice, details) if part))


def printable(value):
    """A text, or all texts of a list or a dictionary, without what a terminal acts upon."""
    if isinstance(value, str):
        return CONTROLS.sub("", value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): printable(item) for name, item in value.items()}
    return value


def tail(text: str, lines: int = TAIL) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def without_foreign_frames(lines: list[str]) -> list[str]:
    """Tracebacks as far as they are of the project: how Python and Django come to it says nothing."""
    kept, foreign = [], False
    for line in lines:
        if line.startswith('  File "'):
            foreign = bool(FOREIGN.match(line))
        elif not line.startswith("    ") and not line.startswith("  [Previous line repeated"):
            foreign = False
        if not foreign:
            kept.append(line)
    return kept


def explained(text: str) -> tuple[str, str]:
    """What an output is about, and what led to it: of a traceback its last lines come first."""
    lines = without_foreign_frames(text.strip().splitlines())
    begins = [number for number, line in enumerate(lines) if line.startswith(TRACEBACK)]
    ends = (
        number for number in range(begins[-1] + 1 if begins else 0, len(lines)) if not lines[number].startswith(" ")
    )
    end = next(ends, None) if begins else None
    if end is None:
        return tail(text), ""
    return "\n".join(lines[end : end + TAIL]), tail("\n".join(lines[:end]))


def run(
    step: str,
    argv: list[str],
    *,
    advice: str = "",
    timeout: float | None = None,
    watch: Callable[[str], None] | None = None,
    **options,
) -> str:
    """Run a command and return all it printed, as a terminal may show it; a failure is a StepError that names the step.

    `watch` is called with all of the output so far whenever there is more. Then there is no `timeout`.
    """
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    try:
        if watch:
            done = run_watched(argv, watch, **options)
        else:
            done = subprocess.run(argv, text=True, errors="replace", timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise StepError(step, f"no end after {error.timeout:.0f} s: {' '.join(argv)}", advice) from error
    except OSError as error:
        raise StepError(step, f"{argv[0]}: {error.strerror}", advice) from error
    said = printable(done.stdout)
    if done.returncode:
        cause, details = explained(said)
        raise StepError(step, cause or f"exit status {done.returncode}", advice, said, details)
    return said


def run_watched(argv: list[str], watch: Callable[[str], None], **options) -> subprocess.CompletedProcess:
    output = b""
    with subprocess.Popen(argv, **options) as process:
        while chunk := process.stdout.read1():
            output += chunk
            watch(output.decode(errors="replace"))
    return subprocess.CompletedProcess(argv, process.returncode, output.decode(errors="replace"))


def write_file(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_directory(path.parent)


def point(link: Path, target: str) -> None:
    """Let a symbolic link name another target by one atomic rename."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)
    sync_directory(link.parent)


def remove(path: Path) -> None:
    """Remove a folder and all that is in it, however deep: what a project's code nests is no limit for rm."""
    run("disk", ["rm", "-rf", "--", str(path)], advice=f"Remove {path} by hand.")


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_one(home: Path, patience: float = 300):
    """Wait until a step that outlived its run has ended, and keep others waiting meanwhile."""
    with os.fdopen(private_file(home / ".lock"), "a") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StepError(
                        "lock",
                        f"a step of an earlier run still works on {home}",
                        f"See who holds {home}/.lock: fuser -v",
                    ) from None
            time.sleep(0.1)
        yield


def hashed_assets(static: Path) -> list[str]:
    """Names of the assets that bear a hash, as Django's manifest storage lists them; of plain files only.

    Those that were compressed are among them.
    """
    try:
        named = json.loads((static / "staticfiles.json").read_text())["paths"].values()
    except (OSError, ValueError, KeyError, AttributeError):
        return []
    names = [name for name in named if isinstance(name, str) and not name.startswith("/")]
    names = [f"{name}{kind}" for name in names if ".." not in Path(name).parts for kind in ("", ".gz", ".br")]
    return [name for name in names if (static / name).is_file()]


def ask_project(step: str, argv: list[str], script: Callable, arguments: dict, **options) -> tuple[dict, str]:
    """Run one of the project_scripts under manage.py: what it answered, and all that was printed.

    `argv` is how to call manage.py.
    """
    call = (
        f"import json\n{script.__name__}(json.loads({json.dumps(arguments)!r}),"
        f' lambda facts: print("\\n{ANSWER} " + json.dumps(facts), flush=True))\n'
    )
    said = run(step, [*argv, "shell", "-v", "0", "-c", program(script, call)], **options)
    return answers(said), said


def program(script: Callable, call: str) -> str:
    """The file that a script is in, as a program that ends with a call of it."""
    return f"{inspect.getsource(inspect.getmodule(script))}\n\n{call}"


def answers(said: str) -> dict:
    """The facts among what a program printed; of a fact told twice the last."""
    lines = [line.removeprefix(ANSWER) for line in said.splitlines() if line.startswith(f"{ANSWER} ")]
    return printable({name: value for line in lines for name, value in json.loads(line).items()})


class Site:
    """The folder of a site as the modules see it: releases, and the one that is live."""

    def __init__(self, home: str) -> None:
        self.home = Path(home)
        self.releases = self.home / "releases"
        self.current = self.home / "current"
        self.journal = self.home / "journal"
        #: Releases on their way out; a run that dies leaves what the next one goes on to remove.
        self.removed = self.home / ".removed"

    def discard(self, release: str) -> str:
        """Remove what a build has left; where that cannot be done, lay it aside and say so."""
        path = self.releases / release
        try:
            remove(path)
        except StepError as error:
            self.removed.mkdir(mode=0o700, exist_ok=True)
            aside = self.removed / f"{release}.{time.time_ns()}"
            os.rename(path, aside)
            return f"{path} cannot be removed, and is {aside} now: {error.cause}"
        return ""

    @property
    def live(self) -> str | None:
        """Id of the release that `current` names."""
        try:
            return Path(os.readlink(self.current)).name
        except OSError:
            return None

    @property
    def serving(self) -> str:
        """What a step that failed leaves to visitors."""
        return f"{self.live} goes on serving." if self.live else "No release is live yet."

    def facts(self, release: str) -> dict | None:
        """The marker of a release; None when the release is not whole."""
        try:
            return json.loads((self.releases / release / MARKER).read_text())
        except (OSError, ValueError):
            return None

    def whole(self) -> list[str]:
        """Ids of the whole releases, oldest first."""
        if not self.releases.is_dir():
            return []
        return sorted(entry.name for entry in self.releases.iterdir() if self.facts(entry.name) is not None)

    def note(self, release: str, **facts) -> None:
        """Add to what the marker of a release says."""
        known = {**(self.facts(release) or {}), **facts}
        write_file(self.releases / release / MARKER, json.dumps(known, indent=2) + "\n")

    def previous(self, release: str) -> str | None:
        """The good release that was live before this one; those that were gone back from do not count."""
        switches, name = self.switches(), release
        while name:
            before = [entry["from"] for entry in switches if entry["to"] == name and entry["from"] < name]
            name = before[-1] if before else ""
            facts = self.facts(name) if name else None
            if facts is not None and not facts.get("bad"):
                return name
        return None

    @property
    def left(self) -> str:
        """The release that was switched away from last; its run may have died before it wrote so into the journal."""
        last = (self.switches() or [{"from": "", "to": ""}])[-1]
        return last["from"] if last["to"] == self.live else last["to"]

    def switches(self) -> list[dict]:
        """The journal: one entry for each switch, oldest first. A line that a crash cut short is no entry."""
        entries = []
        with contextlib.suppress(OSError):
            for line in self.journal.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    entries.append(json.loads(line))
        return entries

    @property
    def noted(self) -> str:
        """Id of the release that went live last, as the journal knows it."""
        return next((entry["to"] for entry in reversed(self.switches())), "")
