# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check the settings of a project, and return what must change before its release can go live."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.django_vps.stack.plugins.module_utils.mounts import is_shared
from ansible_collections.django_vps.stack.plugins.module_utils.project import OWN_SETTINGS

# Files that keep an empty folder in git.
PLACEHOLDERS = {".gitkeep", ".gitignore", ".keep"}
#: Folders that each process of the site has for itself, or that all may write.
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")

#: What happens behind a pooler in transaction mode (site_database_pooler), and what to write.
BROKEN_BY_POOLER = {
    "DISABLE_SERVER_SIDE_CURSORS": (
        "is off behind a pooler, where a cursor would be looked for in another connection; read it:"
        " disable_server_side_cursors=os.environ.get('DISABLE_SERVER_SIDE_CURSORS') == 'True' for dj_database_url"
    ),
    "prepare_threshold": (
        "is set behind a pooler, where a statement would be looked for in another connection; remove it from OPTIONS"
    ),
    "assume_role": "is set behind a pooler, where other requests would get the role; remove it from OPTIONS",
    "options": (
        "is set behind a pooler, which cannot pass it on; remove it from OPTIONS, and set its values for the role by"
        " ALTER ROLE … SET in a migration"
    ),
}
USELESS_WITH_POOLER = {
    "CONN_MAX_AGE": (
        "is not 0 behind a pooler, which keeps the connections to PostgreSQL; read it:"
        " conn_max_age=int(os.environ.get('CONN_MAX_AGE', '60'))"
    ),
    "pool": "is set behind a pooler, so that each connection is kept in two pools; remove one of them",
}


def is_free(path: Path) -> bool:
    """Return whether the path is missing, or a folder without files except those that keep it in git."""
    if path.is_dir():
        return not {entry.name for entry in path.iterdir()} - PLACEHOLDERS
    return not os.path.lexists(path)


