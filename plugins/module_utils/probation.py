# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decide from a series of observations whether a release can go live."""

from __future__ import annotations

from ansible_collections.django_vps.stack.plugins.module_utils.advice import find_health_advice
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError

#: Seconds of the same wrong answer after which the check fails. 503 does not count, because it means "not yet".
GIVE_UP_SECONDS = 10


class Probation:
    """The check of a release, which passes when the release is healthy for some seconds, within a time limit."""

    def __init__(self, start: float, timeout: float, healthy_seconds: float) -> None:
        self.timeout = timeout
        self.healthy_seconds = healthy_seconds
        self.end = start + timeout
        #: The present complaint and its beginning; empty when there is none, None before the first observation.
        self.complaint: str | None = None
        self.since = start
        #: The last complaint that is about an answer.
        self.answer = ""
        self.deaths = 0

    def observe(self, now: float, complaint: str, has_died: bool = False, gave_up: bool = False) -> bool:
        """Return whether the release has passed the check; StepError when it has failed.

        The complaint is about a process that has died, or about an answer. `gave_up`: a unit does not start.
        """
        self.deaths += has_died
        if complaint != self.complaint:
            self.complaint, self.since = complaint, now
        if not complaint and now - self.since >= self.healthy_seconds:
            return True
        if " answers " in complaint:
            self.answer = complaint
        stays = "answers 503" not in complaint and now - self.since > GIVE_UP_SECONDS
        # The release cannot pass any more, so waiting longer is useless.
        if complaint and (now > self.end or self.deaths > 1 or gave_up or stays):
            raise self._failure(now, complaint, gave_up)
        if now > self.end + self.healthy_seconds:
            raise StepError("health", f"the release answers well now and then only, for {self.timeout} s")
        return False

    def _failure(self, now: float, complaint: str, gave_up: bool) -> StepError:
        # The last request can have run out of time, so an earlier answer explains more.
        if self.answer and self.deaths < 2:
            complaint = self.answer
        if gave_up and complaint.endswith(" does not answer"):
            complaint = "the release ends by itself at its start"
        cause = complaint if now < self.end else f"{complaint}, for {self.timeout} s"
        return StepError("health", cause, find_health_advice(complaint))
