#!/usr/bin/env python3
"""Send requests of several clients to a site while it changes, and report the result of each request.

    tests/support/load.py --address 172.17.0.2 --host shop.example.test --insecure --path /health/ --seconds 60

Most clients keep their connection for 50 to 200 requests; the others open a new one, with a TLS handshake, for each.
They share one constant rate, which leaves time of two cores for the other processes. Without --seconds they continue
until SIGTERM, Ctrl-C or, where the standard input is a pipe, its end; requests in progress are completed. The exit code
is 0 when every request was answered with 2xx.

In Python the same is

    with Load(address, host, path=["/health/"]) as load:
        ...
    assert load.result()["failures"] == []

The result, also written to --out:

    seconds, requests, statuses, errors       duration, number of requests, number by status, number without an answer
    failed, failures                          number of requests without 2xx, and time and cause of the first 20
    slowest, p99                              seconds from the first packet of a request to the last of its answer
    late                                      requests that took a second or more: at, seconds, path, status, release
    releases                                  number of answers by the release that the JSON of the answer names
    seen                                      for `went_back`: the releases that answered on one connection, in order
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

# Number of clients of both kinds: a fifth of the requests are made on new connections.
STAYING, PASSING = 8, 2
# A persistent connection is closed after a random number of requests in this range.
KEPT = (50, 200)
# Seconds after which a request counts as unanswered.
PATIENCE = 30
# Seconds from which a request counts as late.
LATE = 1
# Most failures and late requests that the result lists.
TOLD, TOLD_LATE = 20, 1000
# Most requests of one load that may fail because of a reload of nginx.
MET_A_RELOAD = 2
# Seconds by which the whole seconds of a journal, and the writing of its line, may differ from the switch.
SLACK = 2


class Load:
    """A load in a separate process, from the first answer until the block ends."""

    def __init__(
        self,
        address: str,
        host: str,
        path: Sequence[str] = ("/health/",),
        rate: float = 100,
        cafile: str | Path | None = None,
        port: int = 443,
    ) -> None:
        """Prepare the process; without cafile it accepts any certificate."""
        # The file has no name, so that it is removed when this process is killed.
        self.out = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.argv = [
            *(sys.executable, __file__, f"--address={address}", f"--port={port}", f"--host={host}"),
            *(f"--path={one}" for one in path),
            *(f"--rate={rate}", f"--out=/dev/fd/{self.out.fileno()}", f"--cafile={cafile}" if cafile else "--insecure"),
        ]

    def __enter__(self) -> Load:
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[self.out.fileno()]
        )
        # The first line reports that the first request has ended.
        self.process.stdout.readline()
        return self

    def __exit__(self, *_) -> None:
        self.process.communicate()

    def result(self) -> dict:
        """Return the result once the block has ended."""
        self.out.seek(0)
        return json.load(self.out)


def went_back(seen: list[dict], journal: list[dict]) -> list[dict]:
    """Return the entries of `seen` that the site's journal does not explain.

    The releases that answered on a connection must be among those that were live in its time, in their order. So a
    connection with B after A gets A again only after a later switch to A.
    """
    switches = [(datetime.fromisoformat(line["at"]).timestamp(), line["to"]) for line in journal]
    unexplained = []
    for connection in seen:
        first, last = connection["from"] - SLACK, connection["to"] + SLACK
        live = iter(
            [release for at, release in switches if at < first][-1:]
            + [release for at, release in switches if first <= at <= last]
        )
        if not all(release in live for release in connection["releases"]):
            unexplained.append(connection)
    return unexplained


def apart_from_reloads(failures: list[dict]) -> list[dict]:
    """Return the `failures` that reloads of nginx do not explain.

    A reload closes idle connections. A client that sends a request at that moment gets no answer, and like a browser
    repeats the request on a new connection. With nginx from 1.27.4 on, `keepalive_min_timeout` would avoid it. No
    deploy reloads nginx.
    """
    met = [each for each in failures if (each["connection"], each["cause"]) == ("kept", "closed without an answer")]
    return [each for each in failures if each not in met[:MET_A_RELOAD]]


class Unanswered(Exception):
    """A request without a complete answer; the message is the cause."""


class Connection:
    """A connection to the site, and the releases that answered on it."""

    def __init__(self, reader, writer) -> None:
        self.reader, self.writer = reader, writer
        self.left = random.randint(*KEPT)
        self.seen = None

    @property
    def usable(self) -> bool:
        """Return whether another request can be sent: the server and the client can close it between two requests."""
        return self.left > 0 and not self.reader.at_eof()

    async def ask(self, host: str, path: str, keep: bool) -> tuple[int, bytes]:
        self.left -= 1
        wish = "keep-alive" if keep else "close"
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {wish}\r\n\r\n".encode())
        try:
            await self.writer.drain()
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise Unanswered("closed amid the answer" if error.partial else "closed without an answer") from error
        status, headers = parse(head)
        if headers.get("connection", "").lower() == "close":
            self.left = 0
        try:
            return status, await self._body(headers)
        except asyncio.IncompleteReadError as error:
            raise Unanswered("closed amid the answer") from error

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            raise Unanswered("an answer that does not tell its length")
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")
        return body


def parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


def release_in(body: bytes) -> str | None:
    try:
        return json.loads(body)["release"]
    except (ValueError, KeyError, TypeError):
        return None


class Visitors:
    """All clients, and their common counts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.context = ssl.create_default_context(cafile=options.cafile)
        if options.insecure:
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE
        self.paths = itertools.cycle(options.path)
        self.stopped = asyncio.Event()
        self.began = self.next_turn = time.monotonic()
        self.times, self.late, self.failures, self.seen = [], [], [], []
        self.statuses, self.releases = Counter(), Counter()
        self.errors = self.failed = 0

    async def visit(self) -> None:
        await asyncio.gather(*(self.stay() for _ in range(STAYING)), *(self.pass_by() for _ in range(PASSING)))

    async def turn(self) -> bool:
        """Wait until the rate allows another request; False at the end of the load."""
        now = time.monotonic()
        # Requests that could not be sent in time are sent later, but at most those of one second.
        self.next_turn = max(self.next_turn + 1 / self.options.rate, now - 1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), self.next_turn - now)
        return not self.stopped.is_set()

    async def stay(self) -> None:
        connection = None
        while await self.turn():
            if connection and not connection.usable:
                connection = self.close(connection)
            connection = await self.request(connection, keep=True)
        self.close(connection)

    async def pass_by(self) -> None:
        while await self.turn():
            self.close(await self.request(None, keep=False))

    async def request(self, connection: Connection | None, keep: bool) -> Connection | None:
        """Send a request and count its result; return the connection if it is still usable."""
        path = next(self.paths)
        at, began = time.time(), time.monotonic()
        status, release, cause, kind = 0, None, "", "kept" if connection else "new"
        try:
            async with asyncio.timeout(PATIENCE):
                connection = connection or await self.connect()
                status, body = await connection.ask(self.options.host, path, keep)
        except TimeoutError:
            cause = f"no answer within {PATIENCE} s"
        except (OSError, Unanswered, ValueError, asyncio.LimitOverrunError) as error:
            cause = f"{type(error).__name__}: {error}" if not isinstance(error, Unanswered) else str(error)
        else:
            release = release_in(body)
            cause = "" if 200 <= status < 300 else f"status {status}: {body[:200].decode(errors='replace')}"
        seconds = time.monotonic() - began
        if not self.times:
            print(f"asking https://{self.options.host}", flush=True)
        self.times.append(seconds)
        self.count(at, seconds, path, status, release)
        if cause:
            self.failed += 1
            if len(self.failures) < TOLD:
                when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
                failure = {"at": when, "seconds": round(seconds, 3), "connection": kind, "path": path, "cause": cause}
                self.failures.append(failure)
        if release:
            self.note(connection, at, release)
        if not status:
            connection = self.close(connection)
        return connection

    def count(self, at: float, seconds: float, path: str, status: int, release: str | None) -> None:
        if status:
            self.statuses[status] += 1
        else:
            self.errors += 1
        if release:
            self.releases[release] += 1
        if seconds >= LATE and len(self.late) < TOLD_LATE:
            late = {"at": at, "seconds": seconds, "path": path, "status": status, "release": release}
            self.late.append(late)

    async def connect(self) -> Connection:
        options = self.options
        return Connection(
            *await asyncio.open_connection(
                options.address, options.port, ssl=self.context, server_hostname=options.host
            )
        )

    def note(self, connection: Connection, at: float, release: str) -> None:
        connection.seen = connection.seen or {"from": at, "to": at, "releases": []}
        connection.seen["to"] = time.time()
        if connection.seen["releases"][-1:] != [release]:
            connection.seen["releases"].append(release)

    def close(self, connection: Connection | None) -> None:
        if connection is None:
            return
        connection.writer.close()
        new, last = connection.seen, self.seen[-1] if self.seen else None
        if last and new and last["releases"] == new["releases"] and len(new["releases"]) == 1:
            # One long connection has the same information as a series of connections to the same release.
            last["from"], last["to"] = min(last["from"], new["from"]), max(last["to"], new["to"])
        elif new:
            self.seen.append(new)

    def result(self) -> dict:
        times = sorted(self.times) or [0.0]
        return {
            "seconds": round(time.monotonic() - self.began, 1),
            "requests": len(self.times),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": self.errors,
            "failed": self.failed,
            "failures": self.failures,
            "slowest": round(times[-1], 3),
            "p99": round(times[int(len(times) * 0.99) - 1], 3),
            "late": self.late,
            "releases": dict(self.releases),
            "seen": self.seen,
        }


