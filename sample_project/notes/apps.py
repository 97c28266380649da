from django.apps import AppConfig


class NotesConfig(AppConfig):
    """The notice board."""

    name = "notes"
    verbose_name = "Notice board"
