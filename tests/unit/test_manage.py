"""Commands of manage.py: once for each release, a failure in words, and the program <site>-manage."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.django_vps.stack.plugins.modules import manage

PROGRAM = """#!/bin/sh
echo "$@" >> {home}/ran
case $2 in
    wrong) cat {home}/traceback >&2; exit 1;;
esac
echo "done: $2"
"""
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/releases/1/venv/lib/python3.13/site-packages/django/core/management/base.py", line 1, in run
    execute()
  File "/srv/shop/releases/1/code/notes/management/commands/wrong.py", line 7, in handle
    open_till()
RuntimeError: the till is empty
"""


@pytest.fixture
def command(tmp_path, capsys):
    """Runs the module; returns what it tells, and what manage.py was called with so far."""
    (tmp_path / "traceback").write_text(TRACEBACK)
    (tmp_path / "manage").write_text(PROGRAM.format(home=tmp_path))
    (tmp_path / "manage").chmod(0o755)

    def run(*commands: str, check: bool = False) -> tuple[dict, list[str]]:
        args = {"home": str(tmp_path), "manage": str(tmp_path / "manage"), "release": "1", "commands": list(commands)}
        args |= {"creates": str(tmp_path / "marker"), "_ansible_check_mode": check}
        with patch_module_args(args), pytest.raises(SystemExit):
            manage.main()
        ran = tmp_path / "ran"
        return json.loads(capsys.readouterr().out), ran.read_text().splitlines() if ran.exists() else []

    return run


def test_commands_run_once_and_in_order(command, tmp_path):
    told, ran = command("createcachetable", "loaddata 'my countries'")
    assert told["changed"]
    assert told["output"] == ["done: createcachetable\n", "done: loaddata\n"]
    assert ran == ["--release=1 createcachetable", "--release=1 loaddata my countries"]
    assert (tmp_path / "marker").stat().st_mode & 0o777 == 0o600
    told, again = command("createcachetable", "loaddata 'my countries'")
    assert not told["changed"]
    assert again == ran


def test_failure_begins_with_its_cause_and_stops_the_rest(command):
    told, ran = command("createcachetable", "wrong", "loaddata countries")
    assert told["failed"]
    assert told["msg"].splitlines()[:2] == [
        "manage.py wrong: RuntimeError: the till is empty",
        "Traceback (most recent call last):",
    ]
    assert "django/core" not in told["msg"]
    assert "No release is live yet." in told["msg"]
    assert len(ran) == 2
    # The next run begins with the first.
    _, ran = command("createcachetable")
    assert len(ran) == 3


def test_dry_run_runs_none(command):
    told, ran = command("createcachetable", check=True)
    assert told["changed"]
    assert ran == []


@pytest.fixture
def program(tmp_path):
    """Runs <site>-manage in a home with a dump; returns its warnings, and what manage.py would be called with."""
    site = {"site_name": "shop", "site_user": "shop", "site_home": str(tmp_path), "site_media_root": "/srv/media"}
    site |= {
        "site_database_is_pooled": False,
        "site_database_socket_dir": "/run/postgresql",
        "site_database_service_file": "/etc/shop/pg_service.conf",
        "site_database_manage_service_file": "/etc/shop/pg_service_direct.conf",
        "site_topology": {"database_is_local": False},
        "site_database_separate_owner": False,
        "site_sandbox": [],
        "ansible_managed": "managed",
    }
    template = Path(__file__).parents[2] / "roles/django/templates/manage.j2"
    script = Templar(loader=DataLoader(), variables=site).template(trust_as_template(template.read_text()))
    (tmp_path / "shop-manage").write_text(script)
    for folder in ("releases/1/project/fixtures", "home", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    (tmp_path / "bin/systemd-run").write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/options\nwhile [ "$1" != manage.py ]; do shift; done\necho "$@"\n'
    )
    (tmp_path / "bin/systemd-run").chmod(0o755)
    for dump in ("home/dump.json", "home/first.json", "releases/1/project/first.json"):
        (tmp_path / dump).touch()

    def run(*argv: str) -> tuple[str, str]:
        done = subprocess.run(
            ["/bin/sh", tmp_path / "shop-manage", *argv],
            cwd=tmp_path / "home",
            env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stderr, done.stdout

    return run


@pytest.mark.parametrize(
    ("argument", "warns"),
    [
        ("dump.json", True),
        ("--output=dump.json", True),
        ("/home/ada/dump.json", True),
        ("--output=/tmp/dump.json", True),
        # A fixture of the project, a label, a file that the site can read, and code.
        ("first.json", False),
        ("first", False),
        ("/etc/hostname", False),
        ("print('dump.json')", False),
    ],
)
def test_manage_warns_of_a_file_that_the_project_cannot_read(program, argument, warns):
    told, ran = program("loaddata", argument)
    assert ran == f"manage.py loaddata {argument}\n"
    file = argument.removeprefix("--output=")
    assert told.startswith(f"shop-manage: {file} is out of its reach") is warns
    assert ("shop-manage loaddata --format=json - < FILE" in told) is warns


def test_manage_with_a_scratch_database_reaches_nothing_else(program, tmp_path):
    _told, ran = program("--release=1", "--scratch-database=/scratch", "migrate", "--check")
    assert ran == "manage.py migrate --check\n"
    options = (tmp_path / "options").read_text().split()
    assert {
        "--property=PrivateNetwork=yes",
        "--property=BindPaths=/scratch:/run/postgresql",
        "--property=BindReadOnlyPaths=/scratch/pg_service.conf:/etc/shop/pg_service.conf",
        "--property=BindReadOnlyPaths=/scratch/pg_service.conf:/etc/shop/pg_service_direct.conf",
    } < set(options)
    program("migrate", "--check")
    assert "Private" not in (tmp_path / "options").read_text()
