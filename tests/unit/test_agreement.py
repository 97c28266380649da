"""What several hosts agree on: by what name they call a release, where they go back to, which database is promoted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.django_vps.stack.plugins.filter.connection_limits import connection_limits
from ansible_collections.django_vps.stack.plugins.filter.database_state import database_state
from ansible_collections.django_vps.stack.plugins.filter.facts_of import facts_of
from ansible_collections.django_vps.stack.plugins.filter.furthest_host import furthest_host
from ansible_collections.django_vps.stack.plugins.filter.release_name import release_name
from ansible_collections.django_vps.stack.plugins.filter.restore_point import restore_point
from ansible_collections.django_vps.stack.plugins.filter.shared_secret import shared_secret

ROLES = Path(__file__).parent.parent.parent / "roles"


def agreed(role: str, expression: str, hosts: dict[str, dict], **variables):
    """A variable of the role or what is said with them, by what is known of each host; the first one is asked."""
    ours = yaml.safe_load((ROLES / role / "vars/main.yml").read_text())
    texts = {name: trust_as_template(value) if isinstance(value, str) else value for name, value in ours.items()}
    known = {"hostvars": hosts, "inventory_hostname": next(iter(hosts)), "ansible_play_hosts": list(hosts)}
    # Templar alone does not find the filters of a collection.
    known["__postgres_state"] = database_state(hosts, hosts, hosts)
    templar = Templar(loader=DataLoader(), variables={**texts, **known, **variables})
    return templar.template(trust_as_template(f"{{{{ {expression} }}}}"))


def survey(same: str = "", others: str = "", live: str = "", following: str = "r9") -> dict:
    return {"__django_survey": {"same": same.split(), "others": others.split(), "live": live, "next": following}}


#: What PostgreSQL has for the roles of all sites, with 100 connections.
USABLE = 87


def allowed(found: str) -> list[int]:
    """What the role postgres reads from the output of its preflight: the limits of other sites and of this one."""
    clusters = {"stdout_lines": ["/etc/postgresql/17/main/postgresql.conf:port = 5432", *found.splitlines()]}
    return agreed("postgres", "__postgres_allowed", {"vps1": {}}, __postgres_clusters=clusters)


def test_usable_connections_leave_some_for_administrators():
    assert agreed("postgres", "__postgres_usable", {"vps1": {}}, __postgres_settings={"max_connections": 100}) == USABLE


@pytest.mark.parametrize(
    ("limit", "needed", "found", "connections", "has_room"),
    [
        # The server is not there yet: limit of the role, and whether it is accepted.
        (0, 42, "", 42, True),
        (0, 88, "", 87, False),
        (200, 88, "", 87, True),
        # Asynchronous workers.
        (0, 0, "", 43, True),
        # Three sites of 42, one after the other.
        (0, 42, "42|0", 42, True),
        (0, 42, "84|0", 42, False),
        (3, 42, "84|0", 3, True),
        (0, 0, "84|0", 43, False),
        # The site has its share, or wants more.
        (0, 42, "84|42", 42, True),
        (0, 43, "84|42", 43, False),
        (0, 0, "84|87", 43, True),
    ],
)
def test_connections_of_all_sites_of_a_server_are_counted(limit, needed, found, connections, has_room):
    limits = connection_limits(needed, limit, USABLE, allowed(found), pooled=False, processors=2)
    assert (limits["role"], limits["has_room"]) == (connections, has_room)


@pytest.mark.parametrize(
    ("limit", "needed", "found", "processors", "limit_of_role", "pool", "has_room"),
    [
        # The pool has what the processes need at most; asynchronous ones need an unknown number.
        (0, 26, "", 2, 26, 16, True),
        (0, 400, "", 2, 30, 20, True),
        (0, 0, "", 2, 30, 20, True),
        (0, 0, "", 8, 42, 32, True),
        (50, 400, "", 2, 50, 40, True),
        (5, 400, "", 2, 5, 1, True),
        # Other sites have the rest.
        (0, 400, "57|0", 2, 30, 20, True),
        (0, 400, "58|0", 2, 30, 20, False),
        # The live release connects without the pooler until the switch.
        (0, 400, "0|87", 2, 87, 20, True),
        (0, 400, "0|200", 2, 87, 20, True),
        (50, 400, "0|87", 2, 50, 40, True),
    ],
)
def test_a_pool_has_few_connections_for_many(limit, needed, found, processors, limit_of_role, pool, has_room):
    limits = connection_limits(needed, limit, USABLE, allowed(found), pooled=True, processors=processors)
    assert (limits["role"], limits["pool"], limits["has_room"]) == (limit_of_role, pool, has_room)


@pytest.mark.parametrize(
    ("known", "problems"),
    [
        # Before the first release, and on a host without releases.
        ({"__django_releases": {"live": "", "journal": [], "restarts": {}}, "__django_web": {"wrong": ""}}, []),
        ({"__django_releases": {"skipped": True}, "__django_switch": {"skipped": True}}, []),
        (
            {"__django_releases": {"skipped": True}, "__django_web": {"wrong": "the web server does not run"}},
            ["the web server does not run"],
        ),
        (
            {"__django_releases": {"live": "", "journal": [{"to": "r2"}, {"to": "r1"}], "restarts": {}}},
            ["/srv/shop/current names no release, and r2 went live last"],
        ),
        (
            {"__django_releases": {"live": "r2", "journal": [{"to": "r2"}]}, "__django_switch": {"wrong": "x"}},
            ["release r2: x"],
        ),
    ],
)
def test_status_lists_what_is_wrong_with_a_host(known, problems):
    assert agreed("django", "django_problems", {"vps1": {}}, site_home="/srv/shop", **known) == problems


@pytest.mark.parametrize(
    ("surveys", "name"),
    [
        ([survey(), survey()], "r9"),
        ([survey(following="r7"), survey(following="r8")], "r8"),
        # All have it; one that a killed run has not built everywhere; one that joins.
        ([survey("r1", live="r1"), survey("r1", live="r1")], "r1"),
        ([survey("r2", "r1", live="r1"), survey("", "r1", live="r1")], "r2"),
        ([survey("r1 r2", live="r1"), survey("r2", live="r2")], "r2"),
        # What is live wins over what is newer and the same.
        ([survey("r1 r2", live="r1"), survey("r1 r2", live="r1")], "r1"),
        # Of the same name, but bad or of something else on another host.
        ([survey("r2", live="r2"), survey("", "r2", live="r1")], "r9"),
    ],
)
def test_release_name_is_the_same_and_unique_on_all_hosts(surveys, name):
    hosts = {f"app{number}": one for number, one in enumerate(surveys, 1)}
    assert release_name(hosts, hosts) == name


def known(live: str, previous: str) -> dict:
    return {"__django_known": {"live": live, "previous": previous}}


@pytest.mark.parametrize(
    ("states", "leader"),
    [
        ([known("r3", "r2"), known("r3", "r2")], "app1"),
        # A roll that stopped: back is where the others still are, be it a deploy or a rollback that did.
        ([known("r3", "r2"), known("r2", "r1")], "app1"),
        ([known("r2", "r1"), known("r3", "r2")], "app2"),
        # A host alone has not been asked.
        ([{}], "app1"),
    ],
)
def test_rollback_target_comes_from_the_furthest_host(states, leader):
    hosts = {f"app{number}": one for number, one in enumerate(states, 1)}
    assert furthest_host(hosts, hosts) == leader


@pytest.mark.parametrize(
    ("files", "secret"),
    [
        ([None, None], "new1"),
        ([None, "b2xkCg=="], "old"),
        (["b2xkCg==", "b3RoZXIK"], "old"),
        # The file that a killed run left empty is none.
        (["", "b2xkCg=="], "old"),
    ],
)
def test_new_host_gets_the_secret_of_the_others(files, secret):
    hosts = {
        f"app{number}": {"key": {"failed": True} if content is None else {"content": content}, "new": f"new{number}"}
        for number, content in enumerate(files, 1)
    }
    assert shared_secret(hosts, hosts, "key", "new") == secret


@pytest.mark.parametrize(
    ("said", "wanted", "target"),
    [
        (["primary 0", "replica 100"], "", "db2"),
        (["replica 100", "primary 0"], "", "db1"),
        (["primary 0", "replica 100", "replica 200"], "", "db3"),
        (["primary 0", "replica 200", "replica 200"], "", "db3"),
        (["primary 0", "replica 100", "replica 200"], "db2", "db2"),
        # It has died, and is not in the run; a run has died that had stopped it, or that had promoted the other too.
        ([None, "replica 100"], "", "db2"),
        (["down 0", "replica 100"], "", "db2"),
        (["down 0", "primary 0"], "", "db2"),
        (["primary 0", "new 0"], "", ""),
        (["primary 0"], "", ""),
    ],
)
def test_promotion_selects_the_most_advanced_standby(said, wanted, target):
    hosts = {f"db{number}": {"__postgres_asked": {"stdout": one}} if one else {} for number, one in enumerate(said, 1)}
    servers = {name: f"10.0.0.{number}" for number, name in enumerate(hosts)}
    variables = {"site_topology": {"database_servers": servers}, "postgres_promoted": wanted}
    assert agreed("postgres", "__postgres_candidate", hosts, **variables) == target


@pytest.mark.parametrize(
    ("said", "primary"),
    [
        (["new 0", "new 0"], "db1"),
        (["primary 0", "replica 100"], "db1"),
        (["replica 100", "primary 0"], "db2"),
        (["replica 100", "primary 0", "new 0"], "db2"),
    ],
)
def test_primary_is_found_by_the_states_of_the_servers(said, primary):
    hosts = {f"db{number}": {"__postgres_asked": {"stdout": one}} for number, one in enumerate(said, 1)}
    assert database_state(hosts, hosts, hosts)["primary"] == primary


def test_the_host_that_this_run_promoted_is_the_primary():
    hosts = {
        "db1": {"__postgres_asked": {"stdout": "primary 0"}, "__postgres_promoted_host": "db2"},
        "db2": {"__postgres_asked": {"stdout": "replica 100"}, "__postgres_promoted_host": "db2"},
    }
    state = database_state(hosts, hosts, hosts)
    assert (state["primary"], state["readable"]) == ("db2", ["db1"])


def test_unreachable_standby_is_not_read():
    hosts = {"db1": {"__postgres_asked": {"stdout": "primary 0"}}, "db2": {}}
    state = database_state(hosts, hosts, ["db1"])
    assert (state["states"], state["readable"]) == ({"db1": "primary", "db2": "unreachable"}, [])


def test_only_a_host_of_the_run_is_promoted():
    hosts = {f"db{number}": {"__postgres_asked": {"stdout": f"replica {number}"}} for number in (1, 2)}
    assert database_state(hosts, hosts, ["db1"])["candidate"] == "db1"


@pytest.mark.parametrize(
    ("tasks", "said", "wanted", "goes_on"),
    [
        ("candidate.yml", ["primary 0", "replica 100"], "", True),
        ("candidate.yml", ["primary 0", "replica 100"], "db1", True),
        ("candidate.yml", ["primary 0", "new 0"], "", False),
        ("candidate.yml", ["primary 0", "new 0"], "db2", False),
        ("candidate.yml", ["primary 0", "replica 100"], "db9", False),
        ("primary.yml", ["new 0", "new 0"], "", True),
        ("primary.yml", ["primary 0", "new 0"], "", True),
        ("primary.yml", ["primary 0", "primary 0"], "", False),
        ("primary.yml", ["down 0", "new 0"], "", False),
        ("primary.yml", ["down 0", "replica 100"], "", False),
    ],
)
def test_database_change_that_would_lose_data_is_refused(tasks, said, wanted, goes_on):
    hosts = {f"db{number}": {"__postgres_asked": {"stdout": one}} for number, one in enumerate(said, 1)}
    variables = {"site_topology": {"database_servers": dict.fromkeys(hosts, "10.0.0.1")}, "postgres_promoted": wanted}
    conditions = []
    for task in yaml.safe_load((ROLES / "postgres/tasks" / tasks).read_text()):
        that = task.get("ansible.builtin.assert", {"that": []})["that"]
        for condition in that if isinstance(that, list) else [that]:
            mine = {name: trust_as_template(text) for name, text in task.get("vars", {}).items()}
            # Another value that a filter of the collection returns.
            mine["__postgres_releases"] = ["trixie"]
            conditions.append(agreed("postgres", condition, hosts, **variables, **mine))
    assert conditions
    assert all(conditions) is goes_on


SET = {"item": "db1", "rc": 0, "stdout": '{"set": "1a2b", "time": "now", "made": true, "message": "set 1a2b of now"}'}
STANDBY = {"item": "db2", "rc": 0, "stdout": "{}"}
DEAD = {"item": "db2", "unreachable": True, "msg": "no route"}
REFUSED = {"item": "db1", "rc": 1, "stdout": "", "stderr": "restic backup: no answer"}


@pytest.mark.parametrize(
    ("answers", "named", "message", "failures"),
    [
        ([], "", "", []),
        ([SET], "1a2b", "set 1a2b of now", []),
        ([STANDBY, SET], "1a2b", "set 1a2b of now", []),
        # A standby can be down, and the primary cannot.
        ([DEAD, SET], "1a2b", "set 1a2b of now", []),
        ([{**DEAD, "item": "db1"}, STANDBY], "", "", ["db1: no route"]),
        # Before the first deploy.
        ([STANDBY], "", "", []),
        ([REFUSED], "", "", ["db1: restic backup: no answer"]),
        ([{**REFUSED, "rc": 2}], "", "", ["db1: its backup is of an earlier version of the stack; run site.yml"]),
        (
            [{"item": "db1", "rc": 0, "stdout": "skipped, since /usr/local/sbin/shop-backup does not exist"}],
            "",
            "db1 has no backup yet, so there is no set to go back to; site.yml sets it up",
            [],
        ),
        # A dry run.
        ([{"item": "db1", "skipped": True, "stdout": ""}], "", "", []),
    ],
)
def test_restore_point_is_that_of_the_primary(answers, named, message, failures):
    found = restore_point({"results": answers} if answers else {})
    assert (found["set"], found["message"], found["failures"]) == (named, message, failures)


def test_facts_of_hosts_without_the_variable_are_empty():
    hosts = {"app1": {"__known": {"live": "r1"}}, "app2": {}, "db1": {"__known": {"live": "r2"}}}
    assert facts_of(["app1", "app2"], hosts, "__known") == {"app1": {"live": "r1"}, "app2": {}}
