# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decide from one observation after the other whether a release may go live."""

from __future__ import annotations

from ansible_collections.django_vps.stack.plugins.module_utils.advice import find_health_advice
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError

#: Seconds of one and the same wrong answer after which no other is expected. 503 means "not yet".
GIVE_UP_SECONDS = 10


class Probation:
    """A release passes when nothing is wrong with it for some seconds, within a time limit."""

    def __init__(self, start: float, timeout: float, healthy_seconds: float) -> None:
        self.timeout = timeout
        self.healthy_seconds = healthy_seconds
        self.end = start + timeout
        #: What is wrong since when; empty when nothing is, None before the first observation.
        self.complaint: str | None = None
        self.since = start
        #: The last complaint about an answer.
        self.answer = ""
        self.deaths = 0

    def observe(self, now: float, complaint: str, has_died: bool = False, gave_up: bool = False) -> bool:
        """Return whether the release has passed; StepError when it has failed.

        The complaint is about a process that has died, or about an answer. `gave_up`: a unit does not come up.
        """
        self.deaths += has_died
        if complaint != self.complaint:
            self.complaint, self.since = complaint, now
        if not complaint and now - self.since >= self.healthy_seconds:
            return True
        if " answers " in complaint:
            self.answer = complaint
        stays = "answers 503" not in complaint and now - self.since > GIVE_UP_SECONDS
        # Waiting any longer makes no sense.
        if complaint and (now > self.end or self.deaths > 1 or gave_up or stays):
            raise self._failure(now, complaint, gave_up)
        if now > self.end + self.healthy_seconds:
            raise StepError("health", f"the release answers well now and then only, for {self.timeout} s")
        return False

    def _failure(self, now: float, complaint: str, gave_up: bool) -> StepError:
        # The last request may have had no time left; an earlier answer says more.
        if self.answer and self.deaths < 2:
            complaint = self.answer
        if gave_up and complaint.endswith(" does not answer"):
            complaint = "the release ends by itself at its start"
        cause = complaint if now < self.end else f"{complaint}, for {self.timeout} s"
        return StepError("health", cause, find_health_advice(complaint))
