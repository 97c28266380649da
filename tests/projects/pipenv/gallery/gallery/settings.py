from pathlib import Path

try:
    from . import configuration
except ImportError:
    raise RuntimeError("Copy gallery/configuration.example.py to gallery/configuration.py") from None

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = False
SECRET_KEY = configuration.SECRET_KEY
ALLOWED_HOSTS = configuration.ALLOWED_HOSTS
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "pictures"]
ROOT_URLCONF = "gallery.urls"
WSGI_APPLICATION = "gallery.wsgi.application"
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", **configuration.DATABASE}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
# Collected by the maintainers, and in the source as it is.
STATIC_ROOT = BASE_DIR / "project-static"
GREETING = configuration.GREETING
