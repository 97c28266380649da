"""Twelve deploys and four rollbacks, half of them on a second server too, and what visitors noticed of them."""

from __future__ import annotations

import calendar
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import EPHEMERAL, PROJECT, servers
from support import runs
from support.load import Load, summary, went_back
from support.play import play

SOURCE = EPHEMERAL / "project"

# What each run brings; a rollback takes it back. While the first ones run, somebody always waits for the slow page;
# not during all, because a run is over when those whom the release before serves have been served.
SLOW_RUNS = ["code", "code", "migration", "code", "rollback"]
RUNS = [
    *SLOW_RUNS,
    *("code", "packages", "code", "rollback", "rollback", "migration", "code", "rollback"),
    *("code", "nothing, by force", "code"),
]
# All of them behind WSGI; under ASGI each kind, and the last ones, so that both end with the same source.
WHERE = {"site13": range(len(RUNS)), "site12": (0, 1, 2, 3, 4, 6, 8, 14, 15)}

REQUESTS = 50_000
# Who asks which share of them; under ASGI each one opens a connection to the database.
SHARES = {"site13": 0.88, "site12": 0.12}
# Requests a second at most. On a machine so slow that the runs take longer, as many as come to the same in the end: at
# the full rate it would have no time left for the runs. A run takes about five times as long as one without a change.
RATE = 187
EFFORT = 5

# Run on a server: where does `current` lead, a thousand times a second, until the end of the standard input?
WATCH = """
import json, os, sys, threading, time

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set())).start()
current = f"/srv/{sys.argv[1]}/current"
looks, failures, led = 0, [], []
while not over.wait(0.001):
    looks += 1
    try:
        os.stat(f"{current}/gunicorn.sock")
        release = os.path.basename(os.readlink(current))
    except OSError as error:
        failures.append([time.time(), str(error)])
    else:
        if not led or led[-1][1] != release:
            led.append([time.time(), release])
print(json.dumps({"looks": looks, "failures": failures, "led": led}))
"""


class Server:
    """One of the servers, and what was noted of it."""

    def __init__(self, container: str) -> None:
        self.container, self.site = container, container.split("-")[0]
        self.releases = [self.live()]
        self.kinds = []
        self.runs = []

    def live(self) -> str:
        argv = ["docker", "exec", self.container, "readlink", f"/srv/{self.site}/current"]
        return Path(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()).name

    def visitors(self, **options) -> Load:
        address = (EPHEMERAL / f"{self.container}.address").read_text()
        return Load(address, f"{self.site}.example.test", **options)

    @contextmanager
    def watch(self):
        argv = ["docker", "exec", "--interactive", self.container, "python3", "-c", WATCH, self.site]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            yield
        finally:
            self.current = json.loads(process.communicate()[0])


def run(playbook: str, host: Server, **variables: str) -> str:
    """Run a playbook on one server, and return what it says."""
    began = time.time()
    done = play(playbook, "--limit", host.container, **variables)
    host.runs.append((began, time.time()))
    assert done.returncode == 0
    return done.stdout


def change(what: str, number: int) -> None:
    """Work on the project for a while."""
    with (SOURCE / "notes/static/notes/site.css").open("a") as sheet:
        sheet.write(f"/* {number} */\n")
    if what == "migration":
        models = SOURCE / "notes/models.py"
        column = f"    remark_{number} = models.TextField(null=True)\n\n    class Meta:"
        models.write_text(models.read_text().replace("    class Meta:", column, 1))
        argv = [sys.executable, "manage.py", "makemigrations", "notes"]
        subprocess.run(argv, cwd=SOURCE, env={**os.environ, "DEBUG": "1"}, check=True, capture_output=True)
    if what == "packages":
        locked = (PROJECT / "requirements-dev.txt").read_text()
        with (SOURCE / "requirements.txt").open("a") as requirements:
            requirements.write(re.search(r"^iniconfig==(.*\\\n)+.*\n", locked, re.MULTILINE).group())


def carry_out(numbers: range, hosts: list[Server]) -> None:
    for number in numbers:
        what = RUNS[number]
        if what not in ("rollback", "nothing, by force"):
            change(what, number)
        # One after the other: a server has two cores or more for itself, and here all of them share two.
        for host in (host for host in hosts if number in WHERE[host.site]):
            host.kinds.append(what)
            if what == "rollback":
                run("rollback", host)
            elif what == "nothing, by force":
                run("deploy", host, django_force_release="true")
            else:
                run("deploy", host, django_version=f"v{number}")
            host.releases.append(host.live())


