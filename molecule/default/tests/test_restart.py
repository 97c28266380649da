"""The server after its provider has rebooted it, and after somebody has pulled the plug."""

import json
import re
import socket
import ssl
import subprocess
import time
import urllib.request
import uuid

import pytest
from conftest import EPHEMERAL

PATIENCE = 60

# Comes and goes with logins and on demand.
PASSING = re.compile(r"user@|getty@|systemd-(hostnamed|localed|timedated)\.service")


def docker(*argv: str) -> str:
    return subprocess.run(["docker", *argv], capture_output=True, text=True, check=True).stdout.strip()


def reboot(site) -> None:
    docker("restart", site.container)
    site.note_address()


def power_cut(site) -> None:
    docker("kill", "--signal", "KILL", site.container)
    docker("wait", site.container)
    docker("start", site.container)
    site.note_address()


def certificate(site) -> dict:
    """The certificate that is served, once it has proved to be the CA's."""
    context = ssl.create_default_context(cafile=str(site.roots))
    with (
        socket.create_connection((site.address, 443), timeout=15) as plain,
        context.wrap_socket(plain, server_hostname=site.canonical) as connection,
    ):
        return connection.getpeercert()


def units(site) -> set[str]:
    """What runs, and what listens or waits to run."""
    listed = site.host.check_output(
        "systemctl list-units --type=service,socket,timer --state=running,listening,waiting --plain --no-legend"
    )
    names = {line.split()[0] for line in listed.splitlines()}
    return {name for name in names if not PASSING.search(name)}


def instances(site) -> list[str]:
    """The releases of which anything runs, or is about to."""
    listed = site.host.check_output(f"systemctl list-units --type=service --plain --no-legend '{site.name}-gunicorn@*'")
    return [line.split()[0] for line in listed.splitlines() if line.split()[2] != "inactive"]


@pytest.fixture
def notice(site, tmp_path):
    """A notice with an attachment, posted through the form: its title, and where the attachment is."""
    title, jar = f"Kept {uuid.uuid4().hex}", str(tmp_path / "jar")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', site.get("/", "-c", jar).body).group(1)
    (tmp_path / "kept.txt").write_text(title)
    posted = site.get(
        "/",
        *("-b", jar, "--referer", f"https://{site.canonical}/", "-F", f"csrfmiddlewaretoken={token}"),
        *("-F", f"title={title}", "-F", "text=It stays.", "-F", f"attachment=@{tmp_path}/kept.txt"),
    )
    assert (posted.status, posted.header("location")) == (302, "/")
    article = site.get("/").body.partition(title)[2].partition("</article>")[0]
    yield title, re.search(r'href="(/media/attachments/\w+\.txt)"', article).group(1)
    site.manage(
        "shell", "-v", "0", "-c", f'from notes.models import Notice; Notice.objects.filter(title="{title}").delete()'
    )


@pytest.fixture
def known_address(site):
    """If the server has another address afterwards, those learn it who have noted the old one."""
    before = site.address
    yield
    if site.address != before:
        for domain in site.domains:
            tell_ca(site, "clear-a", {"host": f"{domain}."})
            tell_ca(site, "add-a", {"host": f"{domain}.", "addresses": [site.address]})


def tell_ca(site, what: str, body: dict) -> None:
    (ca,) = EPHEMERAL.glob("pebble-*.address")
    url = f"http://{ca.read_text().strip()}:8055/{what}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url, json.dumps(body).encode()), timeout=10).close()


@pytest.mark.parametrize("event", [reboot, power_cut], ids=lambda event: event.__name__)
def test_site_recovers_from_reboot_and_power_cut_in_a_minute(site, known_address, notice, event):
    title, attachment = notice
    release, served, active = site.release, certificate(site), units(site)

    event(site)
    end = time.monotonic() + PATIENCE
    while (answer := site.get("/health/", "--max-time", "5")).status != 200:
        assert answer.status < 500, answer
        assert time.monotonic() < end, f"not within {PATIENCE} s: {answer}"
        time.sleep(0.3)
    assert json.loads(answer.body) == {"status": "ok", "database": "ok", "release": release}
    assert certificate(site) == served

    assert title in site.get("/").body
    assert site.get(attachment).body == title

    assert site.host.check_output("systemctl is-system-running --wait") == "running"
    assert site.host.check_output("systemctl list-units --failed --plain --no-legend") == ""
    assert site.release == release
    assert instances(site) == [f"{site.name}-gunicorn@{release}.service"]
    # Whatever ran before runs again: the timers too, which nobody would miss for weeks.
    assert active - units(site) == set()
