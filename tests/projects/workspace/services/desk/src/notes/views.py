import os
import platform

from django.core.files.base import ContentFile
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt
from labels import label

from .models import Note


@csrf_exempt
def notes(request):
    """List the notes, each with the file that is kept beside the uploads; POST writes one."""
    if request.method == "POST":
        note = Note(text=request.POST["text"])
        note.file.save("note.txt", ContentFile(request.POST["text"].encode()))
    return JsonResponse(
        {
            "release": os.environ.get("RELEASE"),
            "python": platform.python_version(),
            "notes": {label(note.text): note.file.read().decode() for note in Note.objects.all()},
        }
    )