@pytest.fixture(scope="session")
def alone():
    """The machine, once all that shares it has ended: here it is measured what visitors wait for."""
    with runs.alone():
        yield


@pytest.fixture(scope="session")
def rollout(request, alone):
    """All runs, and what came of them on each server."""
    hosts = [Server(container) for container in servers()]
    began = time.monotonic()
    run("deploy", hosts[0])
    expected = EFFORT * (time.monotonic() - began) * sum(map(len, WHERE.values()))
    rate = min(RATE, REQUESTS / expected)
    began = time.monotonic()
    with ExitStack() as during:
        for host in hosts:
            during.enter_context(host.watch())
            pages = ["/health/"] * 7 + ["/"]
            host.load = during.enter_context(host.visitors(path=pages, rate=rate * SHARES[host.site]))
        with ExitStack() as meanwhile:
            for host in hosts:
                host.slow = meanwhile.enter_context(host.visitors(path=["/slow/"], rate=0.5))
            carry_out(range(len(SLOW_RUNS)), hosts)
        carry_out(range(len(SLOW_RUNS), len(RUNS)), hosts)
        for host in hosts:
            host.idle = run("deploy", host)
        seconds = time.monotonic() - began
        # Where deploys are quick, the visitors have yet to come; not all that were due have asked.
        time.sleep(max(0, 1.1 * REQUESTS / rate - seconds))
    for host in hosts:
        host.ordinary, host.waited = host.load.result(), host.slow.result()
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{sum(map(len, WHERE.values()))} runs in {seconds:.0f} s, of which {expected:.0f} were expected")
        for host in hosts:
            print(f"{host.site}: {summary(host.ordinary)}; the slow page: {summary(host.waited)}")
    return {host.site: host for host in hosts}


@pytest.fixture
def server(site, rollout):
    return rollout[site.name]


@pytest.fixture
def journal(site):
    return [json.loads(line) for line in site.host.file(f"/srv/{site.name}/journal").content_string.splitlines()]


def test_deploy_is_a_new_release_and_rollback_the_previous(server):
    live, *later = server.releases
    before = {live: None}
    for what, release in zip(server.kinds, later, strict=True):
        if what == "rollback":
            assert release == before[live]
        else:
            assert release not in before
            before[release] = live
        live = release


def test_no_request_fails_in_any_run(server):
    assert server.ordinary["failures"] == []
    assert list(server.ordinary["statuses"]) == ["200"]


def test_load_has_enough_requests(rollout):
    assert sum(server.ordinary["requests"] for server in rollout.values()) >= REQUESTS


def test_clients_wait_no_longer_during_runs_than_between(server):
    late = {True: [], False: []}
    for one in server.ordinary["late"]:
        amid = any(began < one["at"] + one["seconds"] and one["at"] < ended for began, ended in server.runs)
        late[amid].append(one["seconds"])
    # Nothing is done here while the other server has its run: those who wait then wait for the cores that both share.
    assert max(late[True], default=0) <= max(late[False], default=0), server.ordinary["late"]


def test_a_request_of_six_seconds_outlives_the_switch(server):
    assert server.waited["failures"] == []
    switches = [at for at, _ in server.current["led"][1 : len(SLOW_RUNS) + 1]]
    for switch in switches:
        under_way = [one for one in server.waited["late"] if one["at"] < switch < one["at"] + one["seconds"]]
        assert under_way
        assert {one["status"] for one in under_way} == {200}


def test_no_connection_returns_to_a_retired_release(server, journal):
    assert set(server.releases) == set(server.ordinary["releases"])
    assert went_back(server.ordinary["seen"], journal) == []
    assert went_back(server.waited["seen"], journal) == []


def test_current_always_points_to_a_socket(server):
    assert server.current["failures"] == []
    assert server.current["looks"] > 100 * server.ordinary["seconds"]
    assert [release for _, release in server.current["led"]] == server.releases


def test_the_journal_has_one_line_for_each_switch(server, journal):
    # The image of the server came with another release.
    journal = journal[1:]
    assert [entry["to"] for entry in journal] == server.releases
    assert [entry["from"] for entry in journal[1:]] == server.releases[:-1]
    assert all(entry["who"] and entry["seconds"] > 0 for entry in journal)
    for entry, (at, _) in zip(journal[1:], server.current["led"][1:], strict=True):
        noted = time.strptime(entry["at"], "%Y-%m-%dT%H:%M:%SZ")
        assert abs(at - calendar.timegm(noted)) <= 2


