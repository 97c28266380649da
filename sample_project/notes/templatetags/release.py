"""A tag and not a context processor: error pages are rendered without a request."""

from django import template
from django.conf import settings

register = template.Library()


@register.simple_tag
def release() -> str:
    """Return the release that renders this page."""
    return settings.RELEASE
