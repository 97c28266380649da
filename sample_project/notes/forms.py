"""The two forms of the site."""

from pathlib import PurePath

from django import forms
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import UploadedFile

from . import uploads
from .models import Notice, PrivateFile

DOCUMENTS = forms.ClearableFileInput(attrs={"accept": ".pdf,.txt,application/pdf,text/plain"})
PICTURES = forms.ClearableFileInput(attrs={"accept": "image/png,image/jpeg,image/webp,image/gif"})


class NoticeForm(forms.ModelForm):
    """Post a notice."""

    # Not forms.ImageField, which would open whatever format Pillow knows.
    image = forms.FileField(
        label="Picture", required=False, widget=PICTURES, help_text="PNG, JPEG, WebP or GIF, up to 5 MB"
    )
    attachment = forms.FileField(required=False, widget=DOCUMENTS, help_text="PDF or plain text, up to 5 MB")

    class Meta:
        model = Notice
        fields = ("title", "text", "image", "attachment")

    def clean_image(self) -> ContentFile | None:
        """Accept pictures only."""
        upload = self.cleaned_data["image"]
        return upload and uploads.picture(upload)

    def clean_attachment(self) -> UploadedFile | None:
        """Accept documents only."""
        upload = self.cleaned_data["attachment"]
        return upload and uploads.document(upload)


class PrivateFileForm(forms.ModelForm):
    """Store a file for its uploader alone."""

    file = forms.FileField(widget=DOCUMENTS, help_text="PDF or plain text, up to 5 MB")

    class Meta:
        model = PrivateFile
        fields = ("file",)

    def clean_file(self) -> UploadedFile:
        """Accept documents only; remember the client's name as a label, cleaned."""
        upload = self.cleaned_data["file"]
        label = "".join(char for char in PurePath(upload.name).stem if char.isprintable())
        upload = uploads.document(upload)
        self.instance.name = (label.strip()[:80] or "file") + PurePath(upload.name).suffix
        self.instance.size = upload.size
        return upload
