"""Who comes to whom, as the playbooks read it from an inventory's groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parent.parent.parent
TOPOLOGY = yaml.safe_load((ROOT / "playbooks/vars/topology.yml").read_text())


def told(groups: dict[str, str], host: str, **facts) -> dict:
    """The variables of the file as a host sees them; an address is a number, a site what follows a dash."""
    groups = {name: members.split() for name, members in groups.items()}
    everybody = sorted({member for members in groups.values() for member in members})
    hostvars = {
        name: {
            "site_name": name.partition("-")[2] or "shop",
            "site_domains": ["shop.example.com", "www.shop.example.com"],
            "host_address": f"10.0.0.{number}",
            "gunicorn_workers": 0,
            "__claim": {"processors": 2},
            **facts.get(name, {}),
        }
        for number, name in enumerate(everybody, 1)
    }
    play = {"groups": groups, "hostvars": hostvars, "inventory_hostname": host, "ansible_play_hosts_all": everybody}
    variables = {**{name: trust_as_template(text) for name, text in TOPOLOGY.items()}, **play, **hostvars[host]}
    templar = Templar(loader=DataLoader(), variables=variables)
    return {name: templar.template(variables[name]) for name in TOPOLOGY}


@pytest.mark.parametrize(
    "groups",
    [
        {"web": "vps1", "app": "vps1", "database": "vps1"},
        # Two sites in one inventory.
        {"web": "vps1 vps2-blog", "app": "vps1 vps2-blog", "database": "vps1 vps2-blog"},
    ],
)
def test_on_one_vps_nobody_comes_to_anybody(groups):
    seen = told(groups, "vps1")
    for name in ("__fronts", "__backends", "__serving_backends", "__clients", "__peers", "__followers"):
        assert seen[name] == [], name
    assert (seen["__several"], seen["__balanced"], seen["__at_home"]) == (False, False, True)
    assert (seen["__issuer"], seen["__ask_issuer"], seen["__valkey"]) == ("", "", "")
    assert seen["__rolling"] == ["vps1"]
    assert seen["__front"] == "shop.example.com"
    assert seen["__batches"] == "100%"


SPREAD = {"web": "web1 web2", "app": "app1 app2 app3", "database": "db1 db2"}


def test_on_several_hosts_each_part_comes_to_the_next():
    seen = told(SPREAD, "app2")
    assert seen["__backends"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert seen["__servers"] == {"db1": "10.0.0.4", "db2": "10.0.0.5"}
    assert seen["__fronts"] == ["10.0.0.6", "10.0.0.7"]
    assert seen["__clients"] == seen["__backends"]
    assert seen["__peers"] == [*(f"10.0.0.{number}" for number in (6, 7, 1, 3, 4, 5))]
    assert not seen["__at_home"]
    assert seen["__front"] == ""


def test_workers_are_counted_as_gunicorn_sizes_itself():
    # At least two a host, so that one more than the processors is enough.
    assert told(SPREAD, "db1", app2={"__claim": {"processors": 4}})["__workers"] == 3 + 5 + 3
    assert told(SPREAD, "db1", db1={"gunicorn_workers": 6})["__workers"] == 18


def test_web_server_has_the_site_by_the_first_of_its_names():
    assert told(SPREAD, "web1", web1={"nginx_domains": ["front.example.com"]})["__front"] == "front.example.com"


def test_one_web_host_orders_and_the_others_ask_it():
    assert (told(SPREAD, "web1")["__ask_issuer"], told(SPREAD, "web2")["__ask_issuer"]) == ("", "10.0.0.6")
    assert told(SPREAD, "web1")["__followers"] == ["10.0.0.7"]


@pytest.mark.parametrize(
    ("groups", "address"),
    [
        ({"app": "vps1", "valkey": "vps1"}, ""),
        ({"app": "vps1 vps2-blog", "valkey": "vps2-blog vps1"}, ""),
        ({"app": "vps1 vps2", "valkey": "vps1"}, "10.0.0.1"),
        ({"app": "vps1", "valkey": "vps2"}, "10.0.0.2"),
    ],
)
def test_the_only_app_host_comes_to_its_own_valkey_by_a_socket(groups, address):
    seen = told({"web": "vps1", "database": "vps1", **groups}, "vps1")
    assert (seen["__valkey"] in groups["valkey"], seen["__valkey_address"]) == (True, address)


def test_a_vps_that_got_a_second_app_host_keeps_its_database_at_home():
    groups = {"web": "vps1", "app": "vps1 vps2", "database": "vps1"}
    first, second = told(groups, "vps1"), told(groups, "vps2")
    assert (first["__at_home"], second["__at_home"]) == (True, False)
    assert first["__clients"] == ["10.0.0.2"]
    assert first["__backends"] == ["10.0.0.1", "10.0.0.2"]


def test_the_database_alone_may_be_elsewhere():
    seen = told({"web": "vps1", "app": "vps1", "database": "db1"}, "vps1")
    assert (seen["__several"], seen["__balanced"], seen["__at_home"]) == (True, False, False)
    assert seen["__clients"] == ["10.0.0.2"]


def test_of_two_databases_none_is_at_home():
    seen = told({"web": "vps1", "app": "vps1", "database": "vps1 vps2"}, "vps1")
    assert not seen["__at_home"]
    assert seen["__clients"] == ["10.0.0.1"]


@pytest.mark.parametrize(("live", "asked"), [((True, False), ["10.0.0.1"]), ((False, False), ["10.0.0.1", "10.0.0.2"])])
def test_visitors_are_passed_on_to_those_that_serve_or_to_all_where_none_does(live, asked):
    facts = {
        name: {"__serving": {"stat": {"exists": exists}}} for name, exists in zip(("app1", "app2"), live, strict=True)
    }
    assert told({"web": "web1", "app": "app1 app2", "database": "db1"}, "web1", **facts)["__serving_backends"] == asked


def test_batches_are_as_the_role_has_them_unless_somebody_says_so():
    defaults = yaml.safe_load((ROOT / "roles/django/defaults/main.yml").read_text())
    assert told(SPREAD, "app1")["__batches"] == defaults["django_batches"]
    assert told(SPREAD, "app1", app1={"django_batches": ["2"]})["__batches"] == ["2"]