def test_a_deploy_of_the_same_source_changes_nothing(server):
    (recap,) = re.findall(rf"^{server.container} .*$", server.idle, re.MULTILINE)
    assert "changed=0 " in recap


def test_a_deploy_by_force_is_a_new_release_of_the_same_source(site, server):
    print(site.host.check_output(f"cat /srv/{site.name}/releases/*/release.json"))
    number = server.kinds.index("nothing, by force") + 1
    assert server.releases[number] not in server.releases[:number]


def test_stylesheet_of_the_previous_release_is_still_served(site, journal):
    folder = f"/srv/{site.name}/releases/{journal[-1]['from']}/static/"
    (sheet,) = site.host.check_output(f"cd {folder} && ls notes/site.????????????.css").split()
    assert not site.host.file(f"/srv/{site.name}/current/static/{sheet}").exists
    answer = site.get(f"/static/{sheet}", "--insecure")
    assert answer.status == 200, answer.error
    assert answer.body == site.host.file(f"{folder}{sheet}").content_string


def test_last_releases_are_kept_and_older_are_removed(site, server, journal):
    kept = set(site.host.check_output(f"ls /srv/{site.name}/releases").split())
    last = list(dict.fromkeys(reversed(server.releases)))[:5]
    assert kept == {*last, journal[-1]["from"]}


def test_only_the_live_release_runs(site, server):
    listed = site.host.check_output(f"systemctl list-units --all --plain --no-legend '{site.name}-gunicorn@*'")
    running = {line.split()[0] for line in listed.splitlines() if line.split()[2] != "inactive"}
    assert running == {f"{site.name}-gunicorn@{server.releases[-1]}.{kind}" for kind in ("service", "socket")}


def through_pooler(site, user: str, role: str, database: str):
    """Connect as a system user of the host."""
    query = f"psql -XAtqw -h /run/{site.name}-pgbouncer -U {role} -d {database} -c 'SHOW server_version'"
    return site.host.run(f"cd / && runuser -u {user} -- {query}")


def test_only_the_user_of_the_site_can_use_its_pooler(site):
    assert through_pooler(site, site.name, site.name, site.name).rc == 0
    # Root gets past the mode of the folder, and is asked for its name all the same.
    for user, role, database in (
        ("www-data", site.name, site.name),
        ("root", site.name, site.name),
        ("root", "postgres", "postgres"),
        ("root", "pgbouncer", "pgbouncer"),
        (site.name, "postgres", site.name),
        (site.name, site.name, "postgres"),
        (site.name, site.name, "pgbouncer"),
    ):
        assert through_pooler(site, user, role, database).rc != 0, (user, role, database)
    assert "pgbouncer" not in site.host.check_output("ss -Hltunp")
    (process,) = site.host.check_output("pgrep -x pgbouncer").split()
    assert site.host.check_output(f"ps -o user= -p {process}") == site.name


def test_requests_go_through_the_pooler_and_manage_does_not(site, until):
    unit = f"{site.name}-pgbouncer"
    site.host.check_output(f"systemctl stop {unit}")
    try:
        assert site.get("/", "--insecure").status == 500
        assert "[ ]" not in site.manage("showmigrations")
    finally:
        site.host.check_output(f"systemctl start {unit}")
    assert site.get("/", "--insecure").status == 200
    site.host.check_output("systemctl restart 'postgresql@*'")
    until(lambda: site.get("/", "--insecure").status == 200, 10)


def test_no_request_fails_when_the_pooler_is_removed(rollout, sites):
    (site,) = [site for site in sites if site.name == "site13"]
    server = rollout[site.name]
    with server.visitors(path=["/health/", "/"], rate=10) as load:
        done = play("site", "--limit", server.container, site_database_pooler="none")
    assert done.returncode == 0
    assert load.result()["failures"] == []
    assert server.live() != server.releases[-1]
    site.host.run_expect([4], f"systemctl status {site.name}-pgbouncer")
    assert (
        site.host.run(
            f"ls /run/{site.name}-pgbouncer /etc/{site.name}/pgbouncer* /etc/{site.name}/database_direct"
        ).stdout
        == ""
    )
    assert site.get("/", "--insecure").status == 200
