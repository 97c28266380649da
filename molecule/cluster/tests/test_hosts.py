"""Who comes to whom, over what, and who does not."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import IDENTITY, NAME, PEERS, visit
from support.play import play

# Keeps what passes on a host's wires, until the end of its input.
EAR = """
import socket, sys, threading
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
ear.settimeout(0.2)
heard = open(sys.argv[1], "wb")
print("listening", flush=True)
while not over.is_set():
    try:
        heard.write(ear.recv(65535))
    except TimeoutError:
        pass
heard.close()
"""


@pytest.fixture(scope="module")
def reached(hosts, open_ports) -> dict[str, list[int]]:
    """The ports of each host that a stranger can connect to; scans wait most of the time, so two run at once."""
    names = ("web1", "web2", "app1", "app2", "db1")
    with ThreadPoolExecutor(2) as pool:
        scans = pool.map(lambda name: open_ports(hosts["pebble"].host, hosts[name].address), names)
        return dict(zip(names, scans, strict=True))


@pytest.mark.parametrize(
    ("name", "ports"), [("web1", [22, 80, 443]), ("web2", [22, 80, 443]), ("app1", [22]), ("app2", [22]), ("db1", [22])]
)
def test_firewall_opens_only_ssh_and_web_ports(reached, name, ports):
    assert reached[name] == ports


@pytest.mark.parametrize(
    ("comer", "host", "port", "may"),
    [
        ("web1", "app1", 8443, True),
        ("web2", "app2", 8443, True),
        ("app1", "app2", 8443, False),
        ("db1", "app1", 8443, False),
        ("app1", "db1", 5432, True),
        ("web1", "db1", 5432, False),
        ("app2", "db1", 6432, True),
        ("web1", "db1", 6432, False),
        ("db1", "web2", 6432, False),
        ("web2", "web1", 8444, True),
        ("app1", "web1", 8444, False),
        ("app2", "web1", 6379, True),
        ("web2", "web1", 6379, False),
    ],
)
def test_host_reaches_only_the_ports_it_needs(hosts, comer, host, port, may):
    assert hosts[comer].can_connect(hosts[host], port) is may


def test_each_web_host_passes_requests_to_each_app_host(hosts, web):
    before = {name: count(hosts[name]) for name in ("app1", "app2")}
    for _ in range(6):
        assert json.loads(visit(web, "/health/").stdout)["status"] == "ok"
    assert all(count(hosts[name]) > before[name] for name in before)


def count(app) -> int:
    return int(app.run("grep -c GET./health/ /var/log/nginx/access.log || true"))


def test_client_address_reaches_app_hosts_and_cannot_be_forged(hosts, web):
    lies = ("X-Real-IP: 6.6.6.6", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: http", "X-Forwarded-Host: evil.test")
    path = f"/nowhere-{web.name}/"
    answer = visit(web, path, *[word for lie in lies for word in ("-H", lie)], "-D", "-")
    # Were http believed, Django would redirect to https.
    assert answer.stdout.startswith("HTTP/2 404")
    assert answer.stdout.lower().count("strict-transport-security") == 1
    lines = [line for app in ("app1", "app2") for line in log(hosts[app]) if path in line]
    gateway = web.address.rsplit(".", 1)[0] + ".1"
    assert [line.split()[0] for line in lines] == [gateway]


def test_status_names_hosts_that_pass_no_requests(hosts):
    app, web = hosts["app2"], hosts["web2"]
    path = f"/srv/shop/releases/{app.live}/gunicorn.sock"
    mode = app.run(f"stat -c %a {path}")
    app.run(f"chmod 0600 {path}")
    web.run("systemctl stop nginx")
    try:
        done = play("status")
    finally:
        app.run(f"chmod {mode} {path}")
        web.run("systemctl start nginx")
    assert done.returncode != 0
    assert f"release {app.live}: the web server has no access to {path}" in done.stdout
    assert "the web server does not run" in done.stdout


def log(app) -> list[str]:
    return app.run("cat /var/log/nginx/access.log").splitlines()


def test_app_host_serves_only_web_hosts(hosts, app):
    web = hosts["web1"]
    assert web.ask(app, "/health/")[0] == 200
    # Neither without a certificate nor with one of another part, from an address that may come.
    without = web.host.run(f"curl -sk -o /dev/null -w '%{{http_code}}' https://{app.address}:8443/health/")
    assert without.stdout in ("000", "400")
    pair = "cat /etc/ssl/django_vps/host.pem /etc/ssl/django_vps/host.key"
    stolen = base64.b64encode(hosts["db1"].run(pair).encode()).decode()
    web.run(f"(umask 077; echo {stolen} | base64 -d > /root/stolen.pem)")
    other = web.host.run(
        f"curl -sk --cert /root/stolen.pem -o /dev/null -w '%{{http_code}}' https://{app.address}:8443/health/"
    )
    assert other.stdout in ("000", "400")


def test_web_host_rejects_a_false_app_host(hosts, web):
    # Who has the address of an app host, but not its key, is not spoken to.
    done = web.host.run(
        f"curl -s {IDENTITY} {PEERS} --connect-to ::{hosts['web1'].address}:443"
        " https://shop.django-vps.internal:8443/health/"
    )
    assert done.rc in (35, 60)


def connect(app, parameters: str) -> str:
    """Connect to the database as the site's user, with the driver of the site."""
    program = (
        f"import psycopg2; c = psycopg2.connect('{parameters}').cursor(); c.execute('select 1'); print(c.fetchone())"
    )
    return app.host.run(f'cd / && runuser -u shop -- /srv/shop/current/venv/bin/python -c "{program}" 2>&1').stdout


