"""How certificates come, are renewed, and fail to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Site
from support.load import Load, apart_from_reloads
from support.play import play
from support.runs import labels

PEBBLE = f"pebble-{os.environ.get('VPS_RUN', '')}"
#: What a CA knows its customer by, and a name server who may add records.
KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
SECRET = base64.b64encode(secrets.token_bytes(64)).decode()
BY_HTTP = {"letsencrypt_dns_hook": "", "site_domains": "{{ [site_name ~ '.example.test'] }}"}


def pebble(command: str, *options: str) -> str:
    argv = ["docker", "exec", *options, PEBBLE, "sh", "-c", command]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def orders() -> int:
    logs = subprocess.run(["docker", "logs", PEBBLE], check=True, capture_output=True, text=True)
    return (logs.stdout + logs.stderr).count("order-plz")


@contextlib.contextmanager
def another_ca(
    days: int, known_customers: bool = False, refuses: int = 0, name_server: str = "127.0.0.1:8053"
) -> Iterator[str]:
    """A CA whose certificates last so long, and that refuses so many good nonces of a hundred; its address."""
    port = 14000 + days
    edit = f"s/:14000/:{port}/; s/:15000/:{port + 1000}/; s/7776000/{days * 86400}/"
    if known_customers:
        edit += f'; s/Required": false/Required": true, "externalAccountMACKeys": {{"customer-1": "{KEY}"}}/'
    pebble(f"sed '{edit}' /etc/pebble/config.json > /tmp/{days}.json")
    environment = ("--env", "PEBBLE_VA_NOSLEEP=1", "--env", f"PEBBLE_WFE_NONCEREJECT={refuses}", "--detach")
    pebble(f"exec pebble -config /tmp/{days}.json -dnsserver {name_server}", *environment)
    try:
        yield f"https://pebble:{port}/dir"
    finally:
        pebble(f"pkill -f [/]tmp/{days}.json")


def test_names_below_a_wildcard_are_certified_and_served(site):
    answer = site.get(f"https://tenant.{site.name}.example.test/")
    assert answer.status == 200
    assert answer.header("strict-transport-security")
    plain = site.get(f"http://tenant.{site.name}.example.test/x?y=z")
    assert (plain.status, plain.header("location")) == (301, f"https://tenant.{site.name}.example.test/x?y=z")
    # One that was named beside it leads to the canonical one.
    assert site.get(f"https://www.{site.name}.example.test/").header("location") == f"https://{site.canonical}/"


@pytest.mark.usefixtures("faketime")
@pytest.mark.parametrize(
    ("days", "known_customers", "refuses", "early", "late"), [(6, True, 0, 2.8, 3.2), (45, False, 20, 29, 31)]
)
def test_renewal_time_depends_on_the_certificate_lifetime(sites, days, known_customers, refuses, early, late, until):
    key = {"letsencrypt_eab_kid": "customer-1", "letsencrypt_eab_hmac_key": KEY} if known_customers else {}
    before = {site.name: site.certificate for site in sites}
    pids = {site.name: site.host.check_output("systemctl show -P MainPID nginx.service") for site in sites}
    with another_ca(days, known_customers, refuses) as address:
        done = play("site", "-vvv", "--diff", "--tags=letsencrypt", letsencrypt_directory_url=address, **key)
        assert done.returncode == 0, done.stdout[-3000:]
        assert KEY not in done.stdout
        for site in sites:
            first = site.certificate
            assert first != before[site.name]
            assert site.certbot(days=early)
            assert site.certificate == first
            for _ in range(10):
                if site.certbot(days=late):
                    break
                # Refused twice it gives up until the timer comes again; what is in force stays.
                assert refuses
                assert site.served_certificate == site.certificate == first
            assert site.certificate != first
            until(lambda site=site: site.served_certificate == site.certificate, 5)
            assert site.host.check_output("systemctl show -P MainPID nginx.service") == pids[site.name]
            # What was ordered elsewhere is renewed no more.
            assert len(site.host.check_output("ls /etc/letsencrypt/renewal").split()) == 1


@contextlib.contextmanager
def name_server() -> Iterator[str]:
    """A name server that takes records from who has the key; its address."""
    address = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"{PEBBLE}.address").read_text()
    settings = f"""
        key certbot {{ algorithm hmac-sha512; secret "{SECRET}"; }};
        options {{ directory "/tmp/named"; pid-file none; recursion no; listen-on-v6 {{ none; }}; }};
        zone example.test {{ type primary; file "zone"; allow-update {{ key certbot; }}; }};"""
    zone = "@ 60 IN SOA pebble. webmaster.example.test. 1 3600 600 86400 60\n@ 60 IN NS pebble.\n"
    pebble(f"mkdir /tmp/named; cd /tmp/named; printf '{zone}' > zone; echo '{settings}' > named.conf")
    pebble("exec named -f -c /tmp/named/named.conf", "--detach")
    try:
        yield address
    finally:
        # named writes its zone once more before it ends.
        pebble("pkill named; while pgrep --exact named; do sleep 0.1; done; rm -r /tmp/named")


def test_certbot_dns_plugin_proves_names_by_a_name_server(sites, until):
    before = [site.certificate for site in sites]
    with name_server() as address, another_ca(90, name_server=f"{address}:53") as ca:
        login = {
            "dns_rfc2136_server": address,
            "dns_rfc2136_name": "certbot.",
            "dns_rfc2136_secret": SECRET,
            "dns_rfc2136_algorithm": "HMAC-SHA512",
        }
        # A minute is what the plugin gives other name servers to hear of it.
        for site in sites:
            site.host.check_output("echo dns-rfc2136-propagation-seconds = 2 >> /etc/letsencrypt/cli.ini")
        try:
            done = play(
                "site",
                *("-vvv", "--diff", "--tags=letsencrypt"),
                letsencrypt_directory_url=ca,
                letsencrypt_dns_hook="",
                letsencrypt_dns_plugin="rfc2136",
                letsencrypt_dns_credentials=login,
            )
            assert done.returncode == 0
            assert SECRET not in done.stdout
            ordered = [site.certificate for site in sites]
            assert not set(ordered) & set(before)
            for site in sites:
                until(lambda site=site: site.served_certificate == site.certificate, 5)
                assert site.host.run(f"runuser -u {site.name} -- cat /etc/{site.name}/dns.ini").rc != 0
                assert site.certbot("--force-renewal")
            assert not {site.certificate for site in sites} & set(ordered)
        finally:
            for site in sites:
                site.host.check_output("sed -i /rfc2136/d /etc/letsencrypt/cli.ini")


def test_return_to_the_first_ca_removes_files_of_other_cas(sites):
    done = play("site", "--tags=letsencrypt")
    assert done.returncode == 0, done.stdout[-3000:]
    for site in sites:
        assert len(site.host.check_output("ls /etc/letsencrypt/renewal").split()) == 1
        assert not site.host.file(f"/etc/{site.name}/dns.ini").exists
        assert site.get("/health/").status == 200


@contextlib.contextmanager
def network_with_ipv6(sites: list[Site]) -> Iterator[str]:
    """Another network of the servers; how its addresses begin."""
    run = os.environ["VPS_RUN"]
    chance = hashlib.sha256(run.encode()).hexdigest()
    # No zero in front, which nobody writes.
    prefix, name = f"fd{chance[:2]}:a{chance[2:5]}:b{chance[5:8]}:", f"vps-{run}-6"

    def network(*argv: str) -> None:
        subprocess.run(["docker", "network", *argv], check=True, capture_output=True)

    network("create", "--ipv6", f"--subnet={prefix}:/64", *labels(run), name)
    try:
        for site in sites:
            network("connect", name, site.container)
        yield prefix
    finally:
        for site in sites:
            network("disconnect", name, site.container)
        network("rm", name)


def test_foreign_dns_address_is_reported_and_stops_the_request(sites):
    asked, before = orders(), [site.certificate for site in sites]
    elsewhere = [sites[0].address.rsplit(".", 1)[0] + ".1"]
    with network_with_ipv6(sites) as prefix:
        elsewhere.append(f"{prefix}:1")
        for site in sites:
            own = site.host.check_output(f"ip -6 -oneline address | grep -o '{prefix}:[0-9a-f]*'")
            # As its resolver would say it.
            lines = "".join(f"{each} {site.canonical}\n" for each in (site.address, own, *elsewhere))
            site.host.check_output(f"cp /etc/hosts /tmp/hosts; printf '{lines}' >> /etc/hosts")
        try:
            done = play("site", "--tags=letsencrypt", **BY_HTTP)
        finally:
            for site in sites:
                site.host.check_output("cat /tmp/hosts > /etc/hosts")
    assert done.returncode != 0
    for site in sites:
        found = re.findall(rf"{site.canonical} leads to ([^ ]+), which gives no answer", done.stdout)
        assert set(found) == set(elsewhere)
        assert re.search(rf"This host goes out with [0-9.]+ and {prefix}:[0-9a-f]+\.", done.stdout)
        assert site.get("/health/").status == 200
    assert (orders(), [site.certificate for site in sites]) == (asked, before)


def test_own_certificate_removes_settings_and_units_of_renewal(sites, tmp_path, until):
    names = ",".join(f"DNS:{site.canonical}" for site in sites)
    make = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 9 -subj /CN=own"
    subprocess.run(
        [*make.split(), "-addext", f"subjectAltName={names}", "-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/own"],
        check=True,
        capture_output=True,
    )
    own = {"letsencrypt_own_certificate": f"{tmp_path}/own", "letsencrypt_own_key": f"{tmp_path}/key"}
    for site in sites:
        # As if it had come to another web host for it.
        unit = f"/etc/systemd/system/{site.name}-certificate"
        site.host.check_output(f"printf '[Service]\nType=oneshot\nExecStart=/bin/false\n' > {unit}.service")
        timer = "[Timer]\nOnCalendar=hourly\n[Install]\nWantedBy=timers.target\n"
        site.host.check_output(f"printf '{timer}' > {unit}.timer; systemctl enable --now {unit}.timer")
        assert site.host.run(f"systemctl start {site.name}-certificate.service").rc != 0
    assert play("site", "--tags=letsencrypt", letsencrypt_enabled=False, **own).returncode == 0
    for site in sites:
        until(lambda site=site: site.served_certificate == site.certificate, 5)
        assert site.host.run("ls -A /etc/letsencrypt/renewal").stdout == ""
        assert site.host.run(f"ls /etc/{site.name}/dns-hook").rc != 0
        assert site.host.run(f"ls /etc/systemd/system/{site.name}-certificate*").stdout == ""
        units = f"{site.name}-certificate.timer {site.name}-certificate.service"
        assert site.host.run(f"systemctl is-active {units} || systemctl is-failed {units}").rc != 0
    again = play("site", "--tags=letsencrypt", letsencrypt_enabled=False, **own)
    assert not re.search("changed=[1-9]", again.stdout)
    assert play("site", "--tags=letsencrypt").returncode == 0


@contextlib.contextmanager
def due(site: Site) -> Iterator[None]:
    """The certificate is one that ought to be renewed, and certbot's unit does not sleep before it looks."""
    unit, settings = "/run/systemd/system/certbot.service.d", "/etc/letsencrypt/renewal/*.conf"
    start = "[Service]\nExecStart=\nExecStart=/usr/bin/certbot -q renew --no-random-sleep-on-renew"
    site.host.check_output(f"sed -i 's/^renew_before.*/renew_before_expiry = 1 year/' {settings}")
    site.host.check_output(f"mkdir -p {unit}; printf '{start}\n' > {unit}/test.conf; systemctl daemon-reload")
    try:
        yield
    finally:
        site.host.check_output(f"rm {unit}/test.conf; systemctl daemon-reload")
        site.host.check_output("/usr/local/sbin/django_vps-renewal /etc/letsencrypt/live/*-????????")


