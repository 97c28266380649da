"""The folders that a site writes may be mounts, and its shared folder may be missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).parent.parent.parent / "roles"
SITE = {
    "ansible_managed": "managed",
    "site_name": "shop",
    "site_user": "shop",
    "site_home": "/srv/shop",
    "site_media_root": "/data/media",
    "site_database_is_pooled": False,
    "site_database_separate_owner": False,
    "site_database_socket_dir": "/run/postgresql",
    "site_topology": {"database_is_local": True},
    "site_sandbox": [],
    "site_service": "shop-gunicorn",
    "__django_job": {"name": "worker", "command": "celery worker"},
    "site_gunicorn_config": "gunicorn.conf.py",
    "gunicorn_graceful_timeout": 30,
    "__gunicorn_hold": "/run/shop.hold",
}
UNITS = ("gunicorn/templates/gunicorn@.service.j2", "django/templates/service@.service.j2")


def rendered(path: str) -> str:
    templar = Templar(loader=DataLoader(), variables=SITE)
    return templar.template(trust_as_template((ROLES / path).read_text()))


@pytest.mark.parametrize("path", UNITS)
def test_a_unit_waits_for_the_mounts_that_it_writes_to(path):
    assert "RequiresMountsFor=/data/media /srv/shop/shared" in rendered(path).splitlines()


@pytest.mark.parametrize("path", [*UNITS, "django/templates/manage.j2"])
def test_processes_start_without_the_shared_folder(path):
    assert re.search('ReadWritePaths="?/data/media -/srv/shop/shared', rendered(path))
