"""When a release is good enough to go live, and which releases stay."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest
from ansible_collections.django_vps.stack.plugins.module_utils.site import point, write_file
from ansible_collections.django_vps.stack.plugins.modules.switch import Switch

OPTIONS = {"service": "shop-gunicorn", "socket": "gunicorn.sock", "host": "shop.example.com", "keep": 2, "who": "me"}


class Application(BaseHTTPRequestHandler):
    """Answers what its server was told, and notes what it was asked."""

    def do_GET(self):
        self.server.asked = (self.path, dict(self.headers))
        status, location = self.server.answer
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.end_headers()

    def address_string(self):
        return "socket"

    def log_message(self, *_):
        pass


@pytest.fixture
def ask(tmp_path):
    """Ask a release that answers with a status; what is wrong with the answer."""
    (tmp_path / "releases/a").mkdir(parents=True)
    server = socketserver.ThreadingUnixStreamServer(str(tmp_path / "releases/a/gunicorn.sock"), Application)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def run(status: int, location: str = "", path: str = "") -> str:
        server.answer = (status, location)
        switch = Switch({**OPTIONS, "home": str(tmp_path), "release": "a", "health_path": path})
        complaint = switch._ask(time.monotonic() + 5)
        run.asked = server.asked
        return complaint

    yield run
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404])
def test_without_a_health_path_any_answer_of_a_working_site_will_do(ask, status):
    assert ask(status, "/login/" if status == 302 else "") == ""


@pytest.mark.parametrize("status", [400, 500, 503])
def test_an_answer_of_a_broken_site_will_not_do(ask, status):
    assert f"answers {status}" in ask(status)


@pytest.mark.parametrize("status", [301, 404, 500])
def test_a_health_path_has_to_answer_200(ask, status):
    assert ask(200, path="/health/") == ""
    assert f"/health/ answers {status}" in ask(status, "/elsewhere/", path="/health/")


def test_a_redirect_to_itself_says_which_setting_is_missing(ask):
    assert "SECURE_PROXY_SSL_HEADER" in ask(301, "https://shop.example.com/")


def test_a_wrong_name_says_which_setting_is_missing(ask):
    assert "ALLOWED_HOSTS" in ask(400)


def test_the_release_is_asked_as_the_web_server_would_ask(ask):
    ask(200, path="/health/")
    path, headers = ask.asked
    assert path == "/health/"
    assert headers["Host"] == "shop.example.com"
    assert headers["X-Forwarded-Proto"] == "https"


def test_a_release_that_does_not_listen_is_no_release(tmp_path):
    switch = Switch({**OPTIONS, "home": str(tmp_path), "release": "a", "health_path": ""})
    assert "No such file" in switch._ask(time.monotonic() + 5)


def site_with(tmp_path, releases: str, live: str, switches: list[tuple[str, str]], running: str = "") -> Switch:
    for name in releases:
        (tmp_path / "releases" / name).mkdir(parents=True)
        write_file(tmp_path / "releases" / name / "release.json", "{}")
    (tmp_path / "static").mkdir()
    point(tmp_path / "current", f"releases/{live}")
    lines = [json.dumps({"from": before, "to": after}) for before, after in switches]
    (tmp_path / "journal").write_text("".join(f"{line}\n" for line in lines))
    switch = Switch({**OPTIONS, "home": str(tmp_path), "release": live})
    switch.running = lambda: set(running)
    return switch


def test_the_newest_that_were_live_are_kept(tmp_path):
    switch = site_with(tmp_path, "abcd", "d", [("", "a"), ("a", "b"), ("b", "c"), ("c", "d")])
    assert switch.prune() == ["a", "b"]
    assert switch.site.whole() == ["c", "d"]


def test_the_live_one_and_the_one_before_stay_however_old_they_are(tmp_path):
    switch = site_with(tmp_path, "abcd", "a", [("", "c"), ("c", "d"), ("d", "b"), ("b", "a")])
    switch.prune()
    assert {"a", "b"} <= set(switch.site.whole())


def test_one_that_still_runs_stays(tmp_path):
    switch = site_with(tmp_path, "abcd", "d", [("", "a"), ("a", "b"), ("b", "c"), ("c", "d")], running="a")
    assert switch.prune() == ["b"]


def test_one_that_never_went_live_takes_the_place_of_none_that_did(tmp_path):
    switch = site_with(tmp_path, "abcd", "d", [("", "a"), ("a", "d")])
    assert switch.prune() == ["b", "c"]
    assert switch.site.whole() == ["a", "d"]


def test_a_newer_one_that_another_run_has_just_built_stays(tmp_path):
    switch = site_with(tmp_path, "abz", "b", [("", "a"), ("a", "b")])
    assert switch.prune() == []


def test_hashed_assets_go_with_the_last_release_that_has_them(tmp_path):
    switch = site_with(tmp_path, "abc", "c", [("", "a"), ("a", "b"), ("b", "c")])
    for name, asset in (("a", "old.css"), ("b", "both.css"), ("c", "both.css")):
        static = tmp_path / "releases" / name / "static"
        static.mkdir()
        (static / asset).write_text("")
        (static / "staticfiles.json").write_text(json.dumps({"paths": {asset: asset}}))
        (tmp_path / "static" / asset).write_text("")
    assert switch.prune() == ["a"]
    assert [path.name for path in (tmp_path / "static").iterdir()] == ["both.css"]
