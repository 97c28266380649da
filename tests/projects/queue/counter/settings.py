import os

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ["ALLOWED_HOSTS"].split(",")
INSTALLED_APPS = ["ticks"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "counter.urls"
ASGI_APPLICATION = "counter.asgi.application"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"],
        "HOST": os.environ["PGHOST"],
        "USER": os.environ["PGUSER"],
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["REDIS_URL"]}}
USE_TZ = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# A broker that is told in parts, as many projects have it.
CELERY_BROKER_URL = "redis://:{REDIS_PASSWORD}@{REDIS_HOST}:{REDIS_PORT}/1".format(**os.environ)
CELERY_RESULT_BACKEND = os.environ["RESULTS_URL"]
CELERY_BEAT_SCHEDULE = {"tick": {"task": "ticks.tasks.tick", "schedule": 0.5, "args": [os.environ.get("RELEASE")]}}
