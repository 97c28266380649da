from django.urls import path
from tickets.models import Ticket
from tickets.views import broken, cookies, headers, home, template

urlpatterns = [
    path("", home),
    path("broken/", broken),
    path("cookies/", cookies),
    path("headers/", headers),
    path("files/.env.example", template),
    # Asks the database as the check does, which has no tables before the first release.
    *(path(f"tickets/{number}/", home) for number in Ticket.objects.values_list("pk", flat=True)),
]