@contextlib.contextmanager
def down(sites: list[Site]) -> Iterator[None]:
    rule = (
        "add chain inet rude out { type filter hook output priority 0; }; add rule inet rude out tcp dport 14000 reject"
    )
    for site in sites:
        site.host.check_output(f"nft 'add table inet rude; {rule}'")
    try:
        yield
    finally:
        for site in sites:
            site.host.check_output("nft delete table inet rude")


@contextlib.contextmanager
def hanging(_: list[Site]) -> Iterator[None]:
    # `docker pause` gives up on a machine that is busy.
    subprocess.run(["docker", "kill", "--signal", "STOP", PEBBLE], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "kill", "--signal", "CONT", PEBBLE], check=True, capture_output=True)


@pytest.mark.parametrize("trouble", [down, hanging])
def test_unreachable_ca_keeps_certificate_and_is_reported(sites, trouble, until):
    before = [site.certificate for site in sites]
    with contextlib.ExitStack() as during:
        for site in sites:
            during.enter_context(due(site))
        with trouble(sites), ThreadPoolExecutor() as pool:
            # All at once: one that gets no answer waits for the better part of a minute.
            renewals = pool.map(lambda site: site.host.run("systemctl start certbot.service").rc, sites)
            assert 0 not in renewals
        assert [site.served_certificate for site in sites] == [site.certificate for site in sites] == before
        done = play("status")
        assert done.returncode != 0
        for site in sites:
            assert re.search(rf"fatal: \[{site.container}\].*the last renewal has failed", done.stdout)
        for site, old in zip(sites, before, strict=True):
            # The CA may refuse a nonce.
            until(lambda site=site: site.host.run("systemctl start certbot.service").rc == 0)
            until(lambda site=site, old=old: site.served_certificate == site.certificate != old, 5)
    done = play("status")
    assert done.returncode == 0
    for site in sites:
        ok = rf"ok: \[{site.container}\] => {{[^}}]*(?:89|90) of 90 days are left"
        assert re.search(ok, done.stdout)


