"""What the board holds. The files come through `uploads`, which chooses their names."""

import uuid
from pathlib import PurePath

from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver


class Notice(models.Model):
    """A note that everybody can read."""

    title = models.CharField(max_length=80)
    text = models.TextField(max_length=2000)
    image = models.ImageField(upload_to="images", width_field="image_width", height_field="image_height", blank=True)
    image_width = models.PositiveIntegerField(null=True, editable=False)
    image_height = models.PositiveIntegerField(null=True, editable=False)
    attachment = models.FileField(upload_to="attachments", blank=True)
    created = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ("-created", "-pk")

    def __str__(self) -> str:
        return self.title

    @property
    def attachment_kind(self) -> str:
        """Return what a reader gets by opening the attachment."""
        return "PDF" if PurePath(self.attachment.name).suffix == ".pdf" else "Text"


class PrivateFile(models.Model):
    """A file that only the browser session that uploaded it can fetch."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.CharField(max_length=43, db_index=True, editable=False)
    name = models.CharField(max_length=100)
    file = models.FileField(upload_to="private")
    size = models.PositiveIntegerField()
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created", "-pk")

    def __str__(self) -> str:
        return self.name


@receiver(post_delete, sender=Notice)
@receiver(post_delete, sender=PrivateFile)
def remove_files(instance: models.Model, **kwargs: object) -> None:
    """Take a deleted row's files off the disk, once the deletion is certain."""
    for field in instance._meta.fields:
        if isinstance(field, models.FileField) and (file := getattr(instance, field.name)):
            transaction.on_commit(lambda file=file: file.storage.delete(file.name))
