"""A site before, during and after an upgrade of its server, in this order."""

from __future__ import annotations

import subprocess

import pytest
from support.play import play

UPGRADE = """
set -e
export DEBIAN_FRONTEND=noninteractive
sed -i 's/bookworm/trixie/g' $(find /etc/apt -name '*.list' -o -name '*.sources')
apt-get -qq update
apt-get -qq --yes -o Dpkg::Options::=--force-confold full-upgrade
"""
ROW = "from notes.models import Notice; Notice.objects.create(title='Kept', text='over the upgrade')"


@pytest.fixture(scope="module", autouse=True)
def release_before(site, until) -> str:
    """The release that was active before; the server has the new Debian and has restarted."""
    site.manage("shell", "-v", "0", "-c", ROW)
    site.manage("shell", "-v", "0", "-c", "from django.core.cache import cache; cache.set('kept', 'too', None)")
    before = site.release
    site.host.check_output(UPGRADE)
    subprocess.run(["docker", "restart", site.container], check=True, capture_output=True)
    site.note_address()
    until(lambda: site.host.run("systemctl is-system-running --wait").stdout.strip() in ("running", "degraded"))
    assert site.host.file("/etc/debian_version").content_string.startswith("13.")
    return before


def test_old_cluster_is_refused_with_the_way_out(site, psql):
    done = play("site")
    assert done.returncode != 0
    assert f"PostgreSQL 15 main has port 5432 on {site.container}" in done.stdout
    assert "sudo pg_upgradecluster 15 main" in done.stdout
    assert psql("SELECT title FROM notes_notice WHERE title = 'Kept'").stdout.strip() == "Kept"


def test_site_is_back_once_its_data_has_moved(site, release_before):
    site.host.check_output("pg_upgradecluster 15 main")
    assert play("site").returncode == 0
    page = site.get("/")
    assert page.status == 200
    assert "over the upgrade" in page.body
    assert site.release != release_before
    assert site.host.check_output(f"/srv/{site.name}/current/venv/bin/python -V").startswith("Python 3.13")
    kept = site.manage("shell", "-v", "0", "-c", "from django.core.cache import cache; print(cache.get('kept'))")
    assert kept.strip() == "too"


def test_second_run_changes_nothing(site):
    done = play("site")
    assert done.returncode == 0
    assert "changed=0" in done.stdout


def test_rollback_past_the_upgrade_is_refused(site, release_before):
    done = play("rollback")
    assert done.returncode != 0
    assert f"{release_before} cannot run: the Python that it was built for is gone" in done.stdout
    assert site.get("/health/").status == 200


def test_no_unit_of_the_site_has_failed(site):
    failed = "systemctl list-units --failed --plain --no-legend 'site12*' nginx* postgresql* redis*"
    assert site.host.check_output(failed) == ""
