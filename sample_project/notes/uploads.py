"""Judge uploads by their content; what passes gets a name made here, never the client's."""

import io
import uuid

from django.core.exceptions import ValidationError
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import UploadedFile
from PIL import Image, ImageOps

MAX_BYTES = 5 * 1024 * 1024
MAX_PIXELS = 25_000_000
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
PICTURE_EDGE = 1600
TEXT_CONTROLS = "\t\n\r\f"


def picture(upload: UploadedFile) -> ContentFile:
    """Return the picture, encoded anew: no metadata and no hidden second file survives."""
    check_size(upload)
    try:
        content = encode_anew(upload)
    except ValidationError:
        raise
    except Exception as error:  # Pillow raises all sorts on hostile input
        raise ValidationError("This is not a whole PNG, JPEG, WebP or GIF picture.", code="invalid_picture") from error
    return ContentFile(content, name=f"{uuid.uuid4().hex}.webp")


def encode_anew(upload: UploadedFile) -> bytes:
    """Decode the picture, whatever its name says, and return it as WebP of a moderate size."""
    with Image.open(upload.file, formats=PICTURE_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValidationError(
                f"The picture has more than {MAX_PIXELS // 1_000_000} million pixels.", code="too_many_pixels"
            )
        image.verify()  # spends the object: open it again
    upload.seek(0)
    with Image.open(upload.file, formats=PICTURE_FORMATS) as image:
        image.thumbnail((PICTURE_EDGE, PICTURE_EDGE))
        upright = ImageOps.exif_transpose(image)
    encoded = io.BytesIO()
    upright.convert("RGBA" if upright.has_transparency_data else "RGB").save(
        encoded, "WEBP", quality=82, exif=b"", icc_profile=b"", xmp=b""
    )
    return encoded.getvalue()


def document(upload: UploadedFile) -> UploadedFile:
    """Return the PDF or plain text file under a new name."""
    check_size(upload)
    upload.seek(0)
    content = upload.read()
    upload.seek(0)
    if content.startswith(b"%PDF-"):
        suffix = ".pdf"
    elif is_text(content):
        suffix = ".txt"
    else:
        raise ValidationError("This is neither a PDF nor plain UTF-8 text.", code="invalid_file")
    upload.name = f"{uuid.uuid4().hex}{suffix}"
    return upload


def check_size(upload: UploadedFile) -> None:
    """Refuse what is too large before anything reads it."""
    if upload.size > MAX_BYTES:
        raise ValidationError(f"The file is too large; the limit is {MAX_BYTES // 1024**2} MB.", code="too_large")


def is_text(content: bytes) -> bool:
    """Tell whether this is UTF-8 without control characters."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return not any((char < " " and char not in TEXT_CONTROLS) or char == "\x7f" for char in text)
