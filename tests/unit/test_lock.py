"""Who holds the lock, and for how long."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import time

import pytest
from ansible_collections.django_vps.stack.plugins.action.lock import ActionModule

FORK = multiprocessing.get_context("fork")


def work(playbook: int, killed: bool) -> None:
    """What a worker of ansible-playbook does with the task; where `killed`, its parent has ended just before."""
    while killed and os.getppid() == playbook:
        time.sleep(0.01)
    action = object.__new__(ActionModule)
    action._low_level_execute_command = lambda command: time.sleep(60)
    action.hold("hold")


def play(killed: bool) -> None:
    FORK.Process(target=work, args=(os.getpid(), killed)).start()
    if not killed:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("killed", [False, True], ids=["after_it_is_held", "before_it_is_held"])
def test_lock_ends_with_its_run(killed):
    reader, writer = os.pipe()
    playbook = FORK.Process(target=play, args=(killed,))
    began = time.monotonic()
    playbook.start()
    os.close(writer)
    # Each process of the run has a copy of the writing end, and the pipe ends with the last of them.
    ended, _, _ = select.select([reader], [], [], 10)
    os.close(reader)
    playbook.join()
    assert ended
    assert killed or time.monotonic() - began >= 1
