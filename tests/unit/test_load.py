"""What the visitors of tests/support/load.py count as a failure, and what they make of the releases they saw."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
from support import load
from support.load import MET_A_RELOAD, Load, apart_from_reloads, went_back

NAME = "shop.example.test"


class Last(bytes):
    """The last words on a connection."""


class Visit(socketserver.StreamRequestHandler):
    """One connection; the server says what to answer to its first request, its second, and so on."""

    def handle(self):
        for number in itertools.count():
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (line := self.rfile.readline()):
                    return
                head += line
            text = self.server.answers(number, head.decode())
            self.wfile.write(text)
            if isinstance(text, Last) or b"Connection: close" in head:
                return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def get_request(self):
        connection, address = super().get_request()
        return self.context.wrap_socket(connection, server_side=True), address

    def handle_error(self, *_):
        """A visitor that goes away is not the server's mistake."""


def answer(body="{}", status=200, *headers):
    return "\r\n".join([f"HTTP/1.1 {status} Thus", f"Content-Length: {len(body)}", *headers, "", body]).encode()


def release(name):
    return answer(json.dumps({"release": name}))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    argv = [*("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")]
    argv += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    subprocess.run([*argv, "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True)
    return folder


@pytest.fixture
def serve(certificate):
    """A site that answers as it is told; its port."""
    servers = []

    def start(answers):
        server = Server(("127.0.0.1", 0), Visit)
        server.answers = answers
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(certificate / "cert", certificate / "key")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def visit(port, seconds=0.5, **options):
    with Load("127.0.0.1", NAME, port=port, **options) as visitors:
        time.sleep(seconds)
    return visitors.result()


def causes(result):
    return {failure["cause"] for failure in result["failures"]}


def test_load_counts_responses_by_status_and_release(serve):
    asked = []

    def answers(number, head):
        asked.append((number, "Connection: close" in head))
        return release("a") if "/health/" in head else answer("<p>", 201)

    result = visit(serve(answers), path=["/health/", "/"])
    assert result["failed"] == result["errors"] == 0
    assert result["requests"] == len(asked) == sum(result["statuses"].values()) > 20
    assert abs(result["statuses"]["200"] - result["statuses"]["201"]) <= 1
    assert result["releases"] == {"a": result["statuses"]["200"]}
    assert {0} == {number for number, closes in asked if closes}
    assert {0, 1} <= {number for number, closes in asked if not closes}


@pytest.mark.parametrize("status", [301, 404, 502])
def test_status_other_than_2xx_is_a_failure_with_time_and_body(serve, status):
    result = visit(serve(lambda number, head: answer("no such luck", status)))
    assert result["failed"] == result["requests"] == result["statuses"][str(status)] > 20
    assert result["errors"] == 0
    assert causes(result) == {f"status {status}: no such luck"}
    assert len(result["failures"]) == 20
    moments = [datetime.fromisoformat(failure["at"]).timestamp() for failure in result["failures"]]
    assert time.time() - 5 < min(moments) <= max(moments) < time.time()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "closed amid the answer"),
        (answer("all of it")[:-1], "closed amid the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "closed amid the answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nwho knows", "an answer that does not tell its length"),
    ],
)
def test_incomplete_response_on_kept_connection_is_a_failure(serve, words, cause):
    result = visit(serve(lambda number, head: Last(words) if number == 2 else answer()))
    assert result["failed"] == result["errors"] > 0
    assert causes(result) == {cause}
    assert {failure["connection"] for failure in result["failures"]} == {"kept"}
    assert result["requests"] == result["errors"] + result["statuses"]["200"]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({}, 1),
        ({"connection": "new"}, MET_A_RELOAD + 1),
        ({"cause": "closed amid the answer"}, MET_A_RELOAD + 1),
        ({"cause": "status 502: "}, MET_A_RELOAD + 1),
    ],
)
def test_reload_excuses_few_requests_on_kept_connections_only(change, left):
    met = {"connection": "kept", "cause": "closed without an answer"}
    failures = [{"at": second, **met, **change} for second in range(MET_A_RELOAD + 1)]
    assert apart_from_reloads(failures) == failures[-left:]


@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["silently", "announced"])
def test_connection_closed_between_requests_is_no_failure(serve, headers):
    ended = []

    def answers(number, head):
        if number < 1:
            return answer()
        ended.append(number)
        return Last(answer("{}", 200, *headers))

    # Slow enough that each visitor has heard of the end before it asks again.
    result = visit(serve(answers), rate=30, seconds=1)
    assert result["failures"] == []
    assert len(ended) > 3


def test_chunks_make_one_answer(serve):
    chunks = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{"release":\r\n4\r\n"b"}\r\n0\r\n\r\n'
    result = visit(serve(lambda number, head: chunks))
    assert result["failures"] == []
    assert result["releases"] == {"b": result["requests"]}


