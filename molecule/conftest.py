"""What the tests of all scenarios share: the host, the site as a visitor reaches it, its database."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import testinfra
from support import network
from support.container import host_of
from support.durations import pytest_runtest_protocol  # noqa: F401

PROJECT = Path(__file__).parent.parent
EPHEMERAL = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "."))

# Asks every port for a connection. One that is dropped gives no answer, so many are asked at once.
SCAN = """
import errno, json, select, socket, sys

address = sys.argv[1]
family = socket.AF_INET6 if ":" in address else socket.AF_INET

def answering(ports):
    found = []
    for first in range(0, len(ports), 13107):
        poll, asked = select.poll(), {}
        for port in ports[first:first + 13107]:
            one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if one.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                asked[one.fileno()] = port, one
                poll.register(one, select.POLLOUT)
        while ready := poll.poll(1500):
            for number, _ in ready:
                port, one = asked[number]
                poll.unregister(one)
                found.append(port)
        for _, one in asked.values():
            one.close()
    return sorted(found)

# Twice: after a scan in the other direction the firewall can take a pair of ports for a connection of its own.
print(json.dumps(answering(answering(range(1, 65536)))))
"""


def pytest_configure(config):
    config.pluginmanager.register(network)


@dataclass
class Answer:
    """What came back: the status is 0 when nothing did."""

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: str = ""
    error: str = ""
    protocol: str = ""

    def header(self, name: str) -> str | None:
        values = self.headers.get(name.lower(), [])
        assert len(values) < 2, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None


@dataclass
class Site:
    """One host and the names that its site has."""

    host: testinfra.host.Host
    container: str
    name: str
    domains: list[str]
    roots: Path

    @property
    def canonical(self) -> str:
        return self.domains[0]

    @property
    def address(self) -> str:
        return (EPHEMERAL / f"{self.container}.address").read_text().strip()

    def note_address(self) -> None:
        """For those who ask later: after a restart it may be another one."""
        shown = subprocess.run(
            ["docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", self.container],
            capture_output=True,
            text=True,
            check=True,
        )
        [address] = (network["IPAddress"] for network in json.loads(shown.stdout).values())
        (EPHEMERAL / f"{self.container}.address").write_text(address)

    @property
    def release(self) -> str:
        return self.host.check_output(f"basename $(readlink /srv/{self.name}/current)")

    def get(self, url: str, *options: str) -> Answer:
        """Fetch a URL from outside, as a visitor does; a path means the canonical name over https."""
        if url.startswith("/"):
            url = f"https://{self.canonical}{url}"
        port = 443 if url.startswith("https") else 80
        done = subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--max-time", "20", "--include", "--path-as-is", "--http2"),
                *("--cacert", str(self.roots), "--noproxy", "*"),
                *("--connect-to", f"::{self.address}:{port}", *options),
                *("--write-out", "\n%{http_code} %{http_version}", url),
            ],
            capture_output=True,
            check=False,
        )
        return parse(done.stdout.decode(errors="replace"), done.stderr.decode())

    @property
    def certificate(self) -> str:
        """The serial number of the one in force."""
        return self.host.check_output(f"openssl x509 -noout -serial -in /etc/{self.name}/tls/fullchain.pem")

    @property
    def served_certificate(self) -> str:
        """The serial number of the one that visitors get."""
        asked = f"openssl s_client -connect 127.0.0.1:443 -servername {self.canonical}"
        return self.host.check_output(f"echo | {asked} 2>/dev/null | openssl x509 -noout -serial")

    def certbot(self, *options: str, days: float = 0) -> bool:
        """Let certbot renew what is due, as its timer does; some days from now it wants the fixture `faketime`."""
        later = f"faketime -f +{days}d" if days else ""
        renew = f"certbot -q renew --no-random-sleep-on-renew {' '.join(options)}"
        done = self.host.run(f"REQUESTS_CA_BUNDLE=/etc/ssl/pebble.pem {later} {renew}")
        print(done.stderr)
        return done.rc == 0

    def manage(self, *argv: str) -> str:
        return self.host.check_output(shlex.join([f"{self.name}-manage", *argv]))


def parse(text: str, error: str) -> Answer:
    text, _, trailer = text.rpartition("\n")
    status, protocol = trailer.split()
    head, _, body = text.partition("\r\n\r\n")
    while re.match(r"HTTP/[\d.]+ 1\d\d", head):
        head, _, body = body.partition("\r\n\r\n")
    headers: dict[str, list[str]] = {}
    for line in head.splitlines()[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    return Answer(int(status), headers, body, error.strip(), protocol)


def servers() -> list[str]:
    return sorted(path.stem for path in EPHEMERAL.glob("site*.address"))


@pytest.fixture(scope="session")
def sites() -> list[Site]:
    """All of the scenario's servers."""
    return [site_of(container) for container in servers()]


@pytest.fixture(scope="session", params=servers(), ids=lambda name: name.split("-")[0])
def site(request) -> Site:
    """The site on each of the scenario's servers."""
    return site_of(request.param)


def site_of(container: str) -> Site:
    short = container.split("-")[0]
    host = host_of(container)
    domains = [f"{short}.example.test", f"www.{short}.example.test"]
    roots = EPHEMERAL / "roots.pem"
    if not roots.exists():
        # Where there is no CA the certificate answers for itself.
        roots = EPHEMERAL / f"{short}.pem"
        roots.write_text(host.check_output(f"cat /etc/{short}/tls/fullchain.pem"))
    return Site(host, container, short, domains, roots)


@pytest.fixture(scope="module")
def faketime(sites):
    """A program on the servers that lets another one believe in another time."""
    for site in sites:
        site.host.check_output("apt-get install -qq --yes --no-install-recommends faketime")
    yield
    for site in sites:
        site.host.check_output("apt-get purge -qq --yes faketime")


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Wait for what comes true within some seconds."""

    def wait(what: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"not within {seconds} s"
            time.sleep(0.25)

    return wait


@pytest.fixture(scope="session")
def host(site):
    return site.host


@pytest.fixture
def psql(site):
    """Run SQL as a system user, over the socket."""

    def run(query: str, user: str = site.name, database: str = site.name):
        return site.host.run(f'runuser -u {user} -- psql -XAtq -v ON_ERROR_STOP=1 -d {database} -c "{query}"')

    return run


@pytest.fixture
def unit(site):
    """A unit of systemd; its last words are shown when a test fails."""
    names = []

    def get(name: str):
        names.append(name)
        return site.host.service(name)

    yield get
    for name in names:
        print(site.host.run(f"journalctl --no-pager -n 30 -u {name}").stdout)


@pytest.fixture(scope="session")
def open_ports() -> Callable[..., list[int]]:
    """The TCP ports of an address that answer a host, be it that they refuse: the firewall lets that pass."""

    def scan(from_host: testinfra.host.Host, address: str) -> list[int]:
        return json.loads(from_host.check_output(f"ulimit -n 20000; python3 -c '{SCAN}' {address}"))

    return scan
