"""One certificate for all web hosts: ordered once, handed on to those who may have it."""

from __future__ import annotations

import socket
import ssl

from conftest import NAME, ROOTS, visit

FETCH = "socat -u -T 5 OPENSSL:{}:8444,{},verify=0 STDOUT"
OWN = "cert=/etc/ssl/django_vps/host.pem,key=/etc/ssl/django_vps/host.key"


def serial(web) -> str:
    """Of the certificate that is served, which the roots have to vouch for."""
    context = ssl.create_default_context(cafile=str(ROOTS))
    with (
        socket.create_connection((web.address, 443), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        return connection.getpeercert()["serialNumber"]


def test_certificate_is_requested_once_and_served_by_all_hosts(hosts):
    assert serial(hosts["web1"]) == serial(hosts["web2"])
    assert hosts["web1"].run("ls /etc/letsencrypt/live | grep -c shop") == "1"
    assert not hosts["web2"].host.file("/etc/letsencrypt/live").exists
    assert not hosts["web2"].host.package("certbot").is_installed


def test_second_web_host_answers_the_acme_challenge(hosts):
    # The names of the site led it there.
    assert "/.well-known/acme-challenge/" in hosts["web2"].run("cat /var/log/nginx/access.log")


def test_renewed_certificate_reaches_all_web_hosts(hosts, until):
    first, second = hosts["web1"], hosts["web2"]
    before = serial(second)
    environment = "REQUESTS_CA_BUNDLE=/etc/ssl/pebble.pem"
    renew = f"{environment} certbot renew --quiet --force-renewal --no-random-sleep-on-renew"
    # The CA refuses a nonce now and then, and certbot asks but once more.
    assert any(first.host.run(renew).rc == 0 for _ in range(5))
    until(lambda: serial(first) != before, 20)
    master = second.run("systemctl show -P MainPID nginx")
    # What the timer does every hour.
    second.run("systemctl start shop-certificate.service")
    until(lambda: serial(second) == serial(first), 20)
    assert second.run("systemctl show -P MainPID nginx") == master
    assert second.run("ls -d /etc/shop/fetched-* | wc -l") == "1"
    assert "shop-certificate.timer" in second.run("systemctl list-timers --all")
    # Again, it is all the same.
    second.run("systemctl start shop-certificate.service")
    assert visit(second, "/health/").returncode == 0


def test_certificate_is_shared_with_web_hosts_only(hosts):
    first, second = hosts["web1"], hosts["web2"]
    assert "PRIVATE KEY" in second.host.run(FETCH.format(first.address, OWN)).stdout
    second.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 1"
        " -keyout /root/own.key -out /root/own.pem 2> /dev/null"
    )
    for stranger in ("cert=/root/own.pem,key=/root/own.key", "forever=0"):
        assert "PRIVATE KEY" not in second.host.run(FETCH.format(first.address, stranger)).stdout


def test_failed_certificate_fetch_keeps_the_active_certificate(hosts, until):
    first, second = hosts["web1"], hosts["web2"]
    before = serial(second)
    first.run("systemctl stop shop-certificate-share.service")
    try:
        assert second.host.run("systemctl start shop-certificate.service").rc != 0
        assert second.run("systemctl is-failed shop-certificate.service") == "failed"
        assert serial(second) == before
        assert second.run("ls -A /etc/shop | grep -c '^.fetched' || true") == "0"
    finally:
        first.run("systemctl start shop-certificate-share.service")
    until(lambda: second.can_connect(first, 8444), 20)
    second.run(
        "systemctl start shop-certificate.service || { journalctl --no-pager -n 40 -u shop-certificate >&2; exit 1; }"
    )
