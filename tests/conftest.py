"""Options of `make test`, and how a unit test loads a plugin."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
    # What takes long begins first, so that the two workers end at one time.
    items.sort(key=lambda item: "scenario" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
