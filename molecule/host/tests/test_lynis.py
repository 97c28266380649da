"""What lynis, which Debian has, says of the server."""

from __future__ import annotations

import re

import pytest

#: Ids of warnings that are to be there. Debian's psql and pg_lsclusters look into PostgreSQL's configuration for the
#: port, whoever calls them (DBS-1828). Where there is an /etc/apt/sources.list, an empty one too as unattended-upgrade
#: leaves it, lynis looks for the security updates there and does not know the present form, debian.sources (PKGS-7388).
KNOWN = {"DBS-1828", "PKGS-7388"}


@pytest.fixture(scope="module")
def report(site):
    try:
        # What the archive has published since the image was built comes as it would in the next night.
        site.host.check_output("apt-get update -qq && unattended-upgrade")
        site.host.check_output("apt-get install -qq --yes --no-install-recommends lynis")
        site.host.check_output("lynis audit system --quick --no-colors --quiet")
        yield site.host.check_output("cat /var/log/lynis-report.dat")
    finally:
        site.host.check_output("apt-get purge -qq --yes lynis")


def test_lynis_gives_75_points_or_more(report):
    points = int(re.search(r"^hardening_index=(\d+)", report, re.MULTILINE)[1])
    print(f"lynis gives {points} points")
    assert points >= 75


def test_lynis_reports_only_known_warnings(report):
    warnings = re.findall(r"^warning\[\]=([\w-]+)\|(.*)", report, re.MULTILINE)
    assert [(number, text) for number, text in warnings if number not in KNOWN] == []
