import os

from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.clickjacking import xframe_options_exempt

from shelf.books.models import Book


def home(request):
    book, _ = Book.objects.get_or_create(title="The first")
    return JsonResponse({"release": os.environ["RELEASE"], "version": settings.VERSION, "cover": book.cover.url})


@xframe_options_exempt
def widget(request):
    return HttpResponse("a part of other pages")


urlpatterns = [path("", home), path("widget/", widget)]
