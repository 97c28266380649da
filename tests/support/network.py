"""Repeat a browser test that failed while the network interfaces of this machine changed.

Then Chrome cancels all requests (ERR_NETWORK_CHANGED) and shows its own error page, and other scenarios create and
remove containers and networks at any time. molecule/conftest.py registers this module as a plugin.
"""

from __future__ import annotations

import socket

import pytest
from _pytest.runner import runtestprotocol

MODULE = "test_browser.py"
TRIES = 4


def interfaces() -> list[tuple[int, str]]:
    # The numbers are included, because an interface that is created again has a new number.
    return socket.if_nameindex()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if item.path.name != MODULE:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _try in range(TRIES):
        before = interfaces()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if interfaces() == before or not any(report.failed for report in reports):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
