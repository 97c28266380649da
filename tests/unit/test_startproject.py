"""A project as django-admin writes it, with the settings that docs/project.md adds to it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.django_vps.stack.plugins.module_utils import project_scripts
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.project import find_project, refuse_settings, settings_of
from ansible_collections.django_vps.stack.plugins.module_utils.settings_check import Settings

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/django"
PAGE = (ROOT / "docs/project.md").read_text()
SITE = {
    "site_domains": ["shop.example.com"],
    "site_media_root": "/srv/shop/media",
    "site_database": "shop",
    "site_database_user": "shop",
    "site_database_pooler": "none",
    "site_database_host": "/run/postgresql",
    "site_database_port": 5432,
    "site_topology": {"database_is_local": True, "database_clients": [], "database": ["vps1"]},
    "django_valkey_env": {},
    "ansible_managed": "managed",
}
#: Reports what a release's settings contain.
PROGRAM = """
import django, json, runpy, sys
django.setup()
from django.conf import settings
scripts = runpy.run_path(sys.argv[1])
facts = scripts["settings_of_release"]("shop.example.com")
scripts["secret_key"]({}, facts.update)
facts |= {"database": settings.DATABASES["default"], "origins": settings.CSRF_TRUSTED_ORIGINS}
print(json.dumps(facts, default=str))
"""


@pytest.fixture(scope="module")
def example() -> dict:
    """The variables of the example."""
    section = PAGE.partition("### A project whose settings read nothing")[2]
    return yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1])


@pytest.fixture
def top(tmp_path) -> Path:
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", tmp_path], check=True)
    return tmp_path


def trusted(value):
    """The variables of a role, whose strings are templates."""
    if isinstance(value, dict):
        return {name: trusted(item) for name, item in value.items()}
    return trust_as_template(value) if isinstance(value, str) else value


def environment(static: Path) -> dict[str, str]:
    """The environment of a release: the lines of the inventory after those that the build generates."""
    variables = {}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= yaml.safe_load((ROLE / file).read_text())
    templar = Templar(loader=DataLoader(), variables={**trusted(variables), **SITE})
    text = templar.template(trust_as_template((ROLE / "templates/env.j2").read_text()))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    written = dict(shlex.split(line)[0].split("=", 1) for line in lines)
    return {"SECRET_KEY": "k3y-" * 20, "STATIC_ROOT": str(static), **written}


def facts_of(top: Path, module: str) -> dict:
    given = {**environment(top / "static"), "DJANGO_SETTINGS_MODULE": module, "PATH": os.environ["PATH"]}
    argv = [sys.executable, "-c", PROGRAM, project_scripts.__file__]
    return json.loads(subprocess.run(argv, cwd=top, env=given, stdout=subprocess.PIPE, text=True, check=True).stdout)


def findings(top: Path, facts: dict) -> list[str]:
    options = {"host": "shop.example.com", "static_url": "/static/", "media_url": "/media/", "collectstatic": True}
    options |= {"media": "/srv/shop/media", "several": False, "shared_paths": []}
    return Settings(facts, options, top, top, top / "static", Path("/srv/shop/shared")).findings()


def test_project_of_startproject_is_refused_with_a_way_out(top):
    with pytest.raises(StepError, match=r"knows no database but SQLite(?s:.*)by django_files \(docs/project\.md#a-pr"):
        refuse_settings(find_project(top, ""), "shop.settings", set())
    found = "\n".join(findings(top, facts_of(top, "shop.settings")))
    assert all(name in found for name in ("DEBUG is on", "SECRET_KEY is none", "SQLite in", "STATIC_ROOT is"))


def test_project_of_startproject_is_accepted_with_the_example(top, example):
    files = {top / name: text for name, text in example["django_files"].items()}
    module = settings_of(find_project(top, ""), example["django_settings_module"])
    refuse_settings(top, module, set(files))
    for path, text in files.items():
        path.write_text(text)
    facts = facts_of(top, module)
    assert findings(top, facts) == []
    assert facts["key"] == ""
    assert facts["application"] == "shop.wsgi.application"
    assert (facts["hosts"], facts["origins"]) == (["shop.example.com"], ["https://shop.example.com"])
    database = facts["database"]
    assert database["ENGINE"] == "django.db.backends.postgresql"
    assert (database["NAME"], database["USER"], database["CONN_MAX_AGE"]) == ("shop", "shop", 60)
    assert database["OPTIONS"] == {"host": "/run/postgresql"}
    assert facts["media_root"] == "/srv/shop/media"
