from django.urls import path
from tickets.views import broken, cookies, headers, home, template

urlpatterns = [
    path("", home),
    path("broken/", broken),
    path("cookies/", cookies),
    path("headers/", headers),
    path("files/.env.example", template),
]
