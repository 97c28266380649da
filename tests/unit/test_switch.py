"""When a release is good enough to go live, and which releases stay."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import socketserver
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.django_vps.stack.plugins.module_utils import health, release_units
from ansible_collections.django_vps.stack.plugins.module_utils.commands import Outcome
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import replace_link, write_file
from ansible_collections.django_vps.stack.plugins.module_utils.output import tail_log
from ansible_collections.django_vps.stack.plugins.module_utils.probation import Probation
from ansible_collections.django_vps.stack.plugins.module_utils.release_units import Instance
from ansible_collections.django_vps.stack.plugins.modules import check_web as web
from ansible_collections.django_vps.stack.plugins.modules import switch as module
from ansible_collections.django_vps.stack.plugins.modules.switch import Switch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

OPTIONS = {
    "service": "shop-gunicorn",
    "services": ["shop.worker", "shop.beat"],
    "single": ["shop.beat"],
    "probation": 3,
    "socket": "gunicorn.sock",
    "host": "shop.example.com",
    "names": ["shop.example.com", "www.shop.example.com", ".shop.example.net"],
    "served": ["docs.shop.example.com"],
    "keep": 2,
    "timeout": 60,
    "who": "me",
    "web_service": "",
}


class Application(BaseHTTPRequestHandler):
    """Answers what its server was told, and notes what it was asked."""

    def do_GET(self):
        self.server.asked = (self.path, dict(self.headers))
        status, location = self.server.pages.get(self.path, self.server.answer)
        if callable(location):
            location = location(self.headers)
            status = status if location else 200
        self.send_response(status)
        if location:
            self.send_header("Location", location)
            self.send_header("Set-Cookie", f"from={self.path}; Path=/")
        self.end_headers()
        self.wfile.write(self.server.body)

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

    def run(status: int, location: str = "", path: str = "", body: bytes = b"", **pages) -> str:
        server.answer, server.body = (status, location), body
        server.pages = {f"/{name}": answer for name, answer in pages.items()}
        switch = Switch({**OPTIONS, "home": str(tmp_path), "release": "a", "health_path": path})
        complaint = switch.health.ask(time.monotonic() + 5)
        run.asked = server.asked
        return complaint

    yield run
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404])
def test_check_without_health_path_passes_on_any_working_answer(ask, status):
    assert ask(status, login=(200, ""), **{"": (status, "/login" if status == 302 else "")}) == ""


@pytest.mark.parametrize(
    "location", ["/login", "login", "https://shop.example.com/login", "http://www.shop.example.com/login"]
)
def test_check_follows_redirects_within_the_site(ask, location):
    assert ask(200, **{"": (302, location)}, login=(500, "")) == "https://shop.example.com/login answers 500"
    assert ask(200, **{"": (302, location)}, login=(200, "")) == ""


@pytest.mark.parametrize(
    "location",
    [
        "https://sso.example.org/",
        "https://m.shop.example.net/",
        "https://shop.example.com:8443/",
        "https://x:y/",
        "mailto:me@x",
    ],
)
def test_check_does_not_follow_redirects_to_other_sites(ask, location):
    assert ask(302, location) == ""


def test_redirect_to_a_served_name_is_followed_by_that_name(ask):
    answer = (302, lambda headers: answer_of[headers["Host"]])
    answer_of = {"shop.example.com": "https://docs.shop.example.com/a", "docs.shop.example.com": "/b"}
    assert ask(200, **{"": answer}, a=answer, b=(500, "")) == "https://docs.shop.example.com/b answers 500"
    assert ask(200, **{"": answer}, a=answer, b=(200, "")) == ""
    assert ask.asked[1]["Host"] == "docs.shop.example.com"


def test_pages_that_redirect_to_each_other_never_pass(ask):
    complaint = ask(200, **{"": (302, "/login")}, login=(302, "/"))
    assert "https://shop.example.com/ redirects to /login, and so for ever" in complaint


def test_redirect_loop_between_project_and_nginx_is_named(ask):
    complaint = ask(301, "https://www.shop.example.com/")
    assert "the web server redirects www.shop.example.com to shop.example.com" in complaint
    assert "write www.shop.example.com first in site_domains" in complaint


def test_redirect_that_sets_a_cookie_is_no_loop(ask):
    answer = (302, lambda headers: "" if "from=/" in headers.get("Cookie", "") else "/")
    assert ask(200, **{"": answer}) == ""


def test_endless_redirects_never_pass(ask):
    pages = {str(number): (302, f"/{number + 1}") for number in range(20)}
    assert "and so for ever" in ask(302, "/0", **pages)


@pytest.mark.parametrize("status", [400, 500, 503])
def test_answer_with_an_error_status_does_not_pass(ask, status):
    assert f"answers {status}" in ask(status)


@pytest.mark.parametrize("status", [301, 404, 500])
def test_a_health_path_has_to_answer_200(ask, status):
    assert ask(200, path="/health/") == ""
    assert f"/health/ answers {status}" in ask(status, "/elsewhere/", path="/health/")


def test_redirect_to_itself_has_advice_on_the_proxy_header(ask):
    assert "SECURE_PROXY_SSL_HEADER" in ask(301, "https://shop.example.com/")


def test_status_400_has_advice_on_allowed_hosts(ask):
    assert "ALLOWED_HOSTS" in ask(400)


def test_check_sends_the_headers_of_nginx(ask):
    ask(200, path="/health/")
    path, headers = ask.asked
    assert path == "/health/"
    assert headers["Host"] == "shop.example.com"
    assert headers["X-Forwarded-Proto"] == "https"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"release": "a"}', b'{"status": "ok"}'])
def test_an_answer_need_not_name_the_release(ask, body):
    assert ask(200, body=body) == ""


def test_answer_of_another_release_does_not_pass(ask):
    assert "answers as release b" in ask(200, body=b'{"release": "b"}')


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """Wait for a release that answers, and whose processes live, by a script: seconds -> (complaint, processes)."""

    def run(script, gave_up=False):
        clock = Clock()
        monkeypatch.setattr(module, "time", clock)
        switch = Switch({**OPTIONS, "home": str(tmp_path), "release": "a", "health_path": "/"})
        now = lambda: script(clock.now - 100)  # noqa: E731
        switch.health.ask = lambda end: now()[0]
        switch.units.list_workers = lambda release: {("worker", pid) for pid in now()[1]}
        switch.units.have_failed = lambda units, restarts: gave_up
        try:
            switch._wait_for_answers()
        finally:
            run.seconds = clock.now - 100
        return run.seconds

    return run


def test_release_must_be_healthy_for_three_seconds(gate):
    assert 3 <= gate(lambda at: ("", "12")) < 4


def test_bad_answer_restarts_the_three_seconds(gate):
    assert 8 <= gate(lambda at: ("answers 503" if at < 5 else "", "12")) < 9.5


def test_process_can_die_once_but_not_repeatedly(gate):
    assert gate(lambda at: ("", "12" if at < 1 else "13")) < 6
    with pytest.raises(StepError, match=r"worker . of the release has died"):
        gate(lambda at: ("", str(int(at))))
    assert gate.seconds < 6


def test_lasting_wrong_answer_ends_the_check_early(gate):
    with pytest.raises(StepError, match="answers 500"):
        gate(lambda at: ("answers 500", "1"))
    assert 10 < gate.seconds < 12


def test_status_503_is_waited_for_until_the_timeout(gate):
    with pytest.raises(StepError, match="answers 503, for 60 s"):
        gate(lambda at: ("answers 503", "1"))
    assert 60 < gate.seconds < 62


def test_intermittently_healthy_release_does_not_pass(gate):
    with pytest.raises(StepError, match=r"now and then|answers 500"):
        gate(lambda at: ("answers 500" if int(at) % 3 == 0 else "", "1"))
    assert gate.seconds < 65


def test_unit_that_gave_up_starting_ends_the_check_at_once(gate):
    with pytest.raises(StepError, match="refused"):
        gate(lambda at: ("refused", ""), gave_up=True)
    assert gate.seconds < 1


def test_process_that_exits_at_start_gets_no_timeout_advice(gate):
    with pytest.raises(StepError, match="ends by itself at its start") as raised:
        gate(lambda at: ("https://shop.example.test/ does not answer", ""), gave_up=True)
    assert "django_health_timeout" not in str(raised.value)


def test_check_result_depends_on_observations_only():
    probation = Probation(start=0, timeout=60, healthy_seconds=3)
    assert [probation.observe(at, "") for at in (1, 2, 3.9, 4)] == [False, False, False, True]


def test_timeout_reports_the_last_answer_received():
    probation = Probation(start=0, timeout=10, healthy_seconds=3)
    probation.observe(9, "https://shop.example.com/ answers 503")
    with pytest.raises(StepError, match=r"health: https://shop.example.com/ answers 503, for 10 s\nRaise django"):
        probation.observe(11, "https://shop.example.com/ does not answer")


@pytest.fixture
def front(tmp_path, monkeypatch):
    """Ask a web server that answers with a status over TLS, or closes the connection where there is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example.test")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    unsigned = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    unsigned = unsigned.serial_number(1).not_valid_before(begin).not_valid_after(begin + timedelta(days=1))
    certificate = unsigned.sign(key, hashes.SHA256())
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "pem").write_bytes(key.private_bytes(*plain) + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    names = []
    # As nginx does for a name that no site has.
    refuse = lambda name: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if name == "gone.example.test" else None  # noqa: E731
    context.sni_callback = lambda connection, name, context: names.append(name) or refuse(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    # The handshake is left to the thread of a request.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.pages, server.body = {}, b""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(health, "WEB_SERVER", server.server_address)

    def run(status: int, name: str = "shop.example.test") -> str:
        server.answer = (status, "")
        return health.ask_web_server(name, "/health/", 1)

    run.names, run.server = names, server
    yield run
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        *((status, "") for status in (200, 302, 401, 403, 404, 429)),
        *((status, f"the web server answers {status} at https://shop.") for status in (421, 500, 502, 503)),
    ],
)
def test_web_server_gets_the_request_of_a_client(front, status, said):
    assert said in front(status)
    assert bool(front(status)) == bool(said)
    assert (front.names[0], front.server.asked[0]) == ("shop.example.test", "/health/")
    assert front.server.asked[1]["Host"] == "shop.example.test"


