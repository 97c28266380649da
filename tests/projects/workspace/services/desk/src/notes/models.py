from django.conf import settings
from django.core.files.storage import FileSystemStorage
from django.db import models


def private() -> FileSystemStorage:
    return FileSystemStorage(location=settings.BASE_DIR / "private/notes")


class Note(models.Model):
    text = models.CharField(max_length=100)
    file = models.FileField(storage=private)
