"""A release that is broken in itself."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from conftest import Project

UNLOCKED = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"


class Case(NamedTuple):
    """How the project is broken, and what the output has to tell: the step, the cause, what to do."""

    breaks: Callable[[Project], object]
    said: tuple[str, ...]


def no_manage(project: Project) -> None:
    (project.folder / "manage.py").unlink()


def wrong_hash_of_a_package_that_is_there(project: Project) -> None:
    locked = (project.folder / "requirements.txt").read_text()
    package = locked[locked.index("sqlparse==") :]
    hashes = [word for word in package.split() if word.startswith("--hash")][:2]
    for one in hashes:
        project.replace("requirements.txt", one, "--hash=sha256:" + "0" * 64)


def wrong_hash_of_a_new_package(project: Project) -> None:
    project.append("requirements.txt", UNLOCKED[:-64] + "0" * 64)


def unknown_version(project: Project) -> None:
    project.append("requirements.txt", "six==99.0")


def package(setup: str) -> Callable[[Project], None]:
    """A package in the source, which has to be built on the host."""

    def breaks(project: Project) -> None:
        project.write("clock/setup.py", f"from setuptools import Extension, setup\n{setup}\n")
        project.write("clock/clock.c", "#include <Python.h>\n")
        project.append("requirements.txt", "./clock")

    return breaks


def appended(name: str, text: str) -> Callable[[Project], None]:
    return lambda project: project.append(name, text)


def replaced(name: str, old: str, new: str) -> Callable[[Project], None]:
    return lambda project: project.replace(name, old, new)


def health(body: str) -> Callable[[Project], None]:
    return lambda project: project.append("notes/views.py", f"def health(request):\n    {body}")


BUILDS = {
    "there is no manage.py": Case(no_manage, ("django_source: ", "there is no manage.py", "django_subdirectory")),
    "a hash of a package that the host has is wrong": Case(
        wrong_hash_of_a_package_that_is_there, ("install: ", "sqlparse==0.6.1", "lock again")
    ),
    "a hash of a package that the host has not is wrong": Case(
        wrong_hash_of_a_new_package, ("install: ", "six==1.17.0", "lock again")
    ),
    "a version does not exist": Case(unknown_version, ("install: ", "six==99.0")),
    "a package does not build": Case(
        package("raise SystemExit('libclock is not on this machine')"),
        ("install: ", "clock", "libclock is not on this machine"),
    ),
    "a package wants a compiler": Case(
        package("setup(name='clock', version='1', ext_modules=[Extension('clock', ['clock.c'])])"),
        ("install: ", "clock", "gcc", "django_system_packages"),
    ),
    "settings.py imports what is not there": Case(
        appended("config/settings.py", "import clockwork"),
        ("settings: ", "ModuleNotFoundError: No module named 'clockwork'", "Require the package"),
    ),
    "settings.py misses a variable": Case(
        appended("config/settings.py", 'os.environ["MAIL_KEY"]'), ("settings: ", "KeyError: 'MAIL_KEY'", "django_env")
    ),
    "urls.py imports what is not there": Case(
        appended("config/urls.py", "import clockwork"),
        ("check: ", "ModuleNotFoundError: No module named 'clockwork'", "Require the package"),
    ),
    "a stylesheet names a picture that is not there": Case(
        appended("notes/static/notes/site.css", "body { background: url(cloud.png) }"),
        ("collectstatic: ", "notes/cloud.png"),
    ),
    "the system check finds an error": Case(
        appended("notes/models.py", "Notice._meta.ordering = ['nothing']"), ("check: ", "notes.Notice: (models.E015)")
    ),
}

STARTS = {
    "wsgi.py imports what is not there": Case(
        appended("config/wsgi.py", "import clockwork"), ("health: ", "ModuleNotFoundError: No module named 'clockwork'")
    ),
    "the worker dies after a second": Case(
        appended("config/wsgi.py", "import threading\nthreading.Timer(1, os._exit, [1]).start()"),
        ("health: ", "worker"),
    ),
    "the start hangs": Case(
        appended("config/wsgi.py", "import time\ntime.sleep(999)"),
        ("health: https://site13.example.test/health/ does not answer", "8 s", "django_health_timeout"),
    ),
    "health answers 500": Case(
        health("raise RuntimeError('the cache is cold')"),
        ("health: https://site13.example.test/health/ answers 500", "RuntimeError: the cache is cold"),
    ),
    "health answers 404": Case(
        replaced("notes/urls.py", '"health/"', '"healthy/"'),
        ("health: https://site13.example.test/health/ answers 404", "django_health_path"),
    ),
    "health leads to itself": Case(
        health("return redirect(request.build_absolute_uri(), permanent=True)"),
        ("health: https://site13.example.test/health/ redirects to", "and so for ever", "SECURE_PROXY_SSL_HEADER"),
    ),
    "health leads elsewhere": Case(
        health("return redirect('board')"), ("health: https://site13.example.test/health/ answers 302",)
    ),
    "health is slow": Case(
        health("import time\n    time.sleep(30)"),
        ("health: https://site13.example.test/health/ does not answer", "8 s", "django_health_timeout"),
    ),
}


@pytest.mark.parametrize("case", BUILDS.values(), ids=BUILDS)
def test_failed_build_leaves_nothing(project, refused, case):
    case.breaks(project)
    refused(project.folder, *case.said)


@pytest.mark.parametrize("case", STARTS.values(), ids=STARTS)
def test_unhealthy_release_is_stopped_and_marked_bad(project, refused, case):
    case.breaks(project)
    refused(project.folder, *case.said, leaves="bad", django_health_timeout=8)


def test_healthy_release_goes_live(project, goes_live):
    project.append("requirements.txt", UNLOCKED)
    goes_live(project.folder)
