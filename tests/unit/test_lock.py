"""Who holds the lock, and for how long."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import select
import shlex
import signal
import subprocess
import time

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.django_vps.stack.plugins.action.lock import HOLD, ActionModule
from ansible_collections.django_vps.stack.plugins.modules import lock
from ansible_collections.django_vps.stack.plugins.modules.lock import holder, is_held

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


def test_lock_has_its_current_holder_and_is_private(tmp_path):
    path = tmp_path / "lock"
    path.write_text('{"who": "old@laptop", "process": 1}')
    path.chmod(0o644)
    written = json.dumps({"run": "one", "who": "ana@laptop", "what": "works 'on' shop"}).removesuffix("}")
    command = HOLD.format(path=shlex.quote(str(path)), holder=shlex.quote(written))
    with subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True) as shell:
        try:
            assert shell.stdout.read(1) == b"."
            assert is_held(path)
            assert (holder(path)["who"], holder(path)["what"]) == ("ana@laptop", "works 'on' shop")
            assert path.stat().st_mode & 0o777 == 0o600
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    # The shell's child, which has the file open too, may end after it.
    end = time.monotonic() + 5
    while is_held(path):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert holder(path) == {}


@pytest.mark.parametrize("text", ["", '{"who": "old@laptop", "process": 1}'])
def test_lock_that_another_program_holds_is_refused(tmp_path, monkeypatch, capsys, text):
    monkeypatch.setattr(lock, "PATIENCE", 0)
    path = tmp_path / "lock"
    path.write_text(text)
    with path.open() as file, patch_module_args({"path": str(path), "what": "deploys shop", "run": "two"}):
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            lock.main()
    told = json.loads(capsys.readouterr().out)
    assert told["failed"]
    assert told["msg"].splitlines() == [
        f"lock: {path} is held, and by no run of the stack.",
        f"See on the host by what: fuser -v {path}",
        "More: docs/troubleshooting.md#lock",
    ]
    assert told["holder"] == {}


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
