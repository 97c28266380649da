from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[2]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "tickets"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.locale.LocaleMiddleware"]
ROOT_URLCONF = "tracker.urls"
WSGI_APPLICATION = "tracker.wsgi.application"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
USE_I18N = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "public" / "static"
# Built by build_assets.py.
STATICFILES_DIRS = [BASE_DIR / "build"]
