"""The migrations describe the models."""

from django.core.management import call_command
from django.test import TestCase


class MigrationsTest(TestCase):
    def test_none_is_missing(self) -> None:
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