def test_unreachable_server_is_a_failure():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = visit(port)
    assert result["errors"] == result["requests"] > 20
    assert "Connect call failed" in result["failures"][0]["cause"]


def test_no_answer_in_time_is_a_failure(serve, monkeypatch):
    monkeypatch.setattr(load, "PATIENCE", 0.2)
    port = serve(lambda number, head: time.sleep(2) or answer())
    options = load.arguments(f"--address=127.0.0.1 --port={port} --host={NAME} --insecure --seconds=0.5".split())
    result = load.asyncio.run(load.run(options))
    assert result["errors"] == result["requests"] > 0
    assert causes(result) == {"no answer within 0.2 s"}


def test_certificate_is_verified_when_a_ca_file_is_given(serve, certificate):
    port = serve(lambda number, head: answer())
    assert visit(port, cafile=certificate / "cert")["failures"] == []
    with Load("127.0.0.1", "www.example.test", port=port, cafile=certificate / "cert") as visitors:
        time.sleep(0.2)
    assert "is not valid for 'www.example.test'" in visitors.result()["failures"][0]["cause"]


def test_load_keeps_its_rate_and_makes_up_missed_requests(serve):
    busy = threading.Event()

    def answers(number, head):
        if not busy.is_set():
            busy.set()
            time.sleep(0.5)
        return answer()

    result = visit(serve(answers), rate=50, seconds=2)
    assert 90 <= result["requests"] <= 115
    assert 0.5 <= result["slowest"] < 0.9
    assert result["p99"] <= result["slowest"]


def test_late_requests_are_listed_individually(serve):
    began = time.time()
    result = visit(serve(lambda number, head: time.sleep(1.1) or release("a")), rate=5, seconds=0)
    assert len(result["late"]) == result["requests"] > 0
    first = result["late"][0]
    assert (first["path"], first["status"], first["release"]) == ("/health/", 200, "a")
    assert began < first["at"] < first["at"] + first["seconds"] < time.time()


def run(port, *argv, **options):
    return subprocess.Popen(
        [sys.executable, load.__file__, "--address=127.0.0.1", f"--port={port}", f"--host={NAME}", "--insecure", *argv],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def end_of_input(process):
    process.stdin.close()


def sigterm(process):
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("end", [end_of_input, sigterm])
def test_request_in_progress_is_completed_at_the_end(serve, end):
    process = run(serve(lambda number, head: time.sleep(0.5) or answer()), "--rate=50", stdin=subprocess.PIPE)
    assert process.stdout.readline() == f"asking https://{NAME}\n"
    end(process)
    assert " 0 failed (0 without an answer)" in process.stdout.read()
    assert process.wait() == 0


def test_load_exits_with_an_error_after_a_failed_request(serve):
    numbers = itertools.count()
    port = serve(lambda number, head: answer("oh", 500 if next(numbers) == 5 else 200))
    process = run(port, "--seconds=0.5", stdin=subprocess.DEVNULL)
    said = process.communicate()[0]
    assert process.returncode == 1
    assert " 1 failed (0 without an answer)" in said
    assert "status 500: oh" in said


def stamp(second):
    return datetime.fromtimestamp(1_800_000_000 + second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("seen", "explained"),
    [
        ("a", True),
        ("ab", True),
        ("abc", True),
        ("ac", True),
        ("ba", False),
        ("aba", False),
        ("abca", False),
        # Rolled back to b, and on to d.
        ("abcb", True),
        ("cb", True),
        ("acbd", True),
        ("bcbc", False),
        ("dc", False),
        ("x", False),
    ],
)
def test_connection_sees_releases_in_the_order_of_switches(seen, explained):
    journal = [{"at": stamp(10 * number), "to": name} for number, name in enumerate("abcbd")]
    connection = {"from": 1_800_000_005, "to": 1_800_000_100, "releases": list(seen)}
    assert went_back([connection], journal) == ([] if explained else [connection])


def test_connection_sees_only_releases_live_in_its_time():
    journal = [{"at": stamp(10 * number), "to": name} for number, name in enumerate("abab")]

    def is_explained(first, last, releases):
        connection = {"from": 1_800_000_000 + first, "to": 1_800_000_000 + last, "releases": list(releases)}
        return went_back([connection], journal) == []

    assert is_explained(5, 15, "ab")
    assert is_explained(15, 25, "ba")
    assert not is_explained(5, 15, "ba")
    assert not is_explained(15, 25, "ab")
    assert not is_explained(5, 6, "b")
    # The journal knows whole seconds only.
    assert is_explained(5, 9, "ab")


def test_releases_of_each_connection_are_listed_in_order(serve):
    numbers = itertools.count()
    result = visit(serve(lambda number, head: release("a" if next(numbers) < 30 else "b")), seconds=0.8)
    assert ["a", "b"] in [connection["releases"] for connection in result["seen"]]
    # Of those that saw one release only, many make one.
    assert len(result["seen"]) < 20
    assert all(connection["from"] <= connection["to"] <= time.time() for connection in result["seen"])
