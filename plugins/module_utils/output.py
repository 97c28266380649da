# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find the lines of a program's output or log that explain a failure."""

from __future__ import annotations

import re

#: The most lines of a command's output, and of a log, that an error message repeats.
OUTPUT_LINES = 25
LOG_LINES = 30
#: The first line of a traceback, and the frames in it that belong to Python, Django and gunicorn.
TRACEBACK = "Traceback (most recent call last)"
FOREIGN_FRAME = re.compile(
    r'  File "(<frozen |.*/site-packages/(django|gunicorn)/|.*/lib/python3[.\d]*/(?!(site|dist)-packages/))'
)


def tail(text: str, lines: int = OUTPUT_LINES) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def drop_foreign_frames(lines: list[str]) -> list[str]:
    """Reduce tracebacks to frames of the project, because the frames of Python and Django do not explain the error."""
    kept, foreign = [], False
    for line in lines:
        if line.startswith('  File "'):
            foreign = bool(FOREIGN_FRAME.match(line))
        elif not line.startswith("    ") and not line.startswith("  [Previous line repeated"):
            foreign = False
        if not foreign:
            kept.append(line)
    return kept


def explain(text: str) -> tuple[str, str]:
    """Split an output into the cause of a failure and its details; the last lines of a traceback are the cause."""
    lines = drop_foreign_frames(text.strip().splitlines())
    begins = [number for number, line in enumerate(lines) if line.startswith(TRACEBACK)]
    ends = (
        number for number in range(begins[-1] + 1 if begins else 0, len(lines)) if not lines[number].startswith(" ")
    )
    end = next(ends, None) if begins else None
    if end is None:
        return tail(text), ""
    return "\n".join(lines[end : end + OUTPUT_LINES]), tail("\n".join(lines[:end]))


def tail_log(log: str) -> str:
    """Return the end of a log, at least from its last traceback on, after which a restart can print as many lines.

    When its processes do not start, gunicorn halts with another traceback, which does not have the cause.
    """
    lines = "\n".join(drop_foreign_frames(log.splitlines())).strip().splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith(TRACEBACK)]
    # The first line after the frames of a traceback has its exception.
    about = {begin: next((line for line in lines[begin + 1 :] if not line.startswith(" ")), "") for begin in begins}
    causes = [begin for begin in begins if not about[begin].startswith("gunicorn.errors.HaltServer")]
    begin = min([len(lines) - LOG_LINES, *(causes or begins)[-1:]])
    return "\n".join(lines[max(0, begin) :])
