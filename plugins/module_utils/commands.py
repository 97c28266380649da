# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run commands: a step of a deploy by `run`, which raises an error if it fails; others by `execute` or `call`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import NamedTuple

from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError, make_printable
from ansible_collections.django_vps.stack.plugins.module_utils.output import explain


class Outcome(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str


def execute(*argv: str, stderr: int = subprocess.PIPE, **environment: str) -> Outcome:
    """Run a command with English messages and `environment` added to the present one; OSError when it cannot start."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", **environment}
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=env)
    return Outcome(done.returncode, done.stdout.decode(errors="replace"), (done.stderr or b"").decode(errors="replace"))


def call(*argv: str) -> Outcome:
    """Run a command whose exit code the caller checks; as in a shell, it is 127 when the command cannot start."""
    try:
        return execute(*argv)
    except OSError as error:
        return Outcome(127, "", f"{argv[0]}: {error.strerror}")


def run(
    step: str,
    argv: list[str],
    *,
    advice: str = "",
    timeout: float | None = None,
    watch: Callable[[str], None] | None = None,
    **options,
) -> str:
    """Run a command and return its printable output; a failure raises a StepError that names the step.

    `watch` is called with the output so far whenever there is more. It excludes `timeout`.
    """
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    try:
        if watch:
            done = run_watched(argv, watch, **options)
        else:
            done = subprocess.run(argv, text=True, errors="replace", timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise StepError(step, f"no end after {error.timeout:.0f} s: {' '.join(argv)}", advice) from error
    except OSError as error:
        raise StepError(step, f"{argv[0]}: {error.strerror}", advice) from error
    output = make_printable(done.stdout)
    if done.returncode:
        cause, details = explain(output)
        raise StepError(step, cause or f"exit status {done.returncode}", advice, output, details)
    return output


def run_watched(argv: list[str], watch: Callable[[str], None], **options) -> subprocess.CompletedProcess:
    output = b""
    with subprocess.Popen(argv, **options) as process:
        while chunk := process.stdout.read1():
            output += chunk
            watch(output.decode(errors="replace"))
    return subprocess.CompletedProcess(argv, process.returncode, output.decode(errors="replace"))
