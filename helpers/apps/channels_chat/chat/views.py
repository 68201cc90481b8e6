"""The pages: logging in, the chat itself, logging out."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth import login, logout
from django.http import HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from .consumers import user_group
from .forms import LoginForm

# Redirects are relative, because behind a proxy's prefix the chat does not know its own address.


@require_GET
def index(request):
    if not request.user.is_authenticated:
        return HttpResponseRedirect("login")
    return render(request, "chat/index.html")


@require_http_methods(["GET", "POST"])
def log_in(request):
    form = LoginForm(request.POST or None)
    if form.is_valid():
        login(request, form.user, backend="django.contrib.auth.backends.ModelBackend")
        return HttpResponseRedirect("./")
    return render(
        request, "chat/login.html", {"form": form}, status=400 if request.method == "POST" else 200
    )


@require_POST
def log_out(request):
    if request.user.is_authenticated:
        ended = {"type": "session.ended", "session": request.session.session_key}
        group = user_group(request.user)
        logout(request)
        async_to_sync(get_channel_layer().group_send)(group, ended)
    return HttpResponseRedirect("login")
