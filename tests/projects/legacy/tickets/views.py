import os

from django.conf import settings
from django.core.cache import cache
from django.http import HttpResponse, JsonResponse
from django.utils.translation import gettext

from .models import Ticket


def home(request):
    visits = cache.get_or_set("visits", 0)
    cache.set("visits", visits + 1)
    return JsonResponse(
        {
            "release": os.environ["RELEASE"],
            "tickets": [ticket.title for ticket in Ticket.objects.all()[:10]],
            "welcome": gettext("Welcome"),
            "visits": visits,
            "lines_of_the_key": len(settings.SIGNING_KEY.splitlines()),
        }
    )


def cookies(request):
    """Tell how many bytes of them there are, and set four."""
    answer = JsonResponse({"bytes": sum(map(len, request.COOKIES.values()))})
    for number in range(4):
        answer.set_cookie(f"part_{number}", str(number) * 3500)
    return answer


def headers(request):
    return JsonResponse({**request.headers, "scheme": request.scheme, "script": request.META["SCRIPT_NAME"]})


def broken(request):
    raise RuntimeError("the till is open")


def template(request):
    return HttpResponse("DEBUG=\n", content_type="text/plain")
