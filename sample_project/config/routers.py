"""Which database is asked, where there is one that can only be read."""

from django.db.models import Model


class BoardOnReplica:
    """The board is read from the replica, which may be an instant behind; all else is where it is written."""

    def db_for_read(self, model: type[Model], **_hints: object) -> str | None:
        return "replica" if model._meta.label == "notes.Notice" else None

    def allow_relation(self, *_objects: Model, **_hints: object) -> bool:
        return True

    def allow_migrate(self, database: str, *_names: str, **_hints: object) -> bool | None:
        return False if database == "replica" else None
