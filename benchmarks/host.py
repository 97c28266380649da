"""A Debian server in a container with the demo's site on it, for what measures it and for what breaks it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEY = ROOT / ".cache/ssh/id_ed25519"
SITE, DOMAIN, PORT = "demo", "demo.localhost", "443"


class Failed(Exception):
    """What went wrong, for the user."""


def set_up() -> None:
    """Bring what every host stands on."""
    for step in (["venv"], ["collections"], ["key"], ["engine"], ["image", "trixie"]):
        subprocess.run([ROOT / "tools/setup", *step], check=True)


def run(*argv: str | Path, log: Path | None = None, **options) -> str:
    """The output of a command, which is in the log too when it fails."""
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if log:
        log.write_text(done.stdout)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-20:])
        where = f"\nall of it: {log}" if log else ""
        raise Failed(f"{Path(argv[0]).name} {argv[1] if argv[1:] else ''} ended with {done.returncode}:\n{last}{where}")
    return done.stdout


def copy_project(folder: Path) -> Path:
    """A sample_project of one's own."""
    return shutil.copytree(ROOT / "sample_project", folder, ignore=shutil.ignore_patterns("__pycache__"))


def recap(output: str) -> dict[str, int]:
    """How many tasks were ok, changed, failed…"""
    [line] = re.findall(rf"^{SITE} +: (ok=.*)$", output, re.MULTILINE)
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}


def timed(what: str, action, *arguments, **options):
    """The seconds of a call, which are printed too, and its result."""
    load = os.getloadavg()[0]
    began = time.monotonic()
    result = action(*arguments, **options)
    seconds = time.monotonic() - began
    print(f"  {what:<10} {seconds:6.1f} s   load {load:.1f} → {os.getloadavg()[0]:.1f}", flush=True)
    return seconds, result


#: In the environment of ansible-playbook.
PROFILE = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all"}


def seconds_of_tasks(output: str) -> str:
    """What PROFILE adds to the output, indented."""
    return "\n".join(re.findall(r"^.+ -{3,} +\d+\.\d+s$", output, re.MULTILINE)).replace("\n", "\n    ")


class Host:
    """A fresh container, with empty package lists and caches; it goes when the block ends, however that is."""

    def __init__(self, name: str, logs: Path) -> None:
        # tools/vps adds what tells this checkout from others.
        self.name = f"{name}-{os.getpid()}"
        self.logs = logs
        # A socket's path has to be short; addresses come back, connections must not.
        self.connections = tempfile.TemporaryDirectory(prefix="dvs")

    def __enter__(self) -> Host:
        try:
            self.up()
            self.ssh("sudo sh -c 'apt-get clean && rm -rf /var/lib/apt/lists/*'")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.disconnect()
        self.connections.cleanup()
        subprocess.run([ROOT / "tools/vps", "down", self.name], capture_output=True, check=False)

    def up(self) -> None:
        up = subprocess.run(
            [ROOT / "tools/vps", "up", self.name, "trixie"], stdout=subprocess.PIPE, text=True, check=False
        )
        if up.returncode:
            raise Failed("the container does not start; the message is above")
        self.address = up.stdout.strip()

    def disconnect(self) -> None:
        """End the connections that Ansible keeps."""
        for socket in Path(self.connections.name).iterdir():
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "-"], capture_output=True, check=False)

    def ssh(self, command: str, **options) -> str:
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        wishes = [word for wish in quiet for word in ("-o", wish)]
        return run("ssh", "-i", KEY, *wishes, f"debian@{self.address}", command, **options)

    def environment(self, **more: str) -> dict[str, str]:
        """In which ansible-playbook finds this host by inventories/demo."""
        return {
            **os.environ,
            "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
            "DEMO_ADDRESS": self.address,
            "DEMO_PORT": PORT,
            "DEMO_KEY": str(KEY),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": self.connections.name,
            "ANSIBLE_NOCOLOR": "1",
            **more,
        }

    def playbook(self, log: str, *argv: str, **more: str) -> str:
        """Run a playbook on the host, by default site.yml."""
        argv = argv if argv and argv[0].endswith(".yml") else ("site.yml", *argv)
        command = (ROOT / ".venv/bin/ansible-playbook", "-i", "inventories/demo", *argv)
        return run(*command, env=self.environment(**more), log=self.logs / f"{log}.log")

    def state(self) -> list[str]:
        with (ROOT / "benchmarks/state.py").open() as program:
            return self.ssh(f"sudo python3 - {SITE}", stdin=program).splitlines()
