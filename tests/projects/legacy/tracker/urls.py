from django.urls import path
from tickets.views import cookies, headers, home, template

urlpatterns = [
    path("", home),
    path("cookies/", cookies),
    path("headers/", headers),
    path("files/.env.example", template),
]
