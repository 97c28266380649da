"""Whether a CA would find this host: what is asked, what is believed, and what is said."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading

import pytest
from ansible_collections.django_vps.stack.plugins.modules import leads_here as module

TOKEN = "django_vps-0123"
ADDRESSES_OF = module.addresses_of
PUBLIC_CA = "https://ca.example/directory"


class Web(http.server.BaseHTTPRequestHandler):
    """A web server that answers as the name tells it to."""

    def do_GET(self):
        name = self.headers["Host"].partition(":")[0]
        here, where = {
            "shop.test": (200, None),
            "two.test": (200, None),
            "parked.test": (200, None),
            "gone.test": (404, None),
            "moved.test": (301, f"http://shop.test{self.path}"),
            "round.test": (302, self.path),
            "odd.test": (301, "gopher://shop.test/"),
        }[name]
        self.send_response(here)
        if where:
            self.send_header("Location", where)
        self.end_headers()
        asked = self.path.removeprefix("/.well-known/acme-challenge/")
        self.wfile.write(f"{'buy this domain' if name == 'parked.test' else asked}\n".encode())

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def net(monkeypatch):
    """Every name of .test leads to the web server, but nobody.test to where none is, and none.test nowhere."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = {
        "nobody.test": ["127.0.0.2"],
        "none.test": [],
        "own.test": None,
        "two.test": ["127.0.0.1", "2600::1"],
        "ca.example": ["8.8.8.8"],
        "ca.internal": ["10.0.0.9"],
        "ca.unknown": [],
    }
    monkeypatch.setattr(module, "addresses_of", lambda name: known.get(name, ["127.0.0.1"]))
    monkeypatch.setitem(module.PORTS, "http", server.server_port)
    monkeypatch.setattr(module, "READY", 0)
    real = socket.create_connection
    local = {"shop.test": "127.0.0.1"}
    monkeypatch.setattr(socket, "create_connection", lambda to, *rest: real((local.get(to[0], to[0]), to[1]), *rest))
    yield
    server.shutdown()
    server.server_close()


def look(name: str, server: str = PUBLIC_CA) -> list[str]:
    return module.look([name], TOKEN, server)[1]


@pytest.mark.parametrize("name", ["shop.test", "moved.test"])
def test_name_of_this_host_passes_even_after_a_redirect(name):
    assert module.look([name], TOKEN, PUBLIC_CA) == ({name: ["127.0.0.1"]}, [])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gone.test", "gone.test leads to 127.0.0.1, which answers 404"),
        ("parked.test", "parked.test leads to 127.0.0.1, which answers with another site"),
        ("round.test", "round.test leads to 127.0.0.1, which answers 302"),
        ("odd.test", "odd.test leads to 127.0.0.1, which leads on to gopher://shop.test/"),
        ("nobody.test", "nobody.test leads to 127.0.0.2, which gives no answer ([Errno 111] Connection refused)"),
        ("none.test", "none.test has no address"),
    ],
)
def test_name_of_another_host_is_named_with_its_address(name, what):
    assert look(name) == [what]


@pytest.mark.parametrize("server", ["https://ca.internal/dir", "https://ca.unknown/dir"])
def test_private_ca_can_know_names_that_the_host_does_not(server):
    assert look("none.test", server) == []


def test_a_name_that_the_host_calls_its_own_is_left_to_the_ca():
    assert look("own.test") == []


@pytest.mark.parametrize(("here", "wrong"), [(True, 1), (False, 0)])
def test_ipv6_address_is_left_to_the_ca_behind_nat_without_ipv6(monkeypatch, here, wrong):
    monkeypatch.setattr(module, "own_addresses", lambda: {4: "10.0.0.1"})
    monkeypatch.setattr(module, "is_here", lambda address: here)
    known = socket.create_connection

    def connect(to, *rest):
        if ":" in to[0]:
            raise OSError(101, "Network is unreachable")
        return known(to, *rest)

    monkeypatch.setattr(socket, "create_connection", connect)
    assert len(look("two.test")) == wrong


def test_own_and_foreign_addresses_are_distinguished():
    assert module.is_here("127.0.0.1")
    assert not module.is_here("192.0.2.1")


def test_a_kernel_without_ipv6_has_no_address_of_it(monkeypatch):
    known = socket.socket

    def only_ipv4(family, *rest):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return known(family, *rest)

    monkeypatch.setattr(socket, "socket", only_ipv4)
    assert 6 not in module.own_addresses()
    assert not module.is_here("2001:db8::1")


@pytest.mark.parametrize(
    ("dns", "addresses"),
    [("127.0.1.1 STREAM\n", None), ("192.0.2.7 STREAM localhost\n192.0.2.7 DGRAM\n", ["192.0.2.7"]), ("", [])],
)
def test_hosts_file_entry_does_not_count_as_dns(monkeypatch, dns, addresses):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, dns))
    assert ADDRESSES_OF("localhost") == addresses


def test_web_server_is_polled_until_it_knows_the_name(monkeypatch):
    monkeypatch.setattr(module, "READY", 5)
    answers = iter(["answers 404", ""])
    monkeypatch.setattr(module, "trouble", lambda *_: next(answers))
    assert look("shop.test") == []