def test_database_requires_tls_and_password_of_the_site(hosts, app):
    to = f"host={hosts['db1'].address} user=shop dbname=shop connect_timeout=5"
    whole = f"{to} sslmode=verify-full sslrootcert=/etc/ssl/django_vps/shop-database.pem passfile=/etc/shop/pgpass"
    assert "(1,)" in connect(app, whole)
    assert "no pg_hba.conf entry" in connect(app, f"{to} sslmode=disable passfile=/etc/shop/pgpass")
    assert "no password supplied" in connect(app, f"{to} sslmode=require passfile=/nowhere")
    assert "authentication failed" in connect(app, f"{to} sslmode=require password=wrong")
    assert "no pg_hba.conf entry" in connect(app, whole.replace("user=shop", "user=postgres"))
    assert "certificate verify failed" in connect(app, whole.replace("shop-database", "shop-web"))


def test_pooler_requires_tls_and_password_of_the_site(hosts, app):
    to = f"host={hosts['db1'].address} port=6432 user=shop dbname=shop connect_timeout=5"
    whole = f"{to} sslmode=verify-full sslrootcert=/etc/ssl/django_vps/shop-database.pem passfile=/etc/shop/pgpass"
    assert "(1,)" in connect(app, whole)
    assert "SSL required" in connect(app, f"{to} sslmode=disable passfile=/etc/shop/pgpass")
    assert "no password supplied" in connect(app, f"{to} sslmode=require passfile=/nowhere")
    assert "authentication failed" in connect(app, f"{to} sslmode=require password=wrong")
    assert "certificate verify failed" in connect(app, whole.replace("shop-database", "shop-web"))
    for role, database in (
        ("postgres", "shop"),
        ("pgbouncer", "pgbouncer"),
        ("shop", "pgbouncer"),
        ("shop", "postgres"),
    ):
        found = connect(app, whole.replace("user=shop dbname=shop", f"user={role} dbname={database}"))
        assert "FATAL" in found, (role, database, found)


def test_requests_use_the_pooler_and_manage_does_not(hosts, app):
    code = "from django.db import connection as c; r = c.cursor(); r.execute('SELECT inet_client_addr()')"
    assert app.run(f'shop-manage shell -v 0 -c "{code}; print(*r.fetchone())"') == app.address
    before = transactions_of_pooler(hosts["db1"])
    for _ in range(10):
        assert '"ok"' in visit(hosts["web1"], "/health/").stdout
    assert transactions_of_pooler(hosts["db1"]) >= before + 10


def transactions_of_pooler(database) -> int:
    """How many it has passed on, by its console."""
    console = "psql -XAtq -h /run/shop-pgbouncer -p 6432 -U pgbouncer -c 'SHOW STATS_TOTALS' pgbouncer"
    (counts,) = re.findall(r"^shop\|.*$", database.run(f"cd / && runuser -u shop -- {console}"), re.MULTILINE)
    return int(counts.split("|")[1])


def test_database_password_is_only_in_the_private_pgpass_file(hosts, app):
    assert app.host.run("runuser -u nobody -- cat /etc/shop/pgpass").rc != 0
    password = hosts["db1"].run("cat /etc/shop/database_password")
    assert len(password) == 64
    assert app.host.run(f"grep -r {password} /srv/shop/releases /etc/systemd /var/log /srv/shop/journal").rc == 1
    assert app.run(f"grep -rl {password} /etc") == "/etc/shop/pgpass"


