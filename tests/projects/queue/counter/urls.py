from django.urls import path
from ticks import views

urlpatterns = [path("", views.ticks)]
