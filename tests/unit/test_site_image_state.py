"""An image of a built server and the state that it was built with stay together."""

from __future__ import annotations

import signal
from unittest.mock import MagicMock

import pytest
from support import site_image


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The state file of an earlier image; the host is none, and its state is new."""
    path = tmp_path / "site-trixie.state"
    path.write_text("old")
    host = MagicMock()
    host.return_value.__enter__.return_value.state.return_value = ["new"]
    host.return_value.__exit__.return_value = False
    monkeypatch.setattr(site_image, "Host", host)
    monkeypatch.setattr(site_image, "state_file", lambda suite: path)
    monkeypatch.setattr(signal, "signal", MagicMock())
    return path


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_build_never_pairs_image_with_another_state(state, monkeypatch, moment):
    images = ["old"]

    def docker(*argv):
        if argv[1] == "commit":
            images[0] = "new" if moment == "after" else "old"
            raise SystemExit(143)

    monkeypatch.setattr(site_image, "run", docker)
    with pytest.raises(SystemExit):
        site_image.main("trixie", "image", "recipe")
    assert not state.exists() or state.read_text() == images[0]


def test_a_build_writes_the_state(state, monkeypatch):
    monkeypatch.setattr(site_image, "run", MagicMock())
    site_image.main("trixie", "image", "recipe")
    assert state.read_text() == "new"
