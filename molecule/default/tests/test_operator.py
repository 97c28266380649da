"""The host as the person sees it who runs it."""

import getpass
import json
import re
import socket
import time

import pytest
from support.load import Load
from support.play import INVENTORY, play


def test_host_has_no_failed_units(host):
    assert host.check_output("systemctl is-system-running") == "running"
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def test_nginx_warns_of_nothing(host):
    checked = host.run("nginx -t")
    assert checked.rc == 0
    assert "warn" not in checked.stderr


def test_django_deployment_check_has_no_warnings(site):
    report = site.host.run(f"{site.name}-manage check --deploy --fail-level WARNING")
    assert report.rc == 0
    assert "no issues (0 silenced)" in report.stdout + report.stderr


@pytest.mark.parametrize(
    ("unit", "limit"),
    [
        ("{site.name}-gunicorn@{site.release}.service", 2.0),
        ("nginx.service", 4.5),
        ("postgresql@*.service", 4.5),
        ("fail2ban.service", 4.5),
        ("certbot.service", 4.5),
    ],
)
def test_services_are_sandboxed(site, unit, limit):
    unit = site.host.check_output(f"systemctl show -P Id '{unit.format(site=site)}'")
    report = site.host.check_output(f"systemd-analyze security --no-pager {unit}")
    assert float(re.search(r"Overall exposure level.*?: ([\d.]+)", report).group(1)) <= limit
    main = site.host.check_output(f"systemctl show -P MainPID {unit}")
    # certbot runs twice a day.
    assert main == "0" or "Seccomp:\t2" in site.host.check_output(f"cat /proc/{main}/status")


def test_a_set_is_made_and_can_be_restored(site):
    # The scenario backup has what happens to sets; the versions of restic and PostgreSQL differ.
    for unit in (f"{site.name}-backup", f"{site.name}-backup-drill"):
        site.host.check_output(f"systemctl start {unit}.service")
    assert "newest set that was restored in a test" in site.host.check_output(f"{site.name}-backup status")


def test_gunicorn_logs_to_the_journal(site):
    unit = f"{site.name}-gunicorn@{site.release}.service"
    assert "Booting worker" in site.host.check_output(f"journalctl --no-pager -u {unit}")


def test_requests_wait_while_the_service_is_restarted(site):
    unit = f"{site.name}-gunicorn@{site.release}.service"
    before = site.host.check_output(f"systemctl show -P MainPID {unit}")
    with Load(site.address, site.canonical, path=["/health/", "/"], rate=10) as load:
        site.host.check_output(f"systemctl restart '{site.name}-gunicorn@*.service'")
        time.sleep(1)
    assert site.host.check_output(f"systemctl show -P MainPID {unit}") != before
    assert load.result()["failures"] == []


def test_manage_runs_as_the_site_with_its_environment(site):
    code = "import os; print(os.getuid(), os.environ['RELEASE'], os.environ['AWKWARD'])"
    uid, release, awkward = site.manage("shell", "-v", "0", "-c", code.replace("'", '"')).split(" ", 2)
    assert uid == site.host.check_output(f"id -u {site.name}")
    assert release == site.release
    assert awkward.strip() == "a$b'c\"d %f\\ # `e`"


def test_the_running_workers_have_the_same_environment(site):
    pid = site.host.check_output(f"systemctl show -P MainPID {site.name}-gunicorn@{site.release}.service")
    environment = dict(
        line.split("=", 1) for line in site.host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    )
    assert environment["AWKWARD"] == "a$b'c\"d %f\\ # `e`"
    assert environment["DEBUG"] == "False"
    # The side effect of the scenario changed these, which made a new release.
    assert environment["API_TOKEN"].startswith("canary-of-")
    assert environment["SECRET_KEY"] == environment["DJANGO_SECRET_KEY"]
    assert environment["SECRET_KEY"].startswith("canary-of-")


def test_the_secret_key_that_was_made_on_the_host_is_kept(site):
    first = site.host.check_output(f"ls /srv/{site.name}/releases | head -1")
    made = site.host.check_output(f"cat /etc/{site.name}/secret_key")
    assert len(made) >= 50
    assert f'SECRET_KEY="{made}"' in site.host.check_output(f"cat /srv/{site.name}/releases/{first}/env")


def test_the_database_has_checksums_and_utf_8(psql):
    assert psql("SHOW data_checksums", user="postgres").stdout.strip() == "on"
    assert psql("SHOW server_encoding").stdout.strip() == "UTF8"


#: Writes rows one by one, and notes those of which PostgreSQL has said that they are committed.
WRITE = """
for n in $(seq 100000); do
  psql -XAtq -d {name} -c "INSERT INTO kept VALUES ($n)" && echo $n >> {folder}/committed
done
"""