def summary(result: dict) -> str:
    return (
        f"{result['requests']} requests in {result['seconds']} s: {result['failed']} failed"
        f" ({result['errors']} without an answer), p99 {result['p99']} s, slowest {result['slowest']} s,"
        f" {len(result['releases'])} releases"
    )


async def run(options: argparse.Namespace) -> dict:
    visitors = Visitors(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, visitors.stopped.set)
    if options.seconds:
        loop.call_later(options.seconds, visitors.stopped.set)
    elif stat.S_ISFIFO(os.fstat(0).st_mode):
        # The load ends with its parent, which can be killed.
        loop.add_reader(0, lambda: os.read(0, 4096) or visitors.stopped.set())
    await visitors.visit()
    return visitors.result()


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True, help="address of the server")
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--host", required=True, help="name of the site")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--cafile", help="certificates to trust")
    trust.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument("--path", action="append", help="asked in turn; may be given again (default: /health/)")
    parser.add_argument("--rate", type=float, default=100, help="requests a second in total (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="how long; otherwise until it is stopped")
    parser.add_argument("--out", type=Path, help="file for the result, as JSON")
    options = parser.parse_args(argv)
    options.path = options.path or ["/health/"]
    return options


def main() -> int:
    options = arguments()
    # Real clients have their own machines, so the servers must not slow these down.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    result = asyncio.run(run(options))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(summary(result))
    for failure in result["failures"]:
        print(failure)
    return 1 if result["failed"] or not result["requests"] else 0


if __name__ == "__main__":
    sys.exit(main())
