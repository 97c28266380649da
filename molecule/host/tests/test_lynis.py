"""What lynis, which Debian has, says of the server."""

from __future__ import annotations

import re

import pytest

#: Ids of warnings that are to be there. Debian's psql and pg_lsclusters look into PostgreSQL's configuration for the
#: port, whoever calls them (DBS-1828). Debian 12's lynis does not know the present form of apt's sources, of which the
#: security updates are one (PKGS-7388).
KNOWN = {"site12": {"DBS-1828", "PKGS-7388"}, "site13": {"DBS-1828"}}


@pytest.fixture(scope="module")
def report(site):
    try:
        site.host.check_output("apt-get install -qq --yes --no-install-recommends lynis")
        site.host.check_output("lynis audit system --quick --no-colors --quiet")
        yield site.host.check_output("cat /var/log/lynis-report.dat")
    finally:
        site.host.check_output("apt-get purge -qq --yes lynis")


def test_lynis_gives_75_points_or_more(report):
    points = int(re.search(r"^hardening_index=(\d+)", report, re.MULTILINE)[1])
    print(f"lynis gives {points} points")
    assert points >= 75


def test_lynis_warns_of_nothing_but_what_is_known(site, report):
    warnings = re.findall(r"^warning\[\]=([\w-]+)\|(.*)", report, re.MULTILINE)
    assert [(number, text) for number, text in warnings if number not in KNOWN[site.name]] == []
