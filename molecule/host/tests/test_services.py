"""What looks after itself: bans of visitors, updates, restarts, logs and temporary files."""

from __future__ import annotations

import re
import shlex

import pytest
from conftest import ssh


@pytest.fixture
def visit(site, neighbour):
    """Ask the site from the other server; the status, 0 without an answer."""

    def visit(path: str, *options: str) -> int:
        argv = [
            "curl",
            "--silent",
            "--insecure",
            "--max-time",
            "5",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]
        argv += ["--resolve", f"{site.canonical}:443:{site.address}", *options, f"https://{site.canonical}{path}"]
        return int(neighbour.run(shlex.join(argv)).stdout)

    return visit


@pytest.fixture
def visitor(site, neighbour):
    """The address of the other server, which is banned nowhere in the end."""
    address = neighbour.check_output("hostname -I").split()[0]
    yield address
    site.host.check_output("fail2ban-client unban --all")


def test_client_is_not_banned_for_missing_pages(site, visit, visitor):
    for _ in range(20):
        assert visit("/no/such/page.html") == 404
    assert visit("/health/") == 200


@pytest.mark.parametrize(
    ("jail", "path", "options"),
    [
        ("django_vps-scan", "/wp-login.php", []),
        ("django_vps-scan", "/.env", []),
        ("django_vps-login", "/admin/login/?next=/admin/", ["--data", "username=admin&password=secret"]),
    ],
)
def test_scans_and_brute_force_attempts_are_banned(site, visit, visitor, until, jail, path, options):
    def is_banned() -> bool:
        # The firewall has an address a moment after the jail.
        return visitor in site.host.check_output(f"fail2ban-client status {jail}") and visit("/health/") == 0

    for _ in range(10):
        visit(path, *options)
    until(is_banned, 30)
    # Others are served meanwhile, and so is who was let in again.
    assert site.get("/health/").status == 200

    def is_let_in() -> bool:
        # On a busy machine the jail bans again for the lines that it had not read yet.
        site.host.check_output(f"fail2ban-client unban {visitor}")
        return visit("/health/") == 200

    # The firewall forgets the address a moment after the jail, too.
    until(is_let_in, 30)


COMBINED = '192.0.2.7 {} - [22/Nov/2026:00:00:00 +0000] "{}" {} 12 "-" "-"'
JSON = (
    '{{"address": "192.0.2.7", "via": "{}", "time": "2026-11-22T00:00:00+00:00", "request": "{}", "status": "{}",'
    ' "bytes": 12}}'
)


@pytest.mark.parametrize("form", [COMBINED, JSON], ids=["combined", "json"])
@pytest.mark.parametrize(
    ("jail", "request_line", "status", "failures"),
    [
        # A login that succeeds is none that fails.
        ("login", "POST /api/v1/login HTTP/1.1", 200, 0),
        ("login", "POST /api/v1/login HTTP/1.1", 401, 1),
        ("login", "POST /accounts/login/ HTTP/1.1", 200, 1),
        ("login", "POST /accounts/login/ HTTP/1.1", 302, 0),
        ("scan", "GET /wp-login.php HTTP/1.1", 404, 1),
        ("scan", r"GET /wp-login.php\"x HTTP/1.1", 404, 1),
        ("scan", "GET /a/page.html HTTP/1.1", 404, 0),
        ("scan", "\\u0016\\u0003 x", 400, 1),
    ],
)
def test_fail2ban_filters_count_failures_in_log_lines(host, form, jail, request_line, status, failures):
    for via, counted in (("-", failures), ("proxy", 0)):
        line = form.format(via, request_line, status)
        said = host.run(f"fail2ban-regex '{line}' /etc/fail2ban/filter.d/django_vps-{jail}.conf").stdout
        assert f"Failregex: {counted} total" in said


