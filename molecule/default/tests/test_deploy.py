"""A deploy, a release that is broken, and the way back, on both servers at once and while each of them is visited."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import PROJECT
from support.load import Load
from support.play import play


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the sample project, one change ahead."""
    folder = shutil.copytree(PROJECT / "sample_project", tmp_path_factory.mktemp("project") / "copy")
    with (folder / "notes/static/notes/site.css").open("a") as sheet:
        sheet.write("/* changed */\n")
    return folder


@contextmanager
def visited(sites):
    """Visitors of every site, of whom none may notice anything."""
    with ExitStack() as during:
        loads = [
            during.enter_context(Load(site.address, site.canonical, ["/health/", "/"], 10, site.roots))
            for site in sites
        ]
        yield
    assert [load.result()["failures"] for load in loads] == [[] for _ in loads]
    assert all(load.result()["requests"] > 100 for load in loads)


def lives(sites) -> list[str]:
    return [json.loads(site.get("/health/").body)["release"] for site in sites]


@pytest.fixture(scope="module")
def story(sites, project) -> dict[str, list[str]]:
    """The releases that are live before, and after each of the three runs, one after another."""
    found = {"before": lives(sites)}
    with visited(sites):
        done = play("deploy", django_source=str(project), django_version="changed")
        assert done.returncode == 0
        found["deployed"] = lives(sites)
        with (project / "notes/views.py").open("a") as views:
            views.write("\ndef health(request):\n    raise RuntimeError('the cache is cold')\n")
        broken = play("deploy", django_source=str(project), django_version="broken")
        assert broken.returncode != 0
        for site in sites:
            said = rf"fatal: \[{site.container}\].*answers 500.*RuntimeError: the cache is cold"
            assert re.search(said, broken.stdout)
        found["broken"] = lives(sites)
        assert play("rollback").returncode == 0
        found["back"] = lives(sites)
    return found


def test_deploy_goes_live_without_failed_requests(story):
    assert not set(story["deployed"]) & set(story["before"])


def test_release_that_answers_500_never_goes_live(story):
    assert story["broken"] == story["deployed"]


def test_rollback_restores_the_previous_release(story, sites):
    assert story["back"] == story["before"]
    for site in sites:
        units = site.host.check_output(f"systemctl list-units --plain --no-legend '{site.name}-gunicorn@*.service'")
        assert [line.split()[0] for line in units.splitlines()] == [f"{site.name}-gunicorn@{site.release}.service"]
