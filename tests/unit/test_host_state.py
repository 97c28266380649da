"""What a host is refused for before site.yml changes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.django_vps.stack.plugins.modules import check_host
from ansible_collections.django_vps.stack.plugins.plugin_utils.host_state import judge_host

SSHD = 'LISTEN 0      128          0.0.0.0:22        0.0.0.0:*    users:(("sshd",pid=611,fd=3))'
NGINX = (
    'LISTEN 0      511             [::]:80           [::]:*    users:(("nginx",pid=700,fd=6),("nginx",pid=701,fd=6))'
)
OPTIONS = {"web": True, "database": True, "valkey_port": 0, "http3": False, "firewall": True, "ssh_ports": [22]}
OPTIONS |= {"pooler_port": 0, "point_in_time": "", "archive_sftp": False}
FACTS = {"distribution": "Debian", "distribution_version": "13", "distribution_release": "trixie"}
FACTS["pgbackrest"] = []
FACTS["packages"] = {"nginx": [], "postgresql-17": [], "postgresql-client-17": []}
FACTS["poolers"] = {"shop": "6432"}
STATE = {"ansible_facts": FACTS, "clock": 1000, "listening": [SSHD], "ssh_sockets": [], "nginx_sites": []}
STATE["ports_of_valkey"] = ["6380", "0"]


def judged(options=None, facts=None, **state) -> list[str]:
    state = {**STATE, **state, "ansible_facts": {**FACTS, **(facts or {})}}
    return list(judge_host("vps1", {**OPTIONS, **(options or {})}, state, now=1000.5))


def listener(address: str, program: str) -> str:
    return f'LISTEN 0      5          {address}      0.0.0.0:*    users:(("{program}",pid=42,fd=3))'


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"listening": [SSHD, NGINX]},
        {"listening": [SSHD, listener("127.0.0.1:5432", "postgres"), listener("127.0.0.1:8025", "mailpit")]},
        {"clock": 1299},
        {"facts": {"distribution_release": "bookworm"}},
        {"options": {"http3": True}},
        # Ansible comes by another way than SSH.
        {"listening": []},
        # systemd listens for sshd.
        {"listening": [listener("*:22", "systemd")], "ssh_sockets": ["[::]:22 (Stream)"]},
        {"facts": {"distribution": "Ubuntu", "distribution_release": "noble", "packages": {"ufw": []}}},
        {"facts": {"packages": {"ufw": []}}, "options": {"firewall": False, "ssh_ports": [2222]}},
        {"listening": [SSHD, listener("0.0.0.0:80", "python3")], "options": {"web": False}},
        *(
            {"listening": [SSHD, listener("127.0.0.1:6380", program)], "options": {"valkey_port": 6380}}
            for program in ("valkey-server", "redis-server")
        ),
        {"listening": [SSHD, listener("127.0.0.1:6379", "redis-server")], "options": {"valkey_port": 6380}},
        {"listening": [SSHD, listener("10.0.0.1:6432", "pgbouncer")], "options": {"pooler_port": 6432}},
        {"options": {"point_in_time": "shop", "archive_sftp": True}, "facts": {"pgbackrest": ["shop"]}},
        {"options": {"archive_sftp": True}, "facts": {"pgbackrest": ["blog"], "distribution_release": "bookworm"}},
    ],
)
def test_a_host_that_a_site_can_run_on_is_accepted(state):
    assert judged(**state) == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"options": {"point_in_time": "shop"}, "facts": {"pgbackrest": ["blog", "shop"]}},
            "backup_point_in_time: PostgreSQL of vps1 has one archive, by /etc/pgbackrest/blog.conf. Fix: set it for",
        ),
        (
            {"options": {"point_in_time": "shop", "archive_sftp": True}, "facts": {"distribution_release": "bookworm"}},
            "backup_point_in_time: the pgBackRest of vps1 has no SFTP; Debian's has it from 13 on. Fix: set",
        ),
        ({"clock": 700}, "The clock of vps1 says 1970-01-01T00:11:40Z, and the one here 1970-01-01T00:16:40Z. Fix:"),
        (
            {"facts": {"distribution_version": "11.9", "distribution_release": "bullseye"}},
            "vps1 runs Debian 11.9. Fix: use Debian 13 or 12",
        ),
        (
            {"options": {"http3": True}, "facts": {"distribution_release": "bookworm"}},
            "nginx_http3: the nginx of vps1 has no HTTP/3",
        ),
        (
            {"listening": [SSHD, listener("0.0.0.0:80", "apache2")]},
            "vps1: port 80 is used by apache2, process 42; the site needs it.\nFix: remove that program",
        ),
        ({"listening": [SSHD, listener("[::]:5432", "docker-proxy")]}, "vps1: port 5432 is used by docker-proxy"),
        (
            {"listening": [SSHD, listener("0.0.0.0:6380", "nc")], "options": {"valkey_port": 6380}},
            "vps1: port 6380 is used by nc",
        ),
        (
            {"listening": [SSHD, NGINX], "nginx_sites": ["/etc/nginx/conf.d/blog.conf"]},
            "vps1: port 80 is used by nginx for /etc/nginx/conf.d/blog.conf",
        ),
        *(
            (
                {"listening": [SSHD, listener("127.0.0.1:6379", program)], "options": {"valkey_port": 6379}},
                f"vps1: port 6379 is used by {program}, process 42; the site needs it.\nFix: remove that program, or"
                " stop its unit for good, as by systemctl disable --now UNIT. Or set valkey_port to another one.",
            )
            for program in ("redis-server", "valkey-server", "nginx")
        ),
        *(
            (
                {"listening": [SSHD, listener(f"0.0.0.0:{port}", program)], "options": {"pooler_port": port}},
                f"vps1: port {port} is used by {program}, process 42; the site needs it.\nFix: remove that program, or"
                " stop its unit for good, as by systemctl disable --now UNIT. Or set site_database_pooler_port to"
                " another one.",
            )
            for port, program in ((6432, "nc"), (6433, "pgbouncer"))
        ),
        ({"listening": [SSHD, NGINX], "facts": {"packages": {}}}, "vps1: port 80 is used by nginx, process 700"),
        (
            {
                "listening": [SSHD, listener("127.0.0.1:5432", "postgres")],
                "facts": {"packages": {"postgresql-client-17": []}},
            },
            "vps1: port 5432 is used by postgres, process 42",
        ),
        ({"listening": [SSHD, listener("0.0.0.0:5432", "nginx")]}, "vps1: port 5432 is used by nginx"),
        ({"facts": {"packages": {"ufw": []}}}, "ufw manages the firewall of vps1. Fix: remove it"),
        (
            {"options": {"ssh_ports": [22, 2222]}},
            "host_ssh_ports: expected ports on which sshd of vps1 listens (22), got 2222. Fix: behind a router",
        ),
        (
            {"options": {"ssh_ports": [2222]}, "listening": [], "ssh_sockets": ["0.0.0.0:22 (Stream)"]},
            "host_ssh_ports: expected ports on which sshd of vps1 listens (22), got 2222.",
        ),
    ],
)
def test_a_host_that_a_site_cannot_run_on_is_refused(state, message):
    [found] = judged(**state)
    assert found.startswith(message)


def test_ports_of_the_valkeys_of_sites_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(check_host, "OWN_VALKEY", (tmp_path, check_host.OWN_VALKEY[1]))
    monkeypatch.setattr(check_host, "CONFIGURATIONS", tmp_path)
    for name, text in {
        "valkey-server@shop.service.d/django_vps.conf": "",
        "valkey/valkey-shop.conf": "bind 127.0.0.1\nport 6379\n",
        "redis-server@blog.service.d/django_vps.conf": "",
        "redis/redis-blog.conf": "port 0\ntls-port 6380\n",
        "redis-server@own.service.d/override.conf": "",
        "redis/redis-own.conf": "port 6381\n",
        "valkey-server@gone.service.d/django_vps.conf": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(check_host.ports_of_valkey()) == ["0", "6379", "6380"]


def test_all_problems_are_named_at_once():
    found = judged(clock=0, facts={"distribution_release": "sid", "packages": {"shorewall": []}})
    assert len(found) == 3


def test_ports_of_the_poolers_of_sites_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(check_host, "UNITS", tmp_path)
    template = Path(__file__).parents[2] / "roles/postgres/templates/pgbouncer.service.j2"
    for site, clients in {"shop": ["10.0.0.2"], "blog": []}.items():
        variables = {
            "ansible_managed": "managed",
            "inventory_hostname": "db1",
            "site_name": site,
            "site_database_port": 6432 if clients else 5432,
            "site_topology": {"database_clients": clients},
            "site_sandbox": [],
            "__postgres_servers": {"db1": "10.0.0.1"},
            "__postgres_pooler_clients": 5000,
        }
        names = ("site_service", "site_database_user", "site_database_host", "__postgres_pooler_ini")
        templar = Templar(loader=DataLoader(), variables={**dict.fromkeys(names, "x"), **variables})
        (tmp_path / f"{site}-pgbouncer.service").write_text(templar.template(trust_as_template(template.read_text())))
    (tmp_path / "own-pgbouncer.service").write_text("[Unit]\nDescription=mine, port 6433\n")
    assert check_host.poolers() == {"shop": "6432", "blog": "5432"}
