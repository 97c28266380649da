"""Scenarios and benchmarks start from an image; it has to be what a run of site.yml from bare makes."""

from __future__ import annotations

import difflib

import pytest
from support.host import SITES, Host, recap
from support.site_image import state_file


@pytest.mark.extended
@pytest.mark.early(11)
@pytest.mark.usefixtures("site_images")
@pytest.mark.parametrize("suite", SITES)
def test_host_from_the_image_has_the_state_of_site_yml(suite, tmp_path):
    # A name in its certificates is that of the host.
    with Host("build", tmp_path, f"site-{suite}") as host:
        assert host.ssh("systemctl is-system-running --wait").strip() == "running"
        as_built = state_file(suite).read_text().splitlines()
        assert list(difflib.unified_diff(as_built, host.state(), "as built", "from the image", lineterm="", n=0)) == []
        assert recap(host.playbook("again"))["changed"] == 0
