"""A worker: takes pieces of work of three seconds, and ends the one in hand before it goes."""

import os
import signal
import time
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("--say")

    def handle(self, *args, **options):
        going = []
        signal.signal(signal.SIGTERM, lambda *_: going.append(True))
        while not going:
            self.note("begins", options["say"])
            end = time.monotonic() + 3
            while time.monotonic() < end:
                time.sleep(0.1)
            self.note("ends", options["say"])

    def note(self, what, said):
        with (Path(settings.MEDIA_ROOT) / "work").open("a") as file:
            file.write(f"{os.environ['RELEASE']} {os.getpid()} {what} {said}\n")
