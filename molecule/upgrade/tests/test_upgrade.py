"""A site before, during and after an upgrade of its server, in this order."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest
from support.play import command, play
from support.runs import ROOT

UPGRADE = """
set -e
export DEBIAN_FRONTEND=noninteractive
sed -i 's/bookworm/trixie/g' $(find /etc/apt -name '*.list' -o -name '*.sources')
apt-get -qq update
apt-get -qq --yes -o Dpkg::Options::=--force-confold full-upgrade
"""
#: Enough of them that a copy takes a while, and an index in an order that comes from a library.
ROWS = (
    "INSERT INTO notes_notice (title, text, created, image, attachment) SELECT 'Notice ' || n, repeat('x', 1000),"
    " now() - interval '1 day', '', '' FROM generate_series(1, 50000) n;"
    ' CREATE INDEX by_title ON notes_notice (title COLLATE \\"de-x-icu\\")'
)
ROW = "from notes.models import Notice; Notice.objects.create(title='Kept', text='over the upgrade')"
COUNT = (
    "SELECT relname, (xpath('/row/count/text()', query_to_xml('SELECT count(*) FROM ' || relname, true, true, '')))[1]"
    " FROM pg_stat_user_tables ORDER BY 1"
)
VERSION = "SELECT current_setting('server_version_num')::int / 10000"


@pytest.fixture(scope="module", autouse=True)
def release_before(site, until) -> str:
    """The release that was active before; the server has the new Debian and has restarted."""
    site.host.check_output(f'runuser -u {site.name} -- psql -Xqc "{ROWS}"')
    site.manage("shell", "-v", "0", "-c", ROW)
    site.manage("shell", "-v", "0", "-c", "from django.core.cache import cache; cache.set('kept', 'too', None)")
    before = site.release
    site.host.check_output(UPGRADE)
    restart(site, "restart", until)
    assert site.host.file("/etc/debian_version").content_string.startswith("13.")
    return before


def restart(site, verb: str, until) -> None:
    subprocess.run(["docker", verb, site.container], check=True, capture_output=True)
    site.note_address()
    until(lambda: site.host.run("systemctl is-system-running --wait").stdout.strip() in ("running", "degraded"))


@pytest.fixture(scope="module")
def rows(site) -> list[str]:
    """The tables of the site before the upgrade, each with the number of its rows."""
    return site.host.check_output(f'runuser -u {site.name} -- psql -XAtqc "{COUNT}"').splitlines()


@pytest.fixture
def now(psql):
    """What the server has at the moment: its version, and the rows of each table."""

    def ask() -> tuple[str, list[str]]:
        return psql(VERSION).stdout.strip(), psql(COUNT).stdout.splitlines()

    return ask


def test_old_postgresql_cluster_is_refused_with_a_fix(site, now, rows):
    done = play("site")
    assert done.returncode != 0
    assert f"PostgreSQL 15 main has port 5432 on {site.container}" in done.stdout
    assert "playbooks/upgrade_postgres.yml" in done.stdout
    assert not re.search("changed=[1-9]", done.stdout)
    assert now() == ("15", rows)
    assert f"notes_notice|{50001}" in rows


def test_upgrade_is_refused_before_anything_is_changed(site, now, rows):
    # Another cluster with data, which the playbook has not made.
    site.host.check_output(
        "pg_createcluster 17 main --start && runuser -u postgres -- psql -p 5433 -c 'CREATE DATABASE other'"
    )
    done = play("upgrade_postgres")
    assert done.returncode != 0
    assert f"15 main and 17 main both have databases on {site.name}" in done.stdout
    assert "Fix: remove 17 main if nothing in it is needed: sudo pg_dropcluster --stop 17 main" in done.stdout
    site.host.check_output("pg_dropcluster --stop 17 main")
    # A setting that is gone.
    done = play("upgrade_postgres", postgres_settings={"old_snapshot_threshold": "1h"})
    assert done.returncode != 0
    assert 'unrecognized configuration parameter "old_snapshot_threshold"' in done.stdout
    assert now() == ("15", rows)


def test_power_cut_in_the_middle_is_survived(site, until, now, rows):
    with subprocess.Popen(
        command("upgrade_postgres"), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    ) as playbook:
        until(lambda: site.host.run("systemctl is-active django_vps-upgrade.service").stdout.strip() == "active")
        os.killpg(playbook.pid, signal.SIGKILL)
    subprocess.run(["docker", "kill", site.container], check=True, capture_output=True)
    site.host.backend.forget()
    restart(site, "start", until)
    # Nothing was exchanged.
    assert now() == ("15", rows)


def test_next_run_completes_the_upgrade(site, now, rows):
    done = play("upgrade_postgres")
    assert done.returncode == 0
    assert now() == ("17", rows)
    assert f"{site.name} public.notes_notice: 50001 rows before, 50001 after" in done.stdout
    assert f"{site.name}: REINDEX INDEX by_title" in done.stdout
    assert re.search(r"PostgreSQL 17 main serves. It was down for \d+ s\.", done.stdout)
    assert "its release cannot run on this Debian. Next: site.yml builds another one" in " ".join(done.stdout.split())
    assert site.host.check_output("pg_lsclusters -h -s | cut -d' ' -f1-4").splitlines() == [
        "15 main 5433 down,manual",
        "17 main 5432 online,auto",
    ]
    analyzed = "SELECT bool_and(last_analyze IS NOT NULL) FROM pg_stat_user_tables"
    assert site.host.check_output(f"runuser -u {site.name} -- psql -XAtqc '{analyzed}'") == "t"


def test_site_is_back_with_a_release_for_the_new_python(site, release_before):
    assert play("site").returncode == 0
    page = site.get("/")
    assert page.status == 200
    assert "over the upgrade" in page.body
    assert site.release != release_before
    assert site.host.check_output(f"/srv/{site.name}/current/venv/bin/python -V").startswith("Python 3.13")
    kept = site.manage("shell", "-v", "0", "-c", "from django.core.cache import cache; print(cache.get('kept'))")
    assert kept.strip() == "too"


@pytest.mark.parametrize("playbook", ["site", "upgrade_postgres"])
def test_second_run_changes_nothing(playbook):
    done = play(playbook)
    assert done.returncode == 0
    assert "changed=0" in done.stdout


def test_way_back_wants_the_name_of_the_site(site, now):
    done = play("upgrade_postgres", back="true")
    assert done.returncode != 0
    assert f"back: expected {site.name}, got true. The way back loses what was written since" in done.stdout
    assert now()[0] == "17"


def test_way_back_and_the_way_forth_keep_the_rows(site, now, rows):
    # What site.yml has migrated is no part of the old cluster, and neither is this.
    site.manage("shell", "-v", "0", "-c", ROW)
    done = play("upgrade_postgres", back=site.name)
    assert done.returncode == 0
    assert now() == ("15", rows)
    assert site.get("/").status == 200
    assert re.search(rf"Downtime of {site.name}: \d+ s\.", done.stdout)
    assert "changed=0" in play("upgrade_postgres", back=site.name).stdout
    # A deploy works with the old cluster; only site.yml would make a new one.
    assert play("deploy").returncode == 0
    assert now() == ("15", rows)
    assert site.get("/").status == 200

    done = play("upgrade_postgres")
    assert done.returncode == 0
    assert now() == ("17", rows)
    assert site.get("/").status == 200
    assert re.search(rf"Downtime of {site.name}: \d+ s\.", done.stdout)


def test_rollback_past_the_upgrade_is_refused(site, release_before):
    done = play("rollback")
    assert done.returncode != 0
    assert f"{release_before} cannot run: the Python that it was built for is gone" in done.stdout
    assert site.get("/health/").status == 200


def test_no_unit_of_the_site_has_failed(site):
    failed = "systemctl list-units --failed --plain --no-legend 'site12*' nginx* postgresql* redis*"
    assert site.host.check_output(failed) == ""