@pytest.mark.parametrize(
    "victim",
    ["$(pgrep -u postgres -f '^postgres: .*: checkpointer')", "$(head -1 /var/lib/postgresql/*/main/postmaster.pid)"],
    ids=["one of its processes", "the server"],
)
def test_no_committed_row_is_lost_when_postgresql_is_killed(site, psql, until, victim):
    assert psql("CREATE TABLE kept (n int)").rc == 0
    host = site.host
    folder = host.check_output(f"runuser -u {site.name} -- mktemp -d /var/tmp/kept.XXXXXX")
    unit = f"{site.name}-writer"

    def committed() -> set[str]:
        return set(host.run(f"cat {folder}/committed").stdout.split())

    try:
        host.check_output(
            f"systemd-run --quiet --unit={unit} --uid={site.name} sh -c %s", WRITE.format(name=site.name, folder=folder)
        )
        until(lambda: len(committed()) > 10)
        host.check_output(f"kill -9 {victim}")
        before = committed()
        # More than the one insert that the kill may have met is refused until the server is back.
        until(lambda: len(committed() - before) > 1, 15)
        until(lambda: site.get("/health/").status == 200, 10)
        host.check_output(f"systemctl stop {unit}")
        assert committed() <= set(psql("SELECT n FROM kept").stdout.split())
    finally:
        host.run(f"systemctl stop {unit}; rm -rf {folder}")
        psql("DROP TABLE kept")


def test_postgresql_fits_the_host_and_logs_slow_statements(site, psql):
    # An eighth of the memory, because gunicorn has the other half of the host.
    megabytes = int(psql("SELECT setting::int / 128 FROM pg_settings WHERE name = 'shared_buffers'").stdout)
    memory = int(site.host.check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo")) // 1024
    assert min(memory / 8, 8192) <= megabytes <= memory / 6
    assert psql("SELECT count(*) FROM pg_settings WHERE pending_restart").stdout.strip() == "0"
    assert psql("SELECT pg_sleep(1.01), 'slow on purpose'").rc == 0
    assert "slow on purpose" in site.host.check_output("grep -h 'duration: 1' /var/log/postgresql/*.log")
    asked = psql("SELECT query FROM pg_stat_statements WHERE query LIKE '%pg_sleep%'", "postgres", "postgres")
    assert "pg_sleep" in asked.stdout


def test_site_has_extensions_that_it_cannot_create(psql):
    assert psql("SELECT extname FROM pg_extension").stdout.split() == ["plpgsql", "pgstattuple", "prefix"]
    assert "ermission denied" in psql("CREATE EXTENSION pageinspect").stderr


def test_valkey_data_survives_a_killed_server(site, until):
    def cache(code: str) -> str:
        done = site.host.run(f"{site.name}-manage shell -v 0 -c 'from django.core.cache import cache; {code}'")
        return done.stdout.strip()

    cache('cache.set("kept", "still here", None)')
    # What was written within the last second may be lost.
    time.sleep(1.5)
    site.host.check_output(f"systemctl kill --signal=KILL --kill-whom=main '*-server@{site.name}.service'")
    until(lambda: cache('print(cache.get("kept")); cache.delete("kept")') == "still here", 15)


#: A setting that each server refuses, what it says then, its unit and where its settings are.
REFUSED = {
    "valkey": (
        {"maxmemory": "lots"},
        "argument must be a memory value",
        "*-server@{name}.service",
        "/etc/*/*-{name}.conf",
    ),
    "postgres": (
        {"work_mem": "lots"},
        'invalid value for parameter "work_mem"',
        "postgresql@*-main.service",
        "/etc/postgresql",
    ),
}


def settings_of(site) -> dict[str, str]:
    return {
        tag: site.host.check_output(f"find {files.format(name=site.name)} -type f -exec sha256sum '{{}}' + | sort")
        for tag, (_, _, _, files) in REFUSED.items()
    }


@pytest.mark.parametrize("tag", REFUSED)
def test_refused_setting_of_a_server_changes_nothing(sites, tag):
    settings, said, unit, _ = REFUSED[tag]

    def state(site) -> tuple[str, str]:
        running = site.host.check_output(f"systemctl show -P MainPID '{unit.format(name=site.name)}'")
        return settings_of(site)[tag], running

    before = [state(site) for site in sites]
    done = play("site", f"--tags={tag}", **{f"{tag}_settings": settings})
    assert done.returncode != 0
    assert said in done.stdout.replace('\\"', '"')
    assert [state(site) for site in sites] == before


def test_no_folder_is_made_beside_the_data(host):
    """Ansible warns of one that it makes in the home of a user."""
    assert host.check_output("ls -A /var/lib/postgresql").split() == [host.check_output("ls /etc/postgresql")]


def test_setting_that_breaks_postgresql_start_is_reverted(sites, until):
    before = [settings_of(site)["postgres"] for site in sites]
    done = play("site", "--tags=postgres", postgres_settings={"shared_preload_libraries": "pgaudit"})
    assert done.returncode != 0
    assert done.stdout.replace('\\"', '"').count('FATAL:  could not access file "pgaudit"') >= len(sites)
    assert [settings_of(site)["postgres"] for site in sites] == before
    for site in sites:
        until(lambda site=site: site.get("/health/").status == 200, 10)


def test_servers_settle_in_one_run_after_refused_settings(sites):
    before = [settings_of(site) for site in sites]
    tags = f"--tags={','.join(REFUSED)}"
    # What was put back counts as changed, and the servers are restarted.
    assert play("site", tags).returncode == 0
    assert [settings_of(site) for site in sites] == before
    assert not re.search("changed=[1-9]", play("site", tags).stdout)


@pytest.mark.parametrize("service", ["nginx.service", "{name}-gunicorn@{release}.service"])
def test_killed_service_is_restarted(site, unit, service, until):
    name = service.format(name=site.name, release=site.release)
    assert unit(name).is_running
    site.host.check_output(f"systemctl kill --signal=KILL --kill-whom=main {name}")
    until(lambda: site.get("/health/").status == 200, 5)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("site13", "rm {release}/gunicorn.sock"),
        ("site12", "chmod 0600 {release}/gunicorn.sock"),
        ("site13", "chmod 0700 {release}"),
    ],
)
def test_unreachable_live_release_is_reported_and_fixed(sites, name, harm):
    (site,) = [site for site in sites if site.name == name]
    # As it was deployed last (side_effect.yml): else this would be another release.
    deploy = "deploy", "--limit", site.container, f"--extra-vars=@{INVENTORY.with_name('secrets.json')}"
    site.host.check_output(harm.format(release=f"/srv/{name}/releases/{site.release}"))
    assert site.get("/health/").status == 502
    said = play("status", "--limit", site.container)
    assert said.returncode != 0
    assert f"release {site.release}: " in said.stdout
    done = play(*deploy)
    assert done.returncode == 0
    # Warnings are wrapped.
    assert f"{site.release} was live, but " in " ".join(done.stdout.split())
    assert site.get("/health/").status == 200
    assert not re.search("changed=[1-9]", play(*deploy).stdout)


