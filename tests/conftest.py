"""Options of `make test`, and how a unit test loads a plugin."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: The scenario whose visitors may not wait for a second.
ALONE = "[redeploy]"
# The plugins import each other by the collection's name, as on a host.
sys.path.insert(0, str(ROOT / "collections"))


def pytest_addoption(parser):
    parser.addoption("--scenario", metavar="NAME", help="run this molecule scenario only")


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--scenario")
    if wanted:
        chosen = [
            item for item in items if getattr(item, "callspec", None) and item.callspec.params.get("scenario") == wanted
        ]
        if not chosen:
            raise pytest.UsageError(f"there is no scenario {wanted!r} in molecule/")
        items[:] = chosen
    # What takes long begins first, so that the two workers end at one time; what wants the machine alone comes last.
    items.sort(key=lambda item: (ALONE in item.nodeid, "machine" not in getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def machine(request, root):
    """The machine, or a share of it, for as long as the test lasts."""
    with (root / ".cache/machine.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if ALONE in request.node.nodeid else fcntl.LOCK_SH)
        yield
