"""Through what the host reaches the net: a proxy, a mirror, a CA that nobody else knows."""

from __future__ import annotations

import http.server
import select
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager

import pytest
from conftest import ONE_IS_ENOUGH

pytestmark = ONE_IS_ENOUGH
NO_UPDATES = "have no security updates"


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes on what it is asked for, and notes whom it leads to."""

    def do_CONNECT(self):
        name, _, port = self.path.rpartition(":")
        self.server.led_to.append(name)
        with socket.create_connection((name, int(port)), timeout=30) as far:
            self.send_response(200)
            self.end_headers()
            self.pass_on(far)

    def do_GET(self):
        name, _, path = self.path.removeprefix("http://").partition("/")
        self.server.led_to.append(name)
        host, _, port = name.partition(":")
        with socket.create_connection((host, int(port or 80)), timeout=30) as far:
            far.sendall(f"GET /{path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            self.pass_on(far)

    def pass_on(self, far: socket.socket) -> None:
        both = {self.connection: far, far: self.connection}
        while True:
            for end in select.select(list(both), [], [], 60)[0]:
                if not (data := end.recv(65536)):
                    return
                both[end].sendall(data)

    def log_message(self, *_):
        pass


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        # Else only the end of the connection tells the end of the answer, and a client may take it for a broken one.
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler, context: ssl.SSLContext | None = None):
    with http.server.ThreadingHTTPServer(("", 0), handler) as server:
        server.led_to = []
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def controller(site) -> str:
    """The address under which the host reaches the controller."""
    return site.host.check_output("ip -4 route show default").split()[2]


def test_debian_and_python_packages_use_the_proxy(site, play, controller):
    with serving(Proxy) as proxy:
        address = f"http://{controller}:{proxy.server_port}"
        play("--tags=host", site_proxy=address)
        site.host.check_output("apt-get update")
        by_apt = set(proxy.led_to)
        play("--tags=deploy", site_proxy=address, django_force_release=True)
        by_installer = proxy.led_to
    play("--tags=host")
    archive = site.host.check_output("apt-get indextargets --format '$(REPO_URI)' | head -1").split("/")[2]
    assert archive.partition(":")[0] in {name.partition(":")[0] for name in by_apt}
    assert len(by_installer) > len(by_apt)


def test_unreachable_debian_archive_is_reported(site, run, play):
    sources = "/etc/apt/sources.list.d/debian.sources"
    site.host.check_output(f"cp {sources} /root/; apt-get -qq remove needrestart; rm -rf /var/lib/apt/lists/*")
    dead = "http://127.0.0.1:9/debian"
    done = run("--tags=host", host_apt_mirror=dead, host_apt_security_mirror=dead)
    site.host.check_output(f"cp /root/debian.sources {sources}")
    assert done.returncode != 0
    assert "127.0.0.1:9" in done.stdout
    assert NO_UPDATES not in " ".join(play("--tags=host").split())
    assert site.host.run("which needrestart").rc == 0


def test_sources_without_security_updates_are_reported(site, play):
    sources = "/etc/apt/sources.list.d/debian.sources"
    without = "awk -v RS= -v ORS='\\n\\n' '!/-security/' /root/debian.sources"
    site.host.check_output(f"cp {sources} /root/ && {without} > {sources}")
    try:
        said = play("--tags=host")
    finally:
        site.host.check_output(f"cp /root/debian.sources {sources}")
    assert NO_UPDATES in " ".join(said.split())


def test_private_ca_is_trusted_by_all_programs(site, play, controller, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", "/CN=An office", "-addext", f"subjectAltName=IP:{controller}", "-days", "2"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with serving(Hello, context) as server:
        url = f"https://{controller}:{server.server_port}/"
        assert site.host.run(f"curl --silent --show-error {url}").rc != 0
        assert "changed=0" not in play("--tags=host", host_ca_certificates=[str(certificate)])
        assert "changed=0" in play("--tags=host", host_ca_certificates=[str(certificate)])
        assert site.host.check_output(f"curl --silent --show-error {url}") == "hello"
        # What certbot's Python believes, and what builds are told to.
        ask = f"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())"
        assert site.host.check_output(f'python3 -c "{ask}"') == "hello"
        requests = f"import requests; print(requests.get('{url}').text)"
        assert site.host.run(f'python3 -c "{requests}"').stdout.strip() in ("hello", "")
    # A CA is trusted until somebody removes it.
    site.host.check_output("rm /usr/local/share/ca-certificates/django_vps-*.crt; update-ca-certificates --fresh")
