"""Which hosts of a site connect to which, by the groups of the inventory."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.django_vps.stack.plugins.filter import batches
from ansible_collections.django_vps.stack.plugins.filter.site_connections import site_connections
from ansible_collections.django_vps.stack.plugins.filter.topology import topology

ROOT = Path(__file__).parent.parent.parent
SPREAD = {"web": "web1 web2", "app": "app1 app2 app3", "database": "db1 db2"}


def inventory(groups: dict[str, str], **facts) -> tuple[dict, dict]:
    """Groups and hostvars; an address is a number, a site what follows a dash."""
    members = {name: hosts.split() for name, hosts in groups.items()}
    everybody = sorted({host for hosts in members.values() for host in hosts})
    hostvars = {
        name: {
            "site_name": name.partition("-")[2] or "shop",
            "site_address": f"10.0.0.{number}",
            "__claim": {"is_serving": False},
            "ansible_facts": {"processors": 2},
            **facts.get(name, {}),
        }
        for number, name in enumerate(everybody, 1)
    }
    return {"all": everybody, **members}, hostvars


def seen(groups: dict[str, str], host: str, **facts) -> dict:
    return topology(*inventory(groups, **facts), host)


@pytest.mark.parametrize(
    "groups",
    [
        {"web": "vps1", "app": "vps1", "database": "vps1"},
        # Two sites in one inventory.
        {"web": "vps1 vps2-blog", "app": "vps1 vps2-blog", "database": "vps1 vps2-blog"},
    ],
)
def test_on_one_vps_no_host_connects_to_another(groups):
    found = seen(groups, "vps1")
    assert found["hosts"] == found["web"] == found["app"] == found["database"] == ["vps1"]
    for name in ("load_balancers", "backends", "database_clients", "database_peers", "peers", "certificate_followers"):
        assert found[name] == [], name
    assert found["members"] == {}
    assert (found["is_multi_host"], found["is_balanced"], found["database_is_local"]) == (False, False, True)
    assert (found["is_web"], found["is_app"], found["is_database"], found["is_valkey"]) == (True, True, True, False)
    assert not found["is_certificate_host"]
    assert (found["certificate_host_address"], found["valkey"], found["valkey_address"]) == ("", "", "")


def test_on_several_hosts_each_part_connects_to_the_next():
    found = seen(SPREAD, "app2")
    assert found["backends"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert found["database_servers"] == {"db1": "10.0.0.4", "db2": "10.0.0.5"}
    assert found["load_balancers"] == ["10.0.0.6", "10.0.0.7"]
    assert found["database_clients"] == found["backends"]
    assert found["peers"] == [*(f"10.0.0.{number}" for number in (6, 7, 1, 3, 4, 5))]
    assert found["members"] == {name: hosts.split() for name, hosts in SPREAD.items()}
    assert not found["database_is_local"]
    assert not found["is_web"]


def test_app_hosts_connect_to_a_pooler_over_the_network():
    pooled = {name: {"site_database_pooler": "pgbouncer"} for name in ("app1", "app2", "db1", "vps1")}
    groups = {"web": "web1", "app": "app1 app2", "database": "db1"}
    assert seen(groups, "db1", **pooled)["pooler_clients"] == ["10.0.0.1", "10.0.0.2"]
    assert seen(groups, "app1", **pooled)["pooler_clients"] == seen(groups, "db1")["pooler_clients"] == []
    one = dict.fromkeys(groups, "vps1")
    assert seen(one, "vps1", **pooled)["pooler_clients"] == []


def test_all_hosts_know_a_pooler_of_an_earlier_run():
    groups = {"web": "web1", "app": "app1", "database": "db1"}
    for poolers, has_pooler in (({"shop": "6432"}, True), ({"blog": "6432"}, False), ({}, False)):
        facts = {"db1": {"ansible_facts": {"processors": 2, "poolers": poolers}}}
        assert {seen(groups, host, **facts)["has_pooler"] for host in ("db1", "app1")} == {has_pooler}


def test_only_a_host_that_serves_another_opens_a_port_to_it():
    assert seen(SPREAD, "web1")["load_balancers"] == seen(SPREAD, "db1")["load_balancers"] == []
    assert seen(SPREAD, "db1")["database_peers"] == [f"10.0.0.{number}" for number in (1, 2, 3, 4, 5)]
    assert seen(SPREAD, "app1")["database_peers"] == []


def test_processors_of_all_app_hosts_are_counted():
    assert seen(SPREAD, "db1", app2={"ansible_facts": {"processors": 4}})["app_processors"] == 2 + 4 + 2


@pytest.mark.parametrize(
    ("changes", "connections"),
    [
        # At least two workers a host, so that one more than the processors is enough: 2 releases of 3 + 3 + 3 workers.
        ({}, 2 * 4 * 9 + 10),
        ({"gunicorn_workers": 6}, 2 * 4 * 18 + 10),
        ({"django_services": [{"name": "worker"}]}, 2 * 4 * 9 + 10 * (3 + 1)),
        ({"gunicorn_worker_class": "asgi"}, 0),
    ],
)
def test_connections_are_counted_as_gunicorn_sizes_itself(changes, connections):
    settings = {"gunicorn_worker_class": "gthread", "gunicorn_workers": 0, "gunicorn_threads": 4, "django_services": []}
    assert site_connections(seen(SPREAD, "db1"), *{**settings, **changes}.values()) == connections


def test_first_web_host_requests_certificate_and_others_fetch_it():
    first, second = seen(SPREAD, "web1"), seen(SPREAD, "web2")
    assert (first["is_certificate_host"], second["is_certificate_host"]) == (True, False)
    assert (first["certificate_host_address"], second["certificate_host_address"]) == ("", "10.0.0.6")
    assert (first["certificate_followers"], second["certificate_followers"]) == (["10.0.0.7"], [])


@pytest.mark.parametrize(
    ("groups", "address"),
    [
        ({"app": "vps1", "valkey": "vps1"}, ""),
        ({"app": "vps1 vps2-blog", "valkey": "vps2-blog vps1"}, ""),
        ({"app": "vps1 vps2", "valkey": "vps1"}, "10.0.0.1"),
        ({"app": "vps1", "valkey": "vps2"}, "10.0.0.2"),
    ],
)
def test_single_app_host_reaches_its_valkey_locally(groups, address):
    found = seen({"web": "vps1", "database": "vps1", **groups}, "vps1")
    assert (found["valkey"] in groups["valkey"], found["valkey_address"]) == (True, address)
    clients = seen({"web": "vps1", "database": "vps1", **groups}, found["valkey"])["valkey_clients"]
    assert bool(clients) is bool(address)


def test_a_vps_with_a_second_app_host_keeps_its_local_database():
    groups = {"web": "vps1", "app": "vps1 vps2", "database": "vps1"}
    first, second = seen(groups, "vps1"), seen(groups, "vps2")
    assert (first["database_is_local"], second["database_is_local"]) == (True, False)
    assert first["database_clients"] == ["10.0.0.2"]
    assert first["backends"] == ["10.0.0.1", "10.0.0.2"]


def test_the_database_alone_may_be_on_another_host():
    found = seen({"web": "vps1", "app": "vps1", "database": "db1"}, "vps1")
    assert (found["is_multi_host"], found["is_balanced"], found["database_is_local"]) == (True, False, False)
    assert found["database_clients"] == ["10.0.0.2"]


def test_of_two_databases_none_is_local():
    found = seen({"web": "vps1", "app": "vps1", "database": "vps1 vps2"}, "vps1")
    assert not found["database_is_local"]
    assert found["database_clients"] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("facts", "addresses"),
    [
        ({"app1": {"__claim": {"is_serving": True}}}, ["10.0.0.1"]),
        # A dry run has no release to name.
        ({"app1": {"__claim": {"is_serving": True}}, "app2": {"__django_release": {"release": ""}}}, ["10.0.0.1"]),
        ({"app2": {"__django_release": {"release": "r1"}}}, ["10.0.0.2"]),
        ({}, ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_requests_go_to_serving_hosts_or_to_all_if_none_serves(facts, addresses):
    assert seen({"web": "web1", "app": "app1 app2", "database": "db1"}, "web1", **facts)["backends"] == addresses


def test_sites_on_the_same_machine_are_neighbours():
    groups = {"web": "vps1 vps2-blog vps3-news", "app": "vps1", "database": "vps1"}
    machines = {"vps1": "192.0.2.1", "vps2-blog": "192.0.2.1", "vps3-news": "192.0.2.2"}
    facts = {host: {"ansible_host": address} for host, address in machines.items()}
    assert seen(groups, "vps1", **facts)["neighbour_sites"] == ["shop", "blog"]


def test_app_hosts_switch_in_batches_of_role_or_inventory():
    defaults = yaml.safe_load((ROOT / "roles/django/defaults/main.yml").read_text())
    assert batches.batches(*inventory(SPREAD)) == defaults["django_batches"]
    assert batches.batches(*inventory(SPREAD, app1={"django_batches": ["2"]})) == ["2"]


@pytest.mark.parametrize("app", ["vps1", "vps1 vps2-blog", ""])
def test_app_hosts_of_separate_sites_switch_at_once(app):
    assert batches.batches(*inventory({"app": app})) == "100%"
    assert batches.batches({"app": app.split()}, {}) == "100%"


def test_each_part_of_a_site_is_backed_up_where_it_is():
    def parts(host: str) -> list[str]:
        return seen(SPREAD, host)["backup_parts"]

    assert seen({"web": "vps1", "app": "vps1", "database": "vps1"}, "vps1")["backup_parts"] == [
        *("database", "files", "certificates")
    ]
    assert (parts("web1"), parts("web2"), parts("app1"), parts("app2")) == (["certificates"], [], ["files"], [])
    # Whichever is the primary makes the dump.
    assert parts("db1") == parts("db2") == ["database"]
    # The first app host makes that of a database that the stack does not manage.
    outside = {group: names for group, names in SPREAD.items() if group != "database"}
    assert seen(outside, "app1")["backup_parts"] == ["database", "files"]
    assert seen(outside, "app2")["backup_parts"] == []
