import os

from django.http import JsonResponse
from django.templatetags.static import static
from django.urls import path
from greeting import HELLO

from club.members.models import Member


def home(request):
    shown = {"greeting": HELLO, "members": Member.objects.count(), "stylesheet": static("club.css")}
    return JsonResponse({"release": os.environ["RELEASE"], **shown})


urlpatterns = [path("", home)]
