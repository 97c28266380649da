"""The collection as somebody gets it who installs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLUGINS = [
    (kind, path.stem)
    for kind, folder in (("module", "modules"), ("filter", "filter"))
    for path in sorted(ROOT.glob(f"plugins/{folder}/*.py"))
]


@pytest.mark.parametrize(
    ("pattern", "limit"), [("plugins/*/*.py", 350), ("playbooks/site.yml", 120), ("README.md", 120)]
)
def test_files_stay_short(pattern, limit):
    lengths = {path.name: len(path.read_text().splitlines()) for path in ROOT.glob(pattern)}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > limit} == {}


def test_tasks_contain_no_long_programs():
    """A program of more than five lines is a file, which shellcheck reads."""
    blocks = [
        block
        for path in ROOT.glob("roles/*/tasks/*.yml")
        for block in re.findall(r"(?m)^ +cmd: [|>].*\n((?: {6,}.*\n)+)", path.read_text())
    ]
    assert blocks
    assert [block for block in blocks if len(block.splitlines()) > 5] == []


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory):
    """Build the collection, install it with its dependencies at hand, and run commands with that copy alone."""
    folder = tmp_path_factory.mktemp("collections")
    ours = folder / "installed"
    others = folder / "others/ansible_collections"
    others.mkdir(parents=True)
    for name in ("ansible", "community"):
        (others / name).symlink_to(root / "collections/ansible_collections" / name)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": f"{ours}:{others.parent}",
        "ANSIBLE_INJECT_FACT_VARS": "false",
    }

    def run(*argv: str) -> str:
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("ansible-galaxy", "collection", "build", str(root), "--output-path", str(folder))
    [archive] = folder.glob("*.tar.gz")
    run("ansible-galaxy", "collection", "install", "--offline", str(archive), "-p", str(ours))
    run.folder = ours / "ansible_collections/django_vps/stack"
    return run


def test_collection_has_user_files_and_no_development_files(installed):
    names = {path.name for path in installed.folder.iterdir()}
    assert {"roles", "plugins", "playbooks", "meta", "README.md", "CHANGELOG.md", "LICENSE"} <= names
    assert not names & {"molecule", "tests", "tools", ".venv", ".cache", "collections", "sample_project", ".ci"}


def test_playbook_of_the_collection_runs_by_name(root, installed):
    listed = installed("ansible-playbook", "django_vps.stack.site", "-i", f"{root}/inventories/prod", "--list-tasks")
    # The role site has no task; that the others find it shows in that the list is there.
    for role in set(ROLES) - {"site"}:
        assert f"{role} :" in listed or f"django_vps.stack.{role} :" in listed


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_plugin_is_documented(installed, kind, name):
    assert "EXAMPLES" in installed("ansible-doc", "-t", kind, f"django_vps.stack.{name}")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_documented(installed, role):
    assert f"{role}_" in installed("ansible-doc", "-t", "role", f"django_vps.stack.{role}")
