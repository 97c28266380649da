"""Options of `make test`, and what the tests share."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest
from support.runs import ROOT, beside, shared, sweep


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run what is marked as extended, too")
    parser.addoption("--scenario", metavar="NAME", help="run this molecule scenario only")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LongTests(config))


class LongTests:
    """Reports each test of a minute or more when it ends: a run that is stopped for its time has shown nothing else."""

    def __init__(self, config: pytest.Config) -> None:
        self.plugins = config.pluginmanager

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.duration >= 60:
            terminal = self.plugins.get_plugin("terminalreporter")
            terminal.write_line(f"{report.nodeid} {report.outcome} after {report.duration / 60:.1f} min")
            if report.failed:
                terminal.write_line("\n".join(report.longreprtext.splitlines()[-40:]))


#: How a unit test says in its name that input is bad, or good.
REFUSED = re.compile("refused|_is_named|no_secret")
ACCEPTED = re.compile("accepted")


def pytest_terminal_summary(terminalreporter):
    names = [report.nodeid.partition("[")[0] for report in terminalreporter.stats.get("passed", [])]
    refused, accepted = (sum(1 for name in names if words.search(name)) for words in (REFUSED, ACCEPTED))
    if refused:
        terminalreporter.write_line(f"bad inputs refused: {refused}; good inputs accepted: {accepted}")


def pytest_sessionstart(session):
    # What a run that was killed has left; workers leave it to who started them.
    if not hasattr(session.config, "workerinput"):
        sweep()


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--scenario")
    if wanted:
        items[:] = [item for item in items if item.name == f"test_scenario[{wanted}]"]
        if not items:
            raise pytest.UsageError(f"there is no scenario {wanted!r} in molecule/")
    elif not config.getoption("--all"):
        items[:] = [item for item in items if not item.get_closest_marker("extended")]
    items[:] = in_order(items)


#: Tests that need no container, so they can use what a quiet test leaves of the machine.
BESIDE = {"unit", "test_collection.py", "test_lint.py", "test_sample_project.py"}


def is_beside(item: pytest.Item) -> bool:
    return item.path.relative_to(ROOT / "tests").parts[0] in BESIDE


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """What takes long begins first, so that all workers end at one time; what wants the machine alone comes late.

    A worker is given the test after the one that it runs, and no other can take it from there. So a short one follows
    each long one, and the next long one goes to the worker that is free first.
    """
    early = [item for item in items if item.get_closest_marker("early")]
    early.sort(key=lambda item: item.get_closest_marker("early").args[0])
    quiet = [item for item in items if item.get_closest_marker("quiet")]
    short = [item for item in items if item not in early and item not in quiet]
    if not quiet:
        return after_each(early, short)
    short.sort(key=is_beside)
    first, late = [item for item in early if not is_beside(item)], [*quiet, *filter(is_beside, early)]
    return [*after_each(first, short[: len(first)]), *after_each(late, short[len(first) :])]


def after_each(long: list[pytest.Item], short: list[pytest.Item]) -> list[pytest.Item]:
    """Return the long ones with a short one after each, and the remaining short ones."""
    pairs = itertools.zip_longest(long, short[: len(long)])
    return [*(item for pair in pairs for item in pair if item), *short[len(long) :]]


@pytest.fixture(autouse=True)
def machine(request):
    """A share of the machine for as long as the test lasts; one that wants it alone takes it when it comes to that."""
    if request.node.get_closest_marker("quiet"):
        yield
        return
    with beside() if is_beside(request.node) else shared():
        yield


@pytest.fixture
def site_images() -> None:
    """Images of servers that have a site; they are built while tests that start from bare ones go on."""
    subprocess.run([ROOT / "tools/setup", "site", "bookworm", "trixie"], check=True)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
