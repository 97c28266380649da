# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Failures that a module reports to the user."""

from __future__ import annotations

import re

#: Characters that a terminal interprets instead of showing them: complete escape sequences, other control characters,
#: and those that change the direction of the text.
CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def refer(section: str) -> str:
    """Return the last line of a message: where its causes and fixes are described."""
    return f"More: docs/troubleshooting.md#{section}"


class ModuleError(Exception):
    """An error of a module; the message is for the user, the attributes are for the result of the task."""

    def __init__(self, message: str, **result) -> None:
        super().__init__(message)
        self.result = result


class StepError(ModuleError):
    """A failed step of a deploy.

    The message has the cause, the advice, the details that lead to the cause, and the section of the documentation,
    which has the name of the step. `output` is the complete output.
    """

    def __init__(self, step: str, cause: str, advice: str = "", output: str = "", details: str = "") -> None:
        cause, advice, details = make_printable([cause.strip(), advice, details])
        self.step, self.cause, self.advice, self.output, self.details = step, cause, advice, output, details
        section = refer(step.split()[0].replace(".", ""))
        super().__init__("\n".join(part for part in (f"{step}: {self.cause}", advice, details, section) if part))


def make_printable(value):
    """Remove the characters that a terminal interprets from a string, or all strings of a list or a dictionary."""
    if isinstance(value, str):
        return CONTROLS.sub("", value)
    if isinstance(value, list):
        return [make_printable(item) for item in value]
    if isinstance(value, dict):
        return {make_printable(name): make_printable(item) for name, item in value.items()}
    return value