def test_no_secret_is_in_the_output(hosts, run_with_nothing_to_do):
    said = run_with_nothing_to_do.stdout
    for host, path in (
        ("db1", "/etc/shop/database_password"),
        ("web1", "/etc/shop/valkey_password"),
        ("app1", "/etc/shop/secret_key"),
    ):
        secret = hosts[host].run(f"cat {path}")
        assert secret not in said
        assert base64.b64encode(secret.encode()).decode()[:40] not in said


def cached(app, code: str) -> str:
    """What code says that has the cache of the project on an app host."""
    return app.run(f"shop-manage shell -v 0 -c 'from django.core.cache import cache; {code}'")


def test_app_hosts_share_the_cache(hosts):
    cached(hosts["app1"], 'cache.set("kept", "by app1")')
    assert cached(hosts["app2"], 'print(cache.get("kept"))') == "by app1"


def test_valkey_requires_tls_and_password_of_the_site(hosts, app):
    url = app.run("cat /etc/shop/valkey_url")
    (password,) = re.findall("rediss://shop:([0-9a-f]{64})@", url)
    for path in ("/etc/shop/valkey_url", "/srv/shop/current/env"):
        assert app.host.run(f"runuser -u shop -- cat {path}").rc != 0

    def ping(url: str) -> str:
        program = f"import redis; print(redis.from_url('{url}').ping())"
        return app.host.run(f'/srv/shop/current/venv/bin/python -c "{program}" 2>&1').stdout.splitlines()[-1]

    assert ping(url) == "True"
    assert "AuthenticationError" in ping(url.replace(f"shop:{password}@", ""))
    assert "invalid username-password pair" in ping(url.replace(password, "0" * 64))
    assert "ConnectionError" in ping(url.replace("rediss://", "redis://").partition("?")[0])
    assert "certificate verify failed" in ping(url.replace("shop-valkey", "shop-database"))


def test_the_app_hosts_have_one_secret_key(hosts):
    assert hosts["app1"].run("cat /etc/shop/secret_key") == hosts["app2"].run("cat /etc/shop/secret_key")


def test_session_and_upload_are_available_on_all_hosts(web, tmp_path):
    jar = ["--cookie", str(tmp_path / "jar"), "--cookie-jar", str(tmp_path / "jar")]
    page = visit(web, "/private/", *jar).stdout
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    (tmp_path / "letter.txt").write_text(f"by way of {web.name}")
    form = ["-F", f"csrfmiddlewaretoken={token}", "-F", f"file=@{tmp_path / 'letter.txt'}"]
    posted = visit(web, "/private/", *jar, *form, "-H", f"Referer: https://{NAME}/private/", "-D", "-")
    assert posted.stdout.startswith("HTTP/2 302"), posted.stdout
    (address,) = re.findall(r'"(/private/[0-9a-f-]{36}/)"', visit(web, "/private/", *jar).stdout)
    assert {visit(web, address, *jar).stdout for _ in range(8)} == {f"by way of {web.name}"}
    assert visit(web, address).stdout != f"by way of {web.name}"


@contextlib.contextmanager
def listening(host):
    """Keep all that passes on the wires of a host; what was heard is in the list afterwards."""
    argv = ["docker", "exec", "--interactive", host.container, "python3", "-c", EAR, "/root/heard"]
    heard = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ear:
        ear.stdout.readline()
        yield heard
        ear.communicate()
    argv = ["docker", "exec", host.container, "cat", "/root/heard"]
    heard.append(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)


def test_traffic_between_hosts_is_encrypted(hosts):
    app, database = hosts["app1"], hosts["db1"]
    passwords = [database.run("cat /etc/shop/database_password"), hosts["web1"].run("cat /etc/shop/valkey_password")]
    with listening(app) as by_app, listening(database) as by_database:
        for _ in range(6):
            assert '"ok"' in visit(hosts["web1"], "/health/", "--cookie", "sessionid=canary-on-the-wire").stdout
        to = f"host={database.address} user=shop dbname=shop passfile=/etc/shop/pgpass sslmode=require"
        assert "(1,)" in connect(app, to)
        cached(app, 'cache.set("kept", "cached-on-the-wire")')
        # What is sent in the clear would be heard.
        hosts["web1"].run(f"bash -c 'echo plain-on-the-wire > /dev/tcp/{app.address}/22'; sleep 0.5")
    assert b"plain-on-the-wire" in by_app[0]
    for heard in (*by_app, *by_database):
        assert len(heard) > 5_000
        for secret in (
            "canary-on-the-wire",
            "cached-on-the-wire",
            *passwords,
            "select 1",
            "SELECT 1",
            NAME,
            "GET /health/",
        ):
            assert secret.encode() not in heard
