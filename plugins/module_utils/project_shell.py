# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run the functions of project_scripts inside a project, and read what they report."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.errors import make_printable

#: The beginning of the lines that project_scripts prints in the project's output.
ANSWER = "DJANGO_VPS"


def ask_project(step: str, argv: list[str], script: Callable, arguments: dict, **options) -> tuple[dict, str]:
    """Run one of the project_scripts by manage.py, which `argv` calls; return its facts and its complete output."""
    call = (
        f"import json\n{script.__name__}(json.loads({json.dumps(arguments)!r}),"
        f' lambda facts: print("\\n{ANSWER} " + json.dumps(facts), flush=True))\n'
    )
    output = run(step, [*argv, "shell", "-v", "0", "-c", compose_program(script, call)], **options)
    return parse_answers(output), output


def compose_program(script: Callable, call: str) -> str:
    """Return a program with the content of the script's file and a call of the script at the end."""
    return f"{inspect.getsource(inspect.getmodule(script))}\n\n{call}"


def parse_answers(output: str) -> dict:
    """Return the facts that a program printed; of two reports of a fact the last one."""
    lines = [line.removeprefix(ANSWER) for line in output.splitlines() if line.startswith(f"{ANSWER} ")]
    return make_printable({name: value for line in lines for name, value in json.loads(line).items()})
