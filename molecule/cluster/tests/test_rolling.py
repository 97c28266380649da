"""Deploys and rollbacks host by host, and what visitors notice when one of the hosts fails amid them."""

from __future__ import annotations

import json
import re
import threading
from contextlib import ExitStack

import pytest
from conftest import NAME, ROOTS, SOURCE, visit
from support.load import Load, summary
from support.play import play

# Those with a host that fails or dies come to it, while the same visitors are there: five deploys and two rollbacks.
RUNS = ["code", "rollback", "migration", "code"]


def change(what: str, number: int) -> None:
    """Work on the project for a while."""
    with (SOURCE / "notes/static/notes/site.css").open("a") as sheet:
        sheet.write(f"/* {number} */\n")
    if what == "migration":
        latest = max(path.stem for path in (SOURCE / "notes/migrations").glob("0*.py"))
        models = SOURCE / "notes/models.py"
        column = f"    remark_{number} = models.TextField(null=True)\n\n    class Meta:"
        models.write_text(models.read_text().replace("    class Meta:", column, 1))
        (SOURCE / f"notes/migrations/{int(latest[:4]) + 1:04}_remark.py").write_text(
            "from django.db import migrations, models\n\n\nclass Migration(migrations.Migration):\n"
            f"    dependencies = [('notes', '{latest}')]\n"
            f"    operations = [migrations.AddField('notice', 'remark_{number}', models.TextField(null=True))]\n"
        )


def deploy(number: int, *options: str, **variables: str):
    change("code", number)
    return play("deploy", *options, django_version=f"v{number}", **variables)


def lives(hosts) -> list[str]:
    return [hosts[name].live for name in ("app1", "app2")]


@pytest.fixture(scope="module")
def visitors(hosts, request):
    """Of both web hosts, while all of this goes on."""
    with ExitStack() as during:
        loads = [
            during.enter_context(Load(hosts[name].address, NAME, path=["/health/"] * 5 + ["/"], rate=5, cafile=ROOTS))
            for name in ("web1", "web2")
        ]
        yield
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        for load in loads:
            print(f"\n{summary(load.result())}")
    assert [load.result()["failures"] for load in loads] == [[], []]


@pytest.mark.usefixtures("visitors")
def test_each_run_brings_the_same_release_to_all_hosts(hosts):
    was = lives(hosts)
    assert len(set(was)) == 1
    seen = [was[0]]
    for number, what in enumerate(RUNS):
        if what == "rollback":
            done = play("rollback", django_rollback_migrations="keep")
        else:
            change(what, number)
            done = play("deploy", django_version=f"v{number}")
        assert done.returncode == 0, done.stdout[-3000:]
        now = lives(hosts)
        assert len(set(now)) == 1
        assert now[0] != seen[-1]
        seen.append(now[0])
    # Back is back to the release before.
    assert seen[2] == seen[0]
    idle = play("deploy", django_version=f"v{len(RUNS) - 1}")
    assert len(re.findall(r"changed=0 ", idle.stdout)) >= 2


@pytest.mark.usefixtures("visitors")
def test_failed_host_stops_the_roll_and_next_run_completes_it(hosts):
    (before,) = set(lives(hosts))
    hosts["app2"].run(
        "mkdir -p /run/systemd/system/shop-gunicorn@.service.d &&"
        " printf '[Service]\\nExecStartPre=/bin/false\\n' > /run/systemd/system/shop-gunicorn@.service.d/fail.conf &&"
        " systemctl daemon-reload"
    )
    try:
        done = deploy(20)
    finally:
        hosts["app2"].run("rm -r /run/systemd/system/shop-gunicorn@.service.d && systemctl daemon-reload")
    assert done.returncode != 0
    new, old = lives(hosts)
    assert (new != before, old) == (True, before)
    assert f"- {hosts['app1'].container}: {new}" in done.stdout
    assert f"- {hosts['app2'].container}: {old}" in done.stdout
    # Pages of both releases are about, and each finds its stylesheet wherever it asks.
    sheets = [sheet(hosts[name]) for name in ("app1", "app2")]
    assert len(set(sheets)) == 2
    for path in sheets:
        assert {hosts["web1"].ask(hosts[name], path)[0] for name in ("app1", "app2")} == {200}
        assert {
            visit(hosts[name], path, "-o", "/dev/null", "-w", "%{http_code}").stdout
            for name in ("web1", "web2")
            for _ in range(4)
        } == {"200"}
    # A rollback brings back the one that still serves elsewhere, not the one before that.
    back = play("rollback")
    assert back.returncode == 0, back.stdout[-3000:]
    assert lives(hosts) == [before, before]
    done = play("deploy", django_version="v20")
    assert done.returncode == 0, done.stdout[-3000:]
    assert len({*lives(hosts)}) == 1
    assert lives(hosts)[0] not in (before, new)