def test_web_server_that_refuses_the_name_is_reported(front):
    complaint = front(200, "gone.example.test")
    assert complaint.startswith("the web server fails at https://gone.example.test/health/: ")
    assert "UNRECOGNIZED_NAME" in complaint


def test_web_server_complaint_fails_a_run_and_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(web, "ask_web_server", lambda name, path, timeout: f"answers 502 at {name}{path}")

    def check(**more) -> dict:
        args = {"name": "shop.example.test", "closed": str(tmp_path / "closed"), **more}
        with patch_module_args(args), pytest.raises(SystemExit):
            web.main()
        return json.loads(capsys.readouterr().out)

    assert check()["msg"].startswith("health: answers 502 at shop.example.test/\n")
    reported = check(_ansible_check_mode=True)
    assert (reported.get("failed", False), reported["wrong"]) == (False, "answers 502 at shop.example.test/")
    (tmp_path / "closed").touch()
    assert check()["wrong"] == ""


def test_stopped_or_hanging_web_server_is_reported(front, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(health, "WEB_SERVER", silent.getsockname())
        assert front(200) == "the web server does not answer at https://shop.example.test/health/ within 1 s"
        silent.accept()[0].close()

        def hang_up():
            silent.accept()[0].close()

        # nginx can be configured so (444).
        threading.Thread(target=hang_up, daemon=True).start()
        assert front(200) == ""
    assert front(200) == "the web server does not run"


@pytest.mark.parametrize(
    ("unit", "runs", "reachable", "complaint"),
    [
        ("", False, False, ""),
        ("nginx.service", True, True, ""),
        ("nginx.service", False, True, "the web server does not run"),
        ("nginx.service", True, False, "the web server has no access to {home}/releases/a/gunicorn.sock"),
    ],
)
def test_release_that_nginx_cannot_reach_is_wrong(tmp_path, monkeypatch, unit, runs, reachable, complaint):
    switch = Switch({**OPTIONS, "home": str(tmp_path), "release": "a", "health_path": "", "web_service": unit})
    monkeypatch.setattr(switch.health, "ask", lambda end: "")
    monkeypatch.setattr(switch.health, "is_reachable", lambda: reachable)
    monkeypatch.setattr(health, "call", lambda *argv: Outcome(0 if runs else 3, "", ""))
    assert switch.wrong() == complaint.format(home=tmp_path)


def test_complaint_has_no_control_characters(ask):
    # The page redirects to an address that is not requested, as it is none.
    assert "https://shop.example.com/red: " in ask(200, **{"": (302, "/\x1b[31mred")})


def test_socket_is_reachable_if_served_and_open_to_nginx(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "WEB_SERVER_USER", "nobody")
    folder = tmp_path / "releases/a"
    folder.mkdir(parents=True)
    switch = Switch({**OPTIONS, "home": str(tmp_path), "release": "a", "health_path": ""})
    assert not switch.health.is_reachable()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "gunicorn.sock"))
        assert not switch.health.is_reachable()
        server.listen()
        asked = []
        monkeypatch.setattr(health, "call", lambda *argv: asked.append(list(argv)) or Outcome(0, "", ""))
        assert switch.health.is_reachable()
        assert asked == [["runuser", "-u", "nobody", "--", "test", "-w", str(folder / "gunicorn.sock")]]


