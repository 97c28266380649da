"""The settings of a production site, tried in a process of their own."""

import os
import re
import subprocess
import sys
import tempfile
from unittest import TestCase

from django.conf import settings

PRODUCTION = {
    "SECRET_KEY": "for-this-test-only-Zq8vT2kLw9xNb4rYc7mHs1dGj6pFe3uA",
    "DEBUG": "False",
    "ALLOWED_HOSTS": "lane.example, www.lane.example",
    "CSRF_TRUSTED_ORIGINS": "https://lane.example,https://www.lane.example",
    "DATABASE_URL": "postgres://lane@/lane?host=/run/postgresql",
    "STATIC_ROOT": "/srv/lane/static",
    "MEDIA_ROOT": "/srv/lane/media",
    "RELEASE": "20261121T050000Z",
}


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py with this environment and nothing else."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        check=False,
        cwd=settings.BASE_DIR,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )


def setting(name: str, **environment: str) -> str:
    """Return a setting as a fresh process sees it."""
    code = f"from django.conf import settings; print(repr(settings.{name}))"
    return manage("shell", "--no-imports", "-c", code, **environment).stdout.strip()


class SettingsTest(TestCase):
    def test_the_deployment_check_finds_nothing(self) -> None:
        # The check touches the database from Django 6.1 on, so give it one.
        with tempfile.TemporaryDirectory() as folder:
            production = PRODUCTION | {"DATABASE_URL": f"sqlite:///{folder}/db"}
            run = manage("check", "--deploy", "--fail-level", "WARNING", **production)
        assert run.returncode == 0, run.stderr
        assert "no issues (0 silenced)" in run.stdout + run.stderr

    def test_a_missing_variable_is_named(self) -> None:
        for name in ("SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "STATIC_ROOT", "MEDIA_ROOT"):
            for environment in (PRODUCTION | {name: ""}, dict(PRODUCTION)):
                if environment[name]:
                    del environment[name]
                with self.subTest(name):
                    run = manage("check", **environment)
                    assert run.returncode != 0
                    assert run.stderr.splitlines()[-1] == (
                        f"django.core.exceptions.ImproperlyConfigured: The environment variable {name} is not set."
                    )

    def test_only_the_exact_words_turn_debugging_on(self) -> None:
        for word in ("true", "1", "yes"):
            assert setting("DEBUG", DEBUG=word) == "True"
        for word in ("True", "on", "0", "false", "no", " 1", ""):
            assert setting("DEBUG", **PRODUCTION | {"DEBUG": word}) == "False"

    def test_lists_are_split_at_commas(self) -> None:
        expected = repr(["lane.example", "www.lane.example"])
        assert setting("ALLOWED_HOSTS", **PRODUCTION) == expected

    def test_the_database_is_reached_over_its_socket_and_kept_open(self) -> None:
        database = setting("DATABASES['default']", **PRODUCTION)
        for part in (
            "'ENGINE': 'django.db.backends.postgresql'",
            "'NAME': 'lane'",
            "'USER': 'lane'",
            "'OPTIONS': {'host': '/run/postgresql'}",
            "'CONN_MAX_AGE': 60",
            "'CONN_HEALTH_CHECKS': True",
        ):
            assert part in database

    def test_the_environment_says_how_long_a_connection_is_kept(self) -> None:
        assert "'CONN_MAX_AGE': 0" in setting("DATABASES['default']", **PRODUCTION, CONN_MAX_AGE="0")

    def test_behind_a_pooler_there_are_no_server_side_cursors(self) -> None:
        name = "DISABLE_SERVER_SIDE_CURSORS"
        assert f"'{name}': False" in setting("DATABASES['default']", **PRODUCTION)
        assert f"'{name}': True" in setting("DATABASES['default']", **PRODUCTION, **{name: "True"})

    def test_the_board_is_read_from_a_replica_where_there_is_one(self) -> None:
        replica = {"DATABASE_REPLICA_URL": "postgres://lane@/lane?service=lane-replica"}
        assert "'OPTIONS': {'service': 'lane-replica'}" in setting("DATABASES['replica']", **PRODUCTION, **replica)
        code = "from notes.models import Notice, PrivateFile as P; print(Notice.objects.all().db, P.objects.all().db)"
        run = manage("shell", "--no-imports", "-c", code, **PRODUCTION, **replica)
        assert run.stdout.split() == ["replica", "default"], run.stderr
        run = manage("shell", "--no-imports", "-c", code, **PRODUCTION)
        assert run.stdout.split() == ["default", "default"], run.stderr

    def test_sessions_and_cache_are_in_valkey_where_there_is_one(self) -> None:
        valkey = {"REDIS_URL": "unix:///run/lane-valkey/valkey.sock"}
        assert "'LOCATION': 'unix:///run/lane-valkey/valkey.sock'" in setting("CACHES", **PRODUCTION, **valkey)
        assert "cached_db" in setting("SESSION_ENGINE", **PRODUCTION, **valkey)

    def test_assets_get_hashed_names(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = manage("collectstatic", "--no-input", **PRODUCTION | {"STATIC_ROOT": folder})
            assert run.returncode == 0, run.stderr
            names = os.listdir(os.path.join(folder, "notes"))
        assert any(re.fullmatch(r"site\.[0-9a-f]{12}\.css", name) for name in names)
