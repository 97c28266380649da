# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Failures that a module reports to the user."""

from __future__ import annotations

import re

#: What a terminal acts upon instead of showing it: escape sequences as a whole, other control characters, and those
#: that change the direction of the text.
CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


class ModuleError(Exception):
    """A module cannot do its work; the message is for the user, the rest for the result of the task."""

    def __init__(self, message: str, **result) -> None:
        super().__init__(message)
        self.result = result


class StepError(ModuleError):
    """A step of a deploy failed.

    The message has its cause, the advice, and the details that lead to the cause. `output` is all that was printed.
    """

    def __init__(self, step: str, cause: str, advice: str = "", output: str = "", details: str = "") -> None:
        cause, advice, details = make_printable([cause.strip(), advice, details])
        self.step, self.cause, self.advice, self.output, self.details = step, cause, advice, output, details
        super().__init__("\n".join(part for part in (f"{step}: {self.cause}", advice, details) if part))


def make_printable(value):
    """Remove from a text, or all texts of a list or a dictionary, what a terminal acts upon."""
    if isinstance(value, str):
        return CONTROLS.sub("", value)
    if isinstance(value, list):
        return [make_printable(item) for item in value]
    if isinstance(value, dict):
        return {make_printable(name): make_printable(item) for name, item in value.items()}
    return value