def test_release_without_a_socket_does_not_pass(tmp_path):
    switch = Switch({**OPTIONS, "home": str(tmp_path), "release": "a", "health_path": ""})
    assert "No such file" in switch.health.ask(time.monotonic() + 5)


def site_with(tmp_path, releases: str, live: str, switches: list[tuple[str, str]], running: str = "") -> Switch:
    for name in releases:
        (tmp_path / "releases" / name).mkdir(parents=True)
        write_file(tmp_path / "releases" / name / "release.json", "{}")
    (tmp_path / "static").mkdir()
    replace_link(tmp_path / "current", f"releases/{live}")
    lines = [json.dumps({"from": before, "to": after}) for before, after in switches]
    (tmp_path / "journal").write_text("".join(f"{line}\n" for line in lines))
    switch = Switch({**OPTIONS, "home": str(tmp_path), "release": live})
    switch.units.list_instances = lambda pattern: [
        Instance(f"{pattern}@{name}.service", name, "active") for name in running
    ]
    return switch


def test_newest_releases_that_were_live_are_kept(tmp_path):
    switch = site_with(tmp_path, "abcd", "d", [("", "a"), ("a", "b"), ("b", "c"), ("c", "d")])
    assert switch.prune() == ["a", "b"]
    assert switch.site.complete_releases() == ["c", "d"]


