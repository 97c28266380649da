"""What the tests share: a media folder of their own, and files to upload."""

import io
import shutil
import tempfile
from pathlib import Path

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import TestCase, override_settings
from PIL import Image

PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"


class MediaTestCase(TestCase):
    """Uploads land in a folder that lives as long as the test."""

    def setUp(self) -> None:
        self.media = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.media)
        settings = override_settings(MEDIA_ROOT=self.media)
        settings.enable()
        self.addCleanup(settings.disable)

    def stored(self) -> list[str]:
        """Return the files below the media folder."""
        return sorted(str(path.relative_to(self.media)) for path in self.media.rglob("*") if path.is_file())


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    """Return a picture with something in it, so that cutting it short shows."""
    encoded = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(encoded, kind, **options)
    return encoded.getvalue()


def upload(name: str, content: bytes) -> SimpleUploadedFile:
    """Return a file as a browser would send it."""
    return SimpleUploadedFile(name, content)
