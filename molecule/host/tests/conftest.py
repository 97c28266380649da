"""The other server, from which this one is looked at, and site.yml as its owner types it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra
from support.container import host_of
from support.play import INVENTORY

PROJECT = Path(__file__).parents[3]
EPHEMERAL = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "."))
KEY = PROJECT / ".cache/ssh/id_ed25519"
#: For what is the same on either Debian.
ONE_IS_ENOUGH = pytest.mark.parametrize(
    "site",
    [path.stem for path in EPHEMERAL.glob("site13*.address")],
    ids=lambda name: name.partition("-")[0],
    indirect=True,
)


def argv(site, user: str, *command: str, **options: str) -> list[str]:
    options = {"ControlPath": "none", "BatchMode": "yes", "ConnectTimeout": "5", **options}
    options |= {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "IdentitiesOnly": "yes"}
    chosen = (f"-o{name}={value}" for name, value in options.items())
    return ["ssh", "-i", str(KEY), *chosen, f"{user}@{site.address}", *command]


def ssh(site, user: str, *command: str, sends: bytes = b"", **options: str) -> subprocess.CompletedProcess:
    # Its input is never the terminal's, which it would leave in a state that Ansible does not take.
    done = subprocess.run(argv(site, user, *command, **options), input=sends, capture_output=True, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="session")
def neighbour(site) -> testinfra.host.Host:
    """A machine in the same network."""
    (other,) = {path.stem for path in EPHEMERAL.glob("site*.address")} - {site.container}
    return host_of(other)


@pytest.fixture(scope="session")
def key() -> str:
    """The public key that opens the servers."""
    return KEY.with_suffix(".pub").read_text().strip()


def site_yml(servers: list[str], *options: str, **variables) -> list[str]:
    """What its owner types to set servers up."""
    return [
        *("ansible-playbook", str(PROJECT / "site.yml"), "-i", str(INVENTORY)),
        *("--limit", ",".join(servers), "--extra-vars", json.dumps(variables), *options),
    ]


def done(argv: list[str]) -> subprocess.CompletedProcess:
    # A connection of the run before may have been cut off by it.
    with tempfile.TemporaryDirectory(prefix="vps-", ignore_cleanup_errors=True) as connections:
        environment = {**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": connections}
        run = subprocess.run(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    print(run.stdout)
    return run


@pytest.fixture(scope="session")
def command(site) -> Callable[..., list[str]]:
    return lambda *options, **variables: site_yml([site.container], *options, **variables)


@pytest.fixture(scope="session")
def run(command) -> Callable[..., subprocess.CompletedProcess]:
    return lambda *options, **variables: done(command(*options, **variables))


@pytest.fixture(scope="session")
def refused_everywhere(sites) -> Callable[..., None]:
    """Run it on all servers at once, and each refuses; why."""

    def refused_everywhere(why: str, *options: str, **variables) -> None:
        lines = done(site_yml([site.container for site in sites], *options, **variables)).stdout.splitlines()
        for site in sites:
            fatal = next((line for line in lines if line.startswith(f"fatal: [{site.container}]")), "")
            assert why in fatal, (site.name, fatal)

    return refused_everywhere


@pytest.fixture(scope="session")
def play(run) -> Callable[..., str]:
    """Run it, and it succeeds; what it said."""

    def play(*options: str, **variables) -> str:
        done = run(*options, **variables)
        assert done.returncode == 0
        return done.stdout

    return play
