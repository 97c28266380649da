from django.urls import path

from . import views

urlpatterns = [
    path("", views.board, name="board"),
    path("private/", views.private, name="private"),
    path("private/<uuid:file_id>/", views.private_file, name="private_file"),
    path("health/", views.health, name="health"),
    path("favicon.ico", views.favicon),
]