def test_site_cannot_have_a_visitor_banned_by_a_trusted_proxy(site):
    """The server trusts itself, as behind a tunnel (molecule.yml); that the jail reads on, the test above shows."""
    visitor = "198.51.100.66"
    asked = (
        f"curl --silent --insecure --resolve {site.canonical}:443:127.0.0.1 --header 'X-Forwarded-For: {visitor}'"
        f" --output /dev/null https://{site.canonical}/wp-login.php"
    )
    site.host.check_output(f"for n in $(seq 10); do runuser -u {site.name} -- {asked}; done; sleep 3")
    assert site.host.check_output(f"grep -c '{visitor}' /var/log/nginx/access.log") == "10"
    assert visitor not in site.host.check_output("fail2ban-client status django_vps-scan")


def test_security_updates_are_automatic(host):
    plan = host.run("unattended-upgrade --dry-run --debug")
    assert plan.rc == 0, plan.stderr
    allowed = next(line for line in plan.stdout.splitlines() if line.startswith("Allowed origins"))
    assert "label=Debian-Security" in allowed
    timers = host.check_output(
        "systemctl list-timers --all --plain --no-legend apt-daily.timer apt-daily-upgrade.timer"
    )
    assert timers.count("apt-daily") >= 2


def test_host_does_not_reboot_automatically_by_default(host):
    # A package whose file the stack has changed is no question that keeps its update out.
    assert "--force-confold" in host.check_output("apt-config dump DPkg::Options")
    assert 'Automatic-Reboot "false"' in host.check_output("apt-config dump Unattended-Upgrade::Automatic-Reboot")


@pytest.mark.parametrize("service", ["postgresql", "nginx"])
def test_site_answers_soon_after_a_service_restart(site, until, service):
    site.host.check_output(f"systemctl restart {service}")
    until(lambda: site.get("/health/").status == 200, 10)
    assert all(site.get("/health/").status == 200 for _ in range(20))


def test_needrestart_runs_without_questions(site, until):
    site.host.check_output("needrestart -r a -m a < /dev/null")
    until(lambda: site.get("/health/").status == 200, 10)


def test_the_journal_is_kept_and_bounded(host):
    host.check_output("systemctl kill --signal=USR1 systemd-journald")
    assert host.run("ls /var/log/journal/*/system.journal").rc == 0
    said = host.check_output("journalctl --no-pager --unit systemd-journald")
    assert re.search(r"System Journal .* max 500(\.0)?M", said)


def test_crashed_process_leaves_no_core_dump(host):
    assert host.check_output("systemctl show --property DefaultLimitCORE --value") == "0"
    assert host.check_output("su -s /bin/sh nobody -c 'ulimit -H -c'") == "0"


def test_old_files_in_tmp_are_removed(host):
    # Nobody can make a file look old enough to see it go.
    in_force = host.check_output("systemd-tmpfiles --cat-config")
    assert "q /tmp 1777 root root 10d" in in_force
    assert "q /var/tmp 1777 root root 30d" in in_force
    assert host.service("systemd-tmpfiles-clean.timer").is_running


def test_no_unit_waits_for_itself(host):
    """systemd leaves out one of those that wait for each other, at each boot another one."""
    assert "cycle" not in host.run("systemd-analyze verify default.target").stderr


def test_a_small_host_gets_a_swap_file_and_a_container_none(host):
    assert not host.file("/swapfile").exists
    assert host.check_output("systemctl show --property ActiveState --value swapfile.swap") == "inactive"
    if host.check_output("swapon --noheadings"):
        pytest.fail("this machine swaps, and so its containers seem to; run this on one without swap")

    drop_in = "/run/systemd/system/django_vps-swapfile.service.d"
    host.check_output(
        f"mkdir -p {drop_in}; printf '[Unit]\nConditionMemory=\nConditionVirtualization=\n' > {drop_in}/no.conf"
    )
    host.check_output("systemctl daemon-reload; systemctl start django_vps-swapfile.service")
    swap = host.file("/swapfile")
    assert (swap.mode, swap.user, swap.size) == (0o600, "root", 2**30)
    host.check_output("swaplabel /swapfile")
    host.check_output(f"rm -r /swapfile {drop_in}; systemctl daemon-reload")


def test_time_zone_and_locale_are_the_same_everywhere(site):
    assert ssh(site, "debian", "date +%Z; locale charmap").stdout.split() == ["UTC", "UTF-8"]
