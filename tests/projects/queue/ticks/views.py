import os

from django.core.cache import cache
from django.http import JsonResponse

from .models import Tick
from .tasks import double


def ticks(request):
    """Who has asked whom, in order and each only when it changes; with ?double=N what a worker makes of N."""
    cache.add("visits", 0)
    answer = {"release": os.environ.get("RELEASE"), "visits": cache.incr("visits")}
    pairs = [(tick.asked_by, tick.done_by) for tick in Tick.objects.order_by("id")]
    answer["asked_by"] = [
        asked for number, (asked, _) in enumerate(pairs) if not number or pairs[number - 1][0] != asked
    ]
    answer["count"] = len(pairs)
    if number := request.GET.get("double"):
        answer["double"] = double.delay(int(number)).get(timeout=10)
    return JsonResponse(answer)