def test_missing_live_link_and_nginx_server_are_reported(sites, until):
    linked, served = (next(site for site in sites if site.name == name) for name in ("site13", "site12"))
    own = f"/etc/nginx/conf.d/{served.name}.conf"
    linked.host.check_output(f"rm /srv/{linked.name}/current")
    served.host.check_output(f"mv {own} /root/ && systemctl reload nginx")
    said = f"the web server fails at https://{served.canonical}/"
    try:
        status = play("status")
        done = play("deploy", f"--extra-vars=@{INVENTORY.with_name('secrets.json')}")
    finally:
        served.host.check_output(f"mv /root/{served.name}.conf {own} && systemctl reload nginx")
    assert status.returncode != 0
    assert f"/srv/{linked.name}/current names no release" in status.stdout
    assert said in status.stdout
    assert done.returncode != 0
    assert f"health: {said}" in done.stdout
    # The deploy has made the link anew; a reload of nginx returns before it is done.
    until(lambda: [site.get("/health/").status for site in sites] == [200] * len(sites), 20)


def test_journal_records_user_version_and_release_of_a_switch(site):
    entries = [json.loads(line) for line in site.host.file(f"/srv/{site.name}/journal").content_string.splitlines()]
    assert entries[-1]["to"] == site.release
    assert entries[-1]["what"] == "first"
    assert entries[-1]["who"] == f"{getpass.getuser()}@{socket.gethostname()}"


def test_acme_preflight_requests_each_name_of_the_site(site):
    asked = r'"GET /.well-known/acme-challenge/django_vps-[0-9a-f]* HTTP/1.1" 200 '
    assert int(site.host.check_output(f"grep -c '{asked}' /var/log/nginx/access.log")) >= len(site.domains)


def test_certbot_timer_is_enabled_and_running(site, unit):
    assert unit("certbot.timer").is_running
    assert unit("certbot.timer").is_enabled


@pytest.mark.usefixtures("faketime")
def test_certificate_is_renewed_after_two_thirds_of_its_life(site):
    """The CA's certificates here are for 90 days."""
    before = site.certificate
    assert site.certbot(days=58)
    assert site.certificate == before
    # The CA refuses a nonce now and then, and certbot asks but once more.
    assert any(site.certbot(days=62) for _ in range(5))
    assert site.certificate != before


def test_renewed_certificate_is_served_without_nginx_restart(site, until):
    before, pid = site.served_certificate, site.host.check_output("systemctl show -P MainPID nginx.service")
    # The CA refuses a nonce now and then, and certbot asks but once more.
    assert any(site.certbot("--force-renewal") for _ in range(5))
    until(lambda: site.served_certificate != before, 5)
    assert site.host.check_output("systemctl show -P MainPID nginx.service") == pid
