"""The hosts of the site by their parts, and what their owner types."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.container import host_of
from support.play import play

PROJECT = Path(__file__).parents[3]
EPHEMERAL = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "."))
RUN = os.environ.get("VPS_RUN", "")
SOURCE = EPHEMERAL / "project"
NAME = "shop.example.test"
ROOTS = EPHEMERAL / "roots.pem"


# As nginx on a web host asks an app host.
IDENTITY = "--cert /etc/ssl/django_vps/host.pem --key /etc/ssl/django_vps/host.key"
PEERS = "--cacert /etc/ssl/django_vps/shop-app.pem"


class Host:
    """One of the hosts."""

    def __init__(self, name: str) -> None:
        self.name, self.container = name, f"{name}-{RUN}"
        self.host = host_of(self.container)
        self.address = (EPHEMERAL / f"{self.container}.address").read_text()

    def run(self, command: str) -> str:
        return self.host.check_output(command)

    @property
    def live(self) -> str:
        return self.run("basename $(readlink /srv/shop/current)")

    def can_connect(self, other: Host, port: int) -> bool:
        return self.host.run(f"timeout 2 bash -c '< /dev/tcp/{other.address}/{port}'").rc == 0

    def ask(self, other: Host, path: str) -> tuple[int, str]:
        """Ask an app host as the web server does; the status and the body."""
        done = self.host.run(
            f"curl -s --max-time 20 {IDENTITY} {PEERS} -w '\n%{{http_code}}'"
            f" --connect-to ::{other.address}:8443 https://shop.django-vps.internal:8443{path}"
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def docker(self, verb: str) -> None:
        subprocess.run(["docker", verb, self.container], check=True, capture_output=True)
        self.host.backend.forget()


def visit(web: Host, path: str, *options: str) -> subprocess.CompletedProcess:
    """A visitor of one of the web hosts."""
    argv = ["curl", "-sS", "--max-time", "20", "--cacert", str(ROOTS), "--noproxy", "*", *options]
    to = ["--connect-to", f"::{web.address}:443", f"https://{NAME}{path}"]
    return subprocess.run([*argv, *to], capture_output=True, text=True, errors="replace", check=False)


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    found = {name: Host(name) for name in ("web1", "web2", "app1", "app2", "db1", "pebble")}
    # The second database is on the second web host.
    return {**found, "db2": found["web2"]}


@pytest.fixture(scope="session")
def run_with_nothing_to_do() -> subprocess.CompletedProcess:
    """site.yml once more, saying all that it can say."""
    done = play("site", "-vvvv", "--diff")
    assert done.returncode == 0, done.stdout[-3000:]
    return done


@pytest.fixture(params=["web1", "web2"])
def web(request, hosts) -> Host:
    return hosts[request.param]


@pytest.fixture(params=["app1", "app2"])
def app(request, hosts) -> Host:
    return hosts[request.param]
