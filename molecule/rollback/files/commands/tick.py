"""A job: notes which release it belongs to."""

from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def handle(self, *args, **options):
        with (Path(settings.MEDIA_ROOT) / "ticks").open("a") as file:
            file.write(f"{settings.RELEASE}\n")
