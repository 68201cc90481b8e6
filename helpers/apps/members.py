"""The pages of a site with users, as short as they get: log in by a name alone, log out, say who asks, keep things.

The `urlpatterns` of a notebook can be these; they need the settings `helpers.project.WITH_USERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth import get_user_model, login, logout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

if TYPE_CHECKING:
    from ..server import Server


def log_in(request: HttpRequest) -> HttpResponse:
    user, _ = get_user_model().objects.get_or_create(username=request.POST["name"])
    login(request, user)
    return HttpResponse("welcome")


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("goodbye")


def who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.user))


def shelf(request: HttpRequest) -> JsonResponse:
    request.session.update(request.GET.dict())
    keys = ("cup", "plate")
    return JsonResponse({key: request.session[key] for key in keys if key in request.session})


urlpatterns = [
    path("login", log_in),
    path("logout", log_out),
    path("who", who),
    path("shelf", shelf),
]


def cookie_of(server: Server, name: str) -> dict[str, str]:
    """Log a user in over HTTP and return the header with its cookie, which is all that a client has to send.

    Args:
        server: the site.
        name: who to be; a user of this name is made where there is none.

    Raises:
        httpx.HTTPStatusError: the site refused.
    """
    import httpx

    answer = httpx.post(server.url("/login"), data={"name": name}, trust_env=False)
    return {"Cookie": f"sessionid={answer.raise_for_status().cookies['sessionid']}"}