def test_first_request_to_an_unreachable_ca_changes_nothing(sites):
    before = [site.certificate for site in sites]
    done = play("site", "--tags=letsencrypt", letsencrypt_directory_url="https://pebble:14999/dir")
    assert done.returncode != 0
    assert "Connection refused" in done.stdout
    for site in sites:
        assert re.search(rf"{site.container} +:.* failed=1 ", done.stdout)
    assert [site.served_certificate for site in sites] == [site.certificate for site in sites] == before


def test_log_rotation_and_renewal_lose_no_request_or_log_line(site, until):
    def noted() -> int:
        return int(site.host.run("zcat -f /var/log/nginx/access.log* | grep -c 'GET /health/ '").stdout)

    before, old = noted(), site.certificate
    with Load(site.address, site.canonical, path=["/health/"], rate=50) as load:
        # What the timer does each night.
        assert site.host.service("logrotate.timer").is_running
        site.host.check_output("logrotate --force /etc/logrotate.d/nginx")
        site.host.check_output("systemctl reload nginx")
        # The CA may refuse a nonce.
        until(lambda: site.certbot("--force-renewal"))
        until(lambda: site.served_certificate == site.certificate != old, 5)
    result = load.result()
    assert apart_from_reloads(result["failures"]) == []
    until(lambda: noted() - before == result["requests"] - result["failed"], 5)