@dataclass
class Settings:
    """The facts that project_scripts.examine reports, the options of the module, and the folders of the release."""

    facts: dict
    options: dict
    code: Path
    project: Path
    static: Path
    shared: Path

    def findings(self) -> list[str]:
        """Return the settings that are unsafe, lose data, or leave clients without files."""
        static_url = self.facts["static_url"] if self.facts["collects"] else ""
        media_url = self.facts["media_url"] if self.facts["media_root"] else ""
        return [
            *self.unsafe(),
            *self.pooler_findings(),
            *self.wrong_url("STATIC_URL", static_url, "site_static_url"),
            *self.wrong_url("MEDIA_URL", media_url, "site_media_url"),
            *self.static_findings(),
            *self.media_findings(),
            *self.storage_findings(),
            *self.sharing_findings(),
        ]

    @property
    def advice(self) -> str:
        """Return another way out, for settings that do not read the environment; empty where they do."""
        return f"Or, {OWN_SETTINGS}." if any(self.unsafe()) else ""

    def warnings(self, application: str) -> Iterator[str]:
        facts = self.facts
        if facts["key"]:
            yield f"{facts['module']} does not use the SECRET_KEY of its environment"
        if facts["others"]:
            yield f"migrations are applied to the database 'default' only, not to {', '.join(facts['others'])}"
        for field in filter(self.is_unused, facts["stored"]):
            yield (
                f"MEDIA_ROOT is not set, so nothing can be uploaded to {field}; read it:"
                " MEDIA_ROOT = os.environ['MEDIA_ROOT']"
            )
        # Under ASGI each request has its own thread, whose persistent connection stays open.
        if "asgi" in application and facts["kept"]:
            yield (
                f"CONN_MAX_AGE is not 0 for {', '.join(facts['kept'])}: under ASGI each request would leave its"
                " connection behind until PostgreSQL takes no more; read it from the environment, and set it to 0 in"
                " django_env"
            )

        for setting in facts["pooler"]["useless"]:
            yield f"{setting} of DATABASES['default'] {USELESS_WITH_POOLER[setting]}"

    def pooler_findings(self) -> Iterator[str]:
        for setting in self.facts["pooler"]["breaks"]:
            yield f"{setting} of DATABASES['default'] {BROKEN_BY_POOLER[setting]}"

    def unsafe(self) -> Iterator[str]:
        facts = self.facts
        if facts["debug"]:
            yield (
                "DEBUG is on under DEBUG=False; read it: DEBUG = os.environ.get('DEBUG') == 'True',"
                " or set django_settings_module to the settings for production"
            )
        advice = "read it: SECRET_KEY = os.environ['SECRET_KEY']"
        if facts.get("changing_key"):
            yield f"SECRET_KEY is another one at each start, so that each would end all sessions; {advice}"
        elif facts["weak_key"]:
            yield f"SECRET_KEY is none of the environment's, and one that can be guessed; {advice}"
        for database in facts["sqlite"]:
            yield (
                f"the database is SQLite in {database}, where its rows would be lost;"
                f" read DATABASE_URL, for example with dj_database_url.config(){self.parts_of_database()}"
            )
        if not facts["answers"]:
            yield (
                f"ALLOWED_HOSTS is {facts['hosts']}, without {self.options['host']};"
                " read it: ALLOWED_HOSTS = os.environ['ALLOWED_HOSTS'].split(',')"
            )

    def parts_of_database(self) -> str:
        """Return advice for a project that does not read DATABASE_URL; a file has the address of a remote database."""
        if len(self.facts["parts"]) < 3:
            return ""
        return (
            ", or give the project the parts by django_env, under the names that it reads:"
            " host {PGHOST}, name {PGDATABASE}, user {PGUSER}, password and port empty"
        ).format(**self.facts["parts"])

    def wrong_url(self, setting: str, value: str, variable: str) -> Iterator[str]:
        wanted = self.options[variable.removeprefix("site_")]
        if value and not urlsplit(value).netloc and f"/{value.lstrip('/')}" != wanted:
            yield (
                f"{setting} is {value!r}, but the site serves {wanted!r};"
                f" set {variable}: /{value.lstrip('/')} and run site.yml"
            )

    @property
    def static_root(self) -> Path | None:
        """Return the folder of the static files, with dots and links resolved; None where another server has them."""
        root = Path(os.path.realpath(self.facts["static_root"])) if self.facts["static_root"] else None
        if urlsplit(self.facts["static_url"]).netloc and (root is None or not root.is_dir()):
            # Another server, such as S3, has the files.
            return None
        return root

    @property
    def serves_static(self) -> bool:
        on_another_server = urlsplit(self.facts["static_url"]).netloc and self.static_root is None
        return not on_another_server and (self.facts["collects"] or not self.options["collectstatic"])

    def static_findings(self) -> Iterator[str]:
        if not self.serves_static:
            return
        root = self.static_root
        static, code = (Path(os.path.realpath(place)) for place in (self.static, self.code))
        if root is None or (root != static and not root.is_relative_to(code)):
            yield (
                f"STATIC_ROOT is {self.facts['static_root']!r}, so the static files have no place in the release;"
                " read it: STATIC_ROOT = os.environ['STATIC_ROOT']"
            )
        elif not self.options["collectstatic"] and not any(root.glob("*")):
            yield (
                f"STATIC_ROOT is {self.facts['static_root']!r}, where nothing is; with django_collectstatic: false it"
                " is a folder of the source that has all static files"
            )

    @property
    def media_inside(self) -> Path | None:
        """Return the folder of uploads, if it is inside the source."""
        root = Path(os.path.realpath(self.facts["media_root"]))
        inside = self.facts["media_root"] and root.is_relative_to(os.path.realpath(self.code))
        return root if inside and not root.is_relative_to(os.path.realpath(self.options["media"])) else None

    def media_findings(self) -> Iterator[str]:
        media_root = self.facts["media_root"]
        if not media_root or self.media_inside:
            return
        if not Path(os.path.realpath(media_root)).is_relative_to(os.path.realpath(self.options["media"])):
            yield (
                f"MEDIA_ROOT is {media_root}, where the site may not write; set site_media_root: {media_root}, or"
                " read it: MEDIA_ROOT = os.environ['MEDIA_ROOT']"
            )

    def is_unused(self, field: str) -> bool:
        """Return whether a field has the default place of FileField, so that its app may be used for other features."""
        location = Path(os.path.realpath(self.facts["stored"][field]))
        return not self.facts["media_root"] and location == self.project.resolve()

    @property
    def storages(self) -> dict[str, Path]:
        """Return the folders of storages beside those of fields, static files, and files that may only be read."""
        others = {self.facts["media_root"] or str(self.project), *self.facts["stored"].values()}
        known = {os.path.realpath(folder) for folder in others}
        folders = {name: Path(os.path.realpath(folder)) for name, folder in self.facts["storages"].items()}
        static = os.path.realpath(self.facts["static_root"] or "/nowhere")
        return {
            name: folder
            for name, folder in folders.items()
            if str(folder) not in known and not folder.is_relative_to(static) and is_free(folder)
        }

    def storage_findings(self) -> Iterator[str]:
        """Yield a finding for each place outside the folder of uploads where the project stores files."""
        writable = (self.options["media"], self.shared, self.facts["media_root"] or "/nowhere")
        fields = {name: folder for name, folder in self.facts["stored"].items() if not self.is_unused(name)}
        yield from self.unwritable({**fields, **self.storages}, writable)
        yield from self.unwritable(self.facts["scratch"], (*writable, *TEMPORARY))

    def unwritable(self, folders: dict[str, str | Path], writable: tuple[str | Path, ...]) -> Iterator[str]:
        code = os.path.realpath(self.code)
        for name, folder in folders.items():
            real = Path(os.path.realpath(folder))
            if any(real.is_relative_to(os.path.realpath(place)) for place in writable):
                continue
            if real.is_relative_to(code):
                advice = f"django_shared_paths: [{real.relative_to(code)}]"
            else:
                advice = f"it into a folder of the source, such as {real.name}, and django_shared_paths: [{real.name}]"
            yield f"{name} is kept in {real}, where the site may not write; write {advice}"

    def sharing_findings(self) -> Iterator[str]:
        """Yield a finding for files that one of several hosts receives and the others must serve."""
        if not self.options["several"]:
            return
        if self.options["shared_paths"] and not is_shared(str(self.shared)):
            yield (
                "django_shared_paths would be kept on the host that writes them, and the site has several; mount a"
                f" network file system at {self.shared} on all app hosts"
            )
        if (stored := [*self.facts["stored"], *self.storages]) and not is_shared(self.options["media"]):
            yield (
                f"{', '.join(stored)} would be kept on the host that takes it, and the site has several;"
                " keep uploads elsewhere, as by django-storages with S3 in STORAGES, or mount a network file system"
                f" at {self.options['media']} on all app hosts"
            )
