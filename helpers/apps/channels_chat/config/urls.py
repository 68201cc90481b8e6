"""The addresses that answer HTTP. Those that answer WebSocket are in chat/routing.py."""

from chat import views
from django.urls import path

# All in one folder: the pages find each other, and the WebSocket, by relative addresses, behind any prefix.
urlpatterns = [
    path("", views.index, name="index"),
    path("login", views.log_in, name="login"),
    path("logout", views.log_out, name="logout"),
]
