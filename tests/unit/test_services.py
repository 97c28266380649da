"""Services and timers: what their units say, and which files of a site's units nobody wants any more."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parent.parent.parent / "roles/django"
UNITS = "/etc/systemd/system"
WORKER = {"name": "worker", "command": "celery -A shop worker -n 100%h"}
CLEANUP = {"name": "cleanup", "command": "python manage.py clearsessions", "on_calendar": "daily"}
SITE = {
    "site_name": "shop",
    "site_user": "shop",
    "site_home": "/srv/shop",
    "site_media_root": "/srv/shop/media",
    "site_service": "shop-gunicorn",
    "site_database_is_pooled": False,
    "site_database_separate_owner": False,
    "site_sandbox": ["SystemCallFilter=~@privileged @resources", "CapabilityBoundingSet="],
    "django_services": [],
    "django_timers": [],
    "ansible_managed": "managed",
    "inventory_hostname": "vps1",
    "site_database_socket_dir": "/run/postgresql",
    "site_topology": {"app": ["vps1"], "database_is_local": True},
}


def rendered(text, **variables):
    """A text with the variables of the role."""
    ours = {
        name: trust_as_template(value) if isinstance(value, str) else value
        for name, value in yaml.safe_load((ROLE / "vars/main.yml").read_text()).items()
    }
    templar = Templar(loader=DataLoader(), variables={**ours, **SITE, **variables})
    return templar.template(trust_as_template(text))


def lines(template, **variables):
    return rendered((ROLE / "templates" / template).read_text(), **variables).splitlines()


def test_service_stops_with_its_release_within_its_timeout():
    unit = lines("service@.service.j2", __django_job=WORKER)
    assert {"PartOf=shop-gunicorn@%i.service", "Type=exec", "Restart=always", "TimeoutStopSec=300s"} <= set(unit)
    assert "TimeoutStopSec=9s" in lines("service@.service.j2", __django_job={**WORKER, "stop_timeout": 9})


def test_only_a_timer_goes_past_a_pooler():
    pooled = {"site_database_is_pooled": True, "site_database_direct_env": "/etc/shop/database_direct"}
    files = {
        job["name"]: [
            line for line in lines("service@.service.j2", __django_job=job, **pooled) if "EnvironmentFile" in line
        ]
        for job in (WORKER, CLEANUP)
    }
    of_release = "EnvironmentFile=/srv/shop/releases/%i/env"
    assert files == {"worker": [of_release], "cleanup": [of_release, "EnvironmentFile=-/etc/shop/database_direct"]}


def test_single_service_starts_only_in_the_live_release():
    conditions = [
        line
        for line in lines("service@.service.j2", __django_job={**WORKER, "single": True})
        if "ExecCondition" in line
    ]
    assert len(conditions) == 1
    assert "readlink /srv/shop/current" in conditions[0]
    assert not [line for line in lines("service@.service.j2", __django_job=WORKER) if "ExecCondition" in line]


def test_single_service_is_on_the_first_host_only():
    jobs = [WORKER, {**WORKER, "name": "beat", "single": True}]
    hosts = {"django_services": jobs, "site_topology": {"app": ["vps1", "vps2"]}}
    assert rendered("{{ __django_service_units }}", **hosts) == ["shop.worker", "shop.beat"]
    assert rendered("{{ __django_service_units }}", **hosts, inventory_hostname="vps2") == ["shop.worker"]


def test_single_service_stays_on_its_host_in_a_limited_run():
    jobs = {"django_services": [{**WORKER, "single": True}], "site_topology": {"app": ["vps1", "vps2"]}}
    without = {"inventory_hostname": "vps2", "site_release_hosts": ["vps2"]}
    assert rendered("{{ __django_service_units }}", **jobs, **without) == []


def test_a_timers_command_runs_once_and_outlives_its_release():
    unit = lines("service@.service.j2", __django_job=CLEANUP)
    assert "Type=oneshot" in unit
    assert not [line for line in unit if line.startswith(("PartOf=", "Restart=", "TimeoutStopSec="))]


def test_a_percent_sign_in_a_command_is_no_specifier():
    assert "ExecStart=celery -A shop worker -n 100%%h" in lines("service@.service.j2", __django_job=WORKER)


def test_manage_runs_in_the_sandbox_of_the_units():
    script = shlex.split("\n".join(lines("manage.j2")), comments=True)
    unit = lines("service@.service.j2", __django_job=WORKER)
    for directive in SITE["site_sandbox"]:
        assert directive in unit
        assert f"--property={directive}" in script


def gone(there, **variables):
    files = [{"path": f"{UNITS}/{path}"} for path in there]
    return [
        rendered(f"{{{{ {name} }}}}", __django_found={"files": files}, **variables)
        for name in ("__django_gone", "__django_gone_units")
    ]


WORKERS = ["shop.worker@.service", "shop-gunicorn@.service.wants/shop.worker@.service"]
CLEANUPS = [
    *("shop.cleanup@.service", "shop.cleanup.service", "shop.cleanup.timer"),
    "timers.target.wants/shop.cleanup.timer",
]


@pytest.mark.parametrize(
    ("services", "timers", "files", "units"),
    [
        ([WORKER], [CLEANUP], [], []),
        ([], [], [*WORKERS, *CLEANUPS], ["shop.worker[.@]*", "shop.cleanup[.@]*"]),
        ([], [CLEANUP], WORKERS, ["shop.worker[.@]*"]),
        # What was a service and is a timer now is no longer brought along by the web server, and the other way round.
        ([], [CLEANUP, {**CLEANUP, "name": "worker"}], WORKERS[1:], ["shop.worker[.@]*"]),
        ([WORKER, {**WORKER, "name": "cleanup"}], [], CLEANUPS[1:], ["shop.cleanup[.@]*"]),
    ],
    ids=["all listed", "none", "no service", "a service turned timer", "a timer turned service"],
)
def test_unlisted_services_and_timers_are_removed(services, timers, files, units):
    paths, patterns = gone([*WORKERS, *CLEANUPS], django_services=services, django_timers=timers)
    assert paths == [f"{UNITS}/{path}" for path in files]
    assert patterns == units


def test_timers_are_on_the_first_host_only():
    for host, files in (("vps1", []), ("vps2", CLEANUPS)):
        several = {"inventory_hostname": host, "site_topology": {"app": ["vps1", "vps2"]}}
        paths, _ = gone([*WORKERS, *CLEANUPS], django_services=[WORKER], django_timers=[CLEANUP], **several)
        assert paths == [f"{UNITS}/{path}" for path in files]
