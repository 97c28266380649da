from importlib.metadata import version
from pathlib import Path

import environ

env = environ.Env(DEBUG=(bool, False))
TOP = Path(__file__).resolve().parents[3]
DEBUG = env("DEBUG")
SECRET_KEY = env("SECRET_KEY")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS")
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "shelf.books"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "shelf.urls"
WSGI_APPLICATION = "shelf.wsgi.application"
DATABASES = {"default": env.db()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
STATIC_URL = "static/"
STATIC_ROOT = TOP / "static"
MEDIA_URL = "media/"
MEDIA_ROOT = TOP / "media"
VERSION = version("shelf")