def sheet(app) -> str:
    (name,) = app.run("cd /srv/shop/current/static && ls notes/site.????????????.css").split()
    return f"/static/{name}"


@pytest.mark.usefixtures("visitors")
def test_dead_host_stops_the_roll_and_catches_up_on_return(hosts, until):
    (before,) = set(lives(hosts))
    change("code", 21)
    over = threading.Event()
    dead = threading.Thread(target=kill_once_the_first_has_switched, args=(hosts, before, over))
    dead.start()
    done = play("deploy", django_version="v21")
    over.set()
    dead.join()
    assert done.returncode != 0
    assert "is not reachable" in done.stdout
    assert hosts["app1"].live != before
    # Deploys go on without it.
    done = deploy(22, "--limit", f"!{hosts['app2'].container}")
    assert done.returncode == 0, done.stdout[-3000:]
    hosts["app2"].docker("start")
    until(lambda: hosts["web1"].ask(hosts["app2"], "/health/")[0] == 200)
    assert hosts["app2"].live == before
    done = play("deploy", django_version="v22")
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(set(lives(hosts))) == 1


def kill_once_the_first_has_switched(hosts, before: str, over: threading.Event) -> None:
    while hosts["app1"].live == before:
        if over.wait(0.2):
            return
    hosts["app2"].docker("kill")


def test_uploads_that_stay_on_one_host_are_refused(hosts):
    (before,) = set(lives(hosts))
    hosts["app2"].run("umount --lazy /srv/shop/media")
    try:
        done = deploy(23)
    finally:
        hosts["app2"].run("systemctl start srv-shop-media.mount")
    assert done.returncode != 0
    assert "notes.Notice.image" in done.stdout
    assert "mount a network file system at /srv/shop/media" in done.stdout
    assert lives(hosts) == [before, before]


def test_new_app_host_gets_requests_once_it_serves(hosts):
    app = hosts["app2"]
    # All that makes it one of the site's.
    app.run("systemctl stop nginx 'shop-gunicorn@*.socket' 'shop-gunicorn@*.service'")
    app.run("rm -r /srv/shop/releases /srv/shop/current /srv/shop/journal /etc/shop/secret_key")
    assert play("site", "--tags", "nginx").returncode == 0
    assert app.host.service("nginx").is_running
    # A form that is sent twice could be done twice, so nobody tries another host for it.
    answers = [visit(hosts["web1"], "/", "-d", "x=1", "-w", "%{http_code}", "-o", "/dev/null") for _ in range(6)]
    assert {answer.stdout for answer in answers} == {"403"}
    done = play("site", django_version="v23")
    assert done.returncode == 0, done.stdout[-3000:]
    assert app.live == hosts["app1"].live
    assert app.run("cat /etc/shop/secret_key") == hosts["app1"].run("cat /etc/shop/secret_key")
    before = app.run("wc -l < /var/log/nginx/access.log")
    for _ in range(6):
        assert visit(hosts["web1"], "/health/").returncode == 0
    assert int(app.run("wc -l < /var/log/nginx/access.log")) > int(before)


def test_journal_of_each_host_records_its_switches(app):
    last = json.loads(app.run("tail -n 1 /srv/shop/journal"))
    assert last["to"] == app.live
    assert last["what"] == "v23"