def test_live_and_previous_release_are_always_kept(tmp_path):
    switch = site_with(tmp_path, "abcd", "a", [("", "c"), ("c", "d"), ("d", "b"), ("b", "a")])
    switch.prune()
    assert {"a", "b"} <= set(switch.site.complete_releases())


def test_running_release_is_kept(tmp_path):
    switch = site_with(tmp_path, "abcd", "d", [("", "a"), ("a", "b"), ("b", "c"), ("c", "d")], running="a")
    assert switch.prune() == ["b"]


def test_release_that_never_went_live_displaces_no_other(tmp_path):
    switch = site_with(tmp_path, "abcd", "d", [("", "a"), ("a", "d")])
    assert switch.prune() == ["b", "c"]
    assert switch.site.complete_releases() == ["a", "d"]


def test_newer_release_of_another_run_is_kept(tmp_path):
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


def test_interrupted_removal_is_completed_with_its_assets(tmp_path):
    switch = site_with(tmp_path, "bc", "c", [("", "a"), ("a", "b"), ("b", "c")])
    (switch.site.removed / "a" / "venv").mkdir(parents=True)
    (tmp_path / "static" / "old.css").write_text("")
    assert switch.prune() == []
    assert not switch.site.removed.exists()
    assert list((tmp_path / "static").iterdir()) == []


