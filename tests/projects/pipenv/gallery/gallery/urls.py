import os

from django.conf import settings
from django.http import JsonResponse
from django.urls import path
from pictures.models import Picture


def home(request):
    return JsonResponse(
        {
            "release": os.environ["RELEASE"],
            "greeting": settings.GREETING,
            "pictures": Picture.objects.count(),
            "host": request.get_host(),
        }
    )


urlpatterns = [path("", home)]
