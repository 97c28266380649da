"""A database on two hosts: one takes the writes, the other follows, and they change places."""

from __future__ import annotations

import re

from conftest import NAME, ROOTS, visit
from support.load import Load, summary
from support.play import play


def sql(host, query: str) -> str:
    return host.run(f'cd / && runuser -u postgres -- psql -XAtq -d shop -c "{query}"')


def follows(host) -> bool:
    return sql(host, "SELECT pg_is_in_recovery()") == "t"


def in_sync(first, second, until) -> None:
    """Wait until the one that follows has all that the other one has."""
    sent = sql(first, "SELECT pg_current_wal_lsn()")
    until(lambda: sql(second, f"SELECT pg_last_wal_replay_lsn() >= '{sent}'") == "t", 20)


def post(hosts, title: str, tmp_path) -> None:
    """What a visitor writes."""
    jar = ["--cookie", str(tmp_path / "jar"), "--cookie-jar", str(tmp_path / "jar")]
    page = visit(hosts["web1"], "/", *jar).stdout
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    form = {"csrfmiddlewaretoken": token, "title": title, "text": "so it is"}
    fields = [word for name, value in form.items() for word in ("-F", f"{name}={value}")]
    done = visit(hosts["web1"], "/", *jar, *fields, "-H", f"Referer: https://{NAME}/", "-D", "-")
    assert done.stdout.startswith("HTTP/2 302"), done.stdout


def titles(host) -> list[str]:
    return sql(host, "SELECT title FROM notes_notice").splitlines()


def test_standby_replicates_the_primary(hosts, until, tmp_path):
    first, second = hosts["db1"], hosts["db2"]
    assert (follows(first), follows(second)) == (False, True)
    post(hosts, "Written on the first", tmp_path)
    in_sync(first, second, until)
    assert "Written on the first" in titles(second)


def test_project_reads_from_the_standby(hosts, app):
    program = "from django.db import connections; from notes.models import Notice; q = connections['replica'].cursor();"
    program += (
        " q.execute('SELECT inet_server_addr(), pg_is_in_recovery()'); print(Notice.objects.all().db, *q.fetchone())"
    )
    assert f"replica {hosts['db2'].address} True" in app.run(f'shop-manage shell -v 0 -c "{program}"')


def test_no_request_fails_during_switchover(hosts, until, request, tmp_path):
    first, second = hosts["db1"], hosts["db2"]
    with (
        Load(hosts["web1"].address, NAME, path=["/health/", "/"], rate=5, cafile=ROOTS) as one,
        Load(hosts["web2"].address, NAME, path=["/health/", "/"], rate=5, cafile=ROOTS) as other,
    ):
        done = play("promote", nice=0)
        assert done.returncode == 0, done.stdout[-3000:]
        assert (follows(first), follows(second)) == (True, False)
        post(hosts, "Written on the second", tmp_path)
        in_sync(second, first, until)
        assert "Written on the second" in titles(first)
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{summary(one.result())}\n{summary(other.result())}")
    assert one.result()["failures"] == other.result()["failures"] == []


def test_next_run_keeps_the_promoted_primary(hosts, run_with_nothing_to_do):
    assert not re.search("changed=[1-9]", run_with_nothing_to_do.stdout)
    assert (follows(hosts["db1"]), follows(hosts["db2"])) == (True, False)


def test_dead_primary_is_replaced_and_refused_on_return(hosts, until, tmp_path):
    first, second = hosts["db1"], hosts["db2"]
    second.docker("kill")
    done = play("promote", "--limit", f"!{second.container}")
    assert done.returncode == 0, done.stdout[-3000:]
    until(lambda: '"ok"' in visit(hosts["web1"], "/health/").stdout, 30)
    post(hosts, "Written after the end of the second", tmp_path)
    assert "Written after the end of the second" in titles(first)

    second.docker("start")
    until(lambda: second.host.run("pg_isready").rc == 0)
    done = play("site", "--tags=postgres")
    assert done.returncode != 0
    assert f"{first.container} and {second.container} are both primaries" in done.stdout
    assert "Written after the end of the second" in titles(first)
    (advice,) = set(re.findall(r"pg_dropcluster --stop \d+ main && pg_createcluster \d+ main", done.stdout))
    # A deploy is none of its business.
    done = play("deploy")
    assert done.returncode == 0, done.stdout[-3000:]

    second.run(advice)
    done = play("site", "--tags=postgres")
    assert done.returncode == 0, done.stdout[-3000:]
    assert (follows(first), follows(second)) == (False, True)
    in_sync(first, second, until)
    assert "Written after the end of the second" in titles(second)