def test_truncated_journal_line_spoils_no_other_line(tmp_path):
    switch = site_with(tmp_path, "ab", "b", [("", "a")])
    with (tmp_path / "journal").open("a") as journal:
        journal.write('{"from": "a", "t')
    switch.site.record_switch("a", "b", "me", 0.1)
    assert [entry["to"] for entry in switch.site.switches()] == ["a", "b"]


def test_journal_and_facts_of_a_release_are_private(tmp_path):
    switch = site_with(tmp_path, "ab", "b", [("", "a")])
    (tmp_path / "journal").chmod(0o644)
    switch.site.note("b", bad="health: 500")
    switch.site.record_switch("a", "b", "me", 0.1)
    paths = [tmp_path / "journal", *tmp_path.glob("releases/*/release.json")]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}


def test_unrecorded_switch_is_recorded_by_the_next_run(tmp_path):
    switch = site_with(tmp_path, "ab", "b", [("", "a")])
    switch.units.start = lambda release, timeout: None
    switch._wait_for_answers = lambda: None
    switch.make_live()
    assert [(entry["from"], entry["to"]) for entry in switch.site.switches()] == [("", "a"), ("a", "b")]
    switch.make_live()
    assert len(switch.site.switches()) == 2


def test_log_excerpt_is_the_end_of_the_log():
    log = [f"line {number}" for number in range(100)]
    assert tail_log("\n".join(log)).splitlines() == log[-30:]
    assert tail_log("\n".join(log[:3])).splitlines() == log[:3]


def test_log_excerpt_keeps_the_traceback_before_restarts():
    traceback = ["Traceback (most recent call last):", *["  a frame"] * 50, "ModuleNotFoundError: No module named 'x'"]
    log = ["long before", *traceback, *["starting again"] * 20]
    assert tail_log("\n".join(log)).splitlines() == log[1:]


def test_log_excerpt_prefers_the_cause_to_the_gunicorn_halt():
    worker = ["Traceback (most recent call last):", *["  a frame"] * 50, "ModuleNotFoundError: No module named 'x'"]
    halt = ["Traceback (most recent call last):", *["  a frame"] * 40, "gunicorn.errors.HaltServer: <HaltServer ... 3>"]
    log = [*worker, *halt, *worker, *halt, "starting again"]
    assert tail_log("\n".join(log)).splitlines() == log[len(worker + halt) :]
    # Where nothing else is said, it is better than nothing.
    assert tail_log("\n".join(halt)).splitlines() == halt


@pytest.fixture
def fails(monkeypatch):
    """Let a release that is not live fail at its start; what is said."""

    def fails(switch: Switch, release: str) -> str:
        def start(release: str, timeout: float) -> None:
            raise StepError("start", "it does not")

        switch.release = release
        switch.units.start, switch.units.stop = start, lambda release: None
        monkeypatch.setattr(module, "read_log", lambda units, since: "")
        monkeypatch.setattr(module, "call", lambda *argv: None)
        with pytest.raises(StepError) as error:
            switch.make_live()
        return str(error.value)

    return fails


def test_only_a_release_that_never_served_becomes_bad(tmp_path, fails):
    switch = site_with(tmp_path, "abc", "b", [("", "a"), ("a", "b")])
    for release in "ac":
        fails(switch, release)
    assert {name: switch.site.facts(name).get("bad") for name in "abc"} == {
        "a": None,
        "b": None,
        "c": "start: it does not",
    }


