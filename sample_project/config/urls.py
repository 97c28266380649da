"""Every address of the site."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path, re_path
from django.views.static import serve

urlpatterns = [path("", include("notes.urls")), path("admin/", admin.site.urls)]

if settings.DEBUG:
    # In production nginx serves these two folders; private files are in neither.
    urlpatterns.append(
        re_path(r"^media/(?P<path>(?:images|attachments)/[^/]+)$", serve, {"document_root": settings.MEDIA_ROOT})
    )
