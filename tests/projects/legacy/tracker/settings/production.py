import json
import os

from .base import *  # noqa: F403

DEBUG = bool(int(os.environ["DEBUG"]))
SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = json.loads(os.environ["ALLOWED_HOSTS"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["LD_DB_HOST"],
        "PORT": os.environ["LD_DB_PORT"],
        "NAME": os.environ["LD_DB_NAME"],
        "USER": os.environ["LD_DB_USER"],
        "PASSWORD": os.environ["LD_DB_PASSWORD"],
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache_table"}}
SIGNING_KEY = os.environ["tracker__signing__key"]  # noqa: SIM112
