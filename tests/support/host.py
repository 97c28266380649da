"""Run a Debian server in a container, for benchmarks and for tests that break a site."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from .runs import ROOT, Run, sweep

KEY = ROOT / ".cache/ssh/id_ed25519"
#: The test site on Debian 13; on Debian 12 it is site12.
SITE, DOMAIN = "site13", "site13.example.test"
SITES = {"bookworm": "site12", "trixie": "site13"}


class Failed(Exception):
    """An error with a message for the user."""


def set_up(*images: str) -> None:
    """Set up the requirements of every host, and images: `image trixie`, `site trixie`."""
    for step in ("venv", "collections", "key", "engine", *images):
        subprocess.run([ROOT / "tools/setup", *step.split()], check=True)
    sweep()


def run(*argv: str | Path, log: Path | None = None, **options) -> str:
    """Return the output of a command; when it fails, the log has the output too."""
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
    """Return a copy of sample_project in the folder."""
    return shutil.copytree(ROOT / "sample_project", folder, ignore=shutil.ignore_patterns("__pycache__"))


def recap(output: str) -> dict[str, int]:
    """Return how many tasks were ok, changed, failed…"""
    [line] = re.findall(r"^site1[23] +: (ok=.*)$", output, re.MULTILINE)
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}


def timed(what: str, action, *arguments, **options):
    """Print and return the seconds of a call, and return its result."""
    load = os.getloadavg()[0]
    began = time.monotonic()
    result = action(*arguments, **options)
    seconds = time.monotonic() - began
    print(f"  {what:<10} {seconds:6.1f} s   load {load:.1f} → {os.getloadavg()[0]:.1f}", flush=True)
    return seconds, result


#: Variables for the environment of ansible-playbook.
PROFILE = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all"}


def seconds_of_tasks(output: str) -> str:
    """Return the lines that PROFILE adds to the output, indented."""
    return "\n".join(re.findall(r"^.+ -{3,} +\d+\.\d+s$", output, re.MULTILINE)).replace("\n", "\n    ")


class Host:
    """A new container, which is removed when the block ends, also by an exception.

    Its image is a bare server, with empty package lists and caches, or one that has the test site (tools/vps).
    """

    port = 22

    def __init__(self, name: str, logs: Path, image: str = "trixie") -> None:
        self.name, self.logs, self.image = name, logs, image
        self.site = SITES[image.removeprefix("site-")]
        self.run = Run()

    @property
    def container(self) -> str:
        return f"{self.name}-{self.run.id}"

    @property
    def connections(self) -> Path:
        """Return the folder of Ansible's connections, one for each host because Docker reuses addresses."""
        return self.run.folder

    def __enter__(self) -> Host:
        self.run.__enter__()
        try:
            self.up()
            if not self.image.startswith("site-"):
                self.ssh("sudo sh -c 'apt-get clean && rm -rf /var/lib/apt/lists/*'")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        try:
            self.disconnect()
        finally:
            self.run.__exit__()

    def up(self) -> None:
        argv = [ROOT / "tools/vps", "up", self.name, self.image]
        up = subprocess.run(argv, env=self.run.environment, stdout=subprocess.PIPE, text=True, check=False)
        if up.returncode:
            raise Failed("the container does not start; the message is above")
        self.address = up.stdout.strip()

    def disconnect(self) -> None:
        """Close the persistent connections of Ansible."""
        for socket in self.connections.iterdir():
            if socket.is_socket():
                argv = ["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "-"]
                subprocess.run(argv, capture_output=True, check=False)

    def ssh(self, command: str, **options) -> str:
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        wishes = [word for wish in quiet for word in ("-o", wish)]
        where = ("-p", str(self.port), f"debian@{self.address}")
        return run("ssh", "-i", KEY, *wishes, *where, command, **options)

    @property
    def inventory(self) -> Path:
        """Write the inventory with the present address, as JSON, which is YAML, and return its path."""
        host = {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": "debian",
            "ansible_ssh_private_key_file": str(KEY),
            "ansible_ssh_extra_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        }
        groups = {group: {"hosts": {self.site: {}}} for group in ("web", "app", "database")}
        path = self.run.folder / "hosts.yml"
        path.write_text(json.dumps({"all": {"hosts": {self.site: host}, "children": groups}}))
        return path

    def command(self, *argv: str) -> list[str | Path]:
        """Return the command that runs a playbook on the host, by default site.yml."""
        argv = argv if argv and argv[0].endswith(".yml") else ("site.yml", *argv)
        inventories = ("-i", ROOT / "tests/support/inventory.yml", "-i", self.inventory)
        return [ROOT / ".venv/bin/ansible-playbook", *inventories, *argv]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of that command."""
        return {
            **self.run.environment,
            "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.connections),
            "ANSIBLE_NOCOLOR": "1",
            **more,
        }

    def playbook(self, log: str, *argv: str, **more: str) -> str:
        """Run a playbook on the host, by default site.yml."""
        return run(*self.command(*argv), env=self.environment(**more), log=self.logs / f"{log}.log")

    def state(self) -> list[str]:
        with (ROOT / "tests/support/state.py").open() as program:
            return self.ssh(f"sudo python3 - {self.site}", stdin=program).splitlines()