def test_failed_switch_warns_of_undone_migrations(tmp_path, fails):
    switch = site_with(tmp_path, "ab", "b", [("", "a"), ("a", "b")])
    assert "undone" not in fails(switch, "a")
    switch.site.note("b", undone=True)
    assert "undone for a: bring them again by playbooks/deploy.yml" in fails(switch, "a")


@pytest.fixture
def retired(tmp_path, monkeypatch):
    """Take away the release before, with so many connections in its queue each time that somebody looks."""

    def run(waiting):
        clock = Clock()
        monkeypatch.setattr(release_units, "time", clock)
        switch = site_with(tmp_path, "ab", "b", [("a", "b")], running="ab")
        switch.options["drain"] = 30
        run.looks = iter(waiting)
        monkeypatch.setattr(release_units, "count_queued", lambda path: next(run.looks))
        switch.units.stop = lambda release: setattr(run, "stopped", (release, clock.now - 100))
        switch.retire_others()
        return run

    return run


def test_previous_release_stops_once_its_queue_is_drained(retired):
    done = retired([3, 1, 0])
    assert done.stopped[0] == "a"
    assert list(done.looks) == []


def test_drain_of_previous_release_ends_after_30_seconds(retired):
    assert 30 <= retired(itertools.repeat(1)).stopped[1] < 32


def test_failed_units_of_other_releases_are_reset(tmp_path, monkeypatch):
    switch = site_with(tmp_path, "ab", "b", [("a", "b")])
    switch.units.list_instances = lambda pattern: [
        Instance(f"{pattern}@{name}.service", name, "failed") for name in "ab"
    ]
    done = []
    monkeypatch.setattr(release_units, "run", lambda step, argv, **options: done.append(" ".join(argv)))
    switch.retire_others()
    services = [switch.options["service"], *switch.options["services"]]
    assert done == [f"systemctl reset-failed {' '.join(f'{name}@a.service' for name in services)}"]


def test_single_service_stops_in_old_releases_before_it_starts(tmp_path, monkeypatch):
    switch = site_with(tmp_path, "abc", "c", [("", "a"), ("a", "b"), ("b", "c")], running="abc")
    done = []
    monkeypatch.setattr(release_units, "run", lambda step, argv, **options: done.append(" ".join(argv)))
    switch.units.hand_over("c")
    assert done == ["systemctl stop shop.beat@a.service shop.beat@b.service", "systemctl start shop.beat@c.service"]


@pytest.mark.parametrize(("state", "fine"), [("active\n0\n", True), ("activating\n2\n", False), ("failed\n0\n", False)])
def test_single_service_that_keeps_ending_is_reported(tmp_path, monkeypatch, state, fine):
    switch = site_with(tmp_path, "ab", "b", [("", "a"), ("a", "b")])
    switch.options["probation"] = 0
    monkeypatch.setattr(release_units, "run", lambda *_, **__: state)
    monkeypatch.setattr(module, "read_log", lambda units, since: "No module named django_celery_beat")
    with contextlib.nullcontext() if fine else pytest.raises(StepError, match="does not keep running"):
        switch.watch_singles()


def test_single_service_of_release_not_live_is_only_stopped(tmp_path, monkeypatch):
    switch = site_with(tmp_path, "ab", "a", [("", "a")])
    done = []
    monkeypatch.setattr(release_units, "run", lambda step, argv, **options: done.append(" ".join(argv)))
    monkeypatch.setattr(release_units, "call", lambda *argv: None)
    switch.units.start("b", 60)
    assert done == ["systemctl start shop-gunicorn@b.service shop.worker@b.service"]
    switch.units.stop("b")
    assert "shop.beat@b.service" in done[1]


def test_probation_option_lengthens_the_check(gate, monkeypatch):
    monkeypatch.setitem(OPTIONS, "probation", 20)
    assert 20 <= gate(lambda at: ("", "12")) < 21
    with pytest.raises(StepError, match="has died"):
        gate(lambda at: ("", "1" if at < 9 else "2" if at < 18 else "3"))
