"""One settings module: whatever differs from place to place comes from the environment."""

import os
from pathlib import Path

import dj_database_url
import django
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

# Nothing but these exact words: a typo must never turn debugging on.
DEBUG = os.environ.get("DEBUG") in {"true", "1", "yes"}


def env(name: str, development: str = "") -> str:
    """Return the variable; only while DEBUG is on may it be missing."""
    value = os.environ.get(name) or (development if DEBUG else "")
    if not value:
        raise ImproperlyConfigured(f"The environment variable {name} is not set.")
    return value


def words(value: str) -> list[str]:
    """Split a comma separated value."""
    return [word.strip() for word in value.split(",") if word.strip()]


# The deployment

SECRET_KEY = env("SECRET_KEY", "django-insecure-for-development-only")
ALLOWED_HOSTS = words(env("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]"))
CSRF_TRUSTED_ORIGINS = words(os.environ.get("CSRF_TRUSTED_ORIGINS", ""))
STATIC_ROOT = Path(env("STATIC_ROOT", str(BASE_DIR / "staticfiles")))
MEDIA_ROOT = Path(env("MEDIA_ROOT", str(BASE_DIR / "media")))
RELEASE = os.environ.get("RELEASE") or "development"


def database(url: str) -> dict:
    # Not kept under ASGI, where each request would leave a connection behind, nor behind a pooler, which keeps them.
    age = int(os.environ.get("CONN_MAX_AGE", "60"))
    # Behind a pooler in transaction mode the next rows would be asked of another connection.
    no_cursors = os.environ.get("DISABLE_SERVER_SIDE_CURSORS") == "True"
    return dj_database_url.parse(url, conn_max_age=age, conn_health_checks=True, disable_server_side_cursors=no_cursors)


DATABASES = {"default": database(env("DATABASE_URL", f"sqlite:///{BASE_DIR / 'db.sqlite3'}"))}
if replica := os.environ.get("DATABASE_REPLICA_URL"):
    DATABASES["replica"] = {**database(replica), "TEST": {"MIRROR": "default"}}
    DATABASE_ROUTERS = ["config.routers.BoardOnReplica"]

if valkey := os.environ.get("REDIS_URL"):
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": valkey}}
    # In the database too, should that be away for good.
    SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"

# The application

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "notes",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"

# Files: nginx serves both folders; media/private/ only when Django hands a file over.

STATIC_URL = "/static/"
MEDIA_URL = "/media/"
STATICFILES_STORAGE = "StaticFilesStorage" if DEBUG else "ManifestStaticFilesStorage"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": f"django.contrib.staticfiles.storage.{STATICFILES_STORAGE}"},
}

# HTTPS: nginx ends it, and overwrites X-Forwarded-Proto in every request.

if not DEBUG:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 365 * 24 * 60 * 60
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# What a page may fetch: all is of the site itself, and in files.

if django.VERSION >= (6, 0):
    MIDDLEWARE.insert(1, "django.middleware.csp.ContentSecurityPolicyMiddleware")
    SECURE_CSP = {
        "default-src": ["'none'"],
        **{f"{kind}-src": ["'self'"] for kind in ("script", "style", "img", "font", "connect")},
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }

# One stream for everything; the journal adds the time.

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "plain"}},
    "root": {"handlers": ["stdout"], "level": "INFO"},
    "loggers": {"django": {"handlers": [], "level": "INFO", "propagate": True}},
}
