from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Write all collected stylesheets into one."

    def handle(self, **options):
        root = Path(settings.STATIC_ROOT)
        parts = [path.read_text() for path in sorted(root.rglob("*.css")) if path.name != "bundle.css"]
        (root / "bundle.css").write_text("".join(parts))
