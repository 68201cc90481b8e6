"""Who may ask this server for anything: requests for its own hosts, from its own pages."""

import re

from flask import abort, current_app, request
from werkzeug.exceptions import BadRequest

from . import client

HOST = r"(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d+)?"


def host_is_ours(host, hosts):
    """Tell whether a request is for one of our hosts, on any port."""
    found = re.fullmatch(HOST, (host or "").lower())
    return found is not None and (found[1] in hosts or "*" in hosts)


def origin_is_ours(origin, hosts):
    """Tell whether a page of this origin may connect: it must be of one of our hosts, on any port."""
    scheme, _, host = (origin or "").partition("://")
    return scheme in ("http", "https") and host_is_ours(host, hosts)


class TrustedHosts:
    """Refuse what is meant for another host.

    A page of evil.example may have its own name lead to 127.0.0.1 (DNS rebinding). Its requests then come here, and to the
    browser they are not foreign: only `Host` tells.
    """

    def __init__(self, wsgi_app, hosts):
        self.wsgi_app = wsgi_app
        self.hosts = hosts

    def __call__(self, environ, start_response):
        if not host_is_ours(environ.get("HTTP_HOST"), self.hosts):
            return BadRequest("This server does not answer for that host.")(environ, start_response)
        return self.wsgi_app(environ, start_response)


def refuse_foreign_forms():
    """Refuse a form that a page from elsewhere sends: browsers name the origin of each."""
    origin = request.headers.get("Origin")
    foreign = origin is not None and not origin_is_ours(origin, current_app.config["CHAT_HOSTS"])
    if request.method == "POST" and foreign:
        abort(403)


def content_security_policy(response):
    """Let a browser run the scripts of this chat and no others, and show it only in pages that may."""
    scripts = " ".join(["'self'", *client.elsewhere()])
    response.headers["Content-Security-Policy"] = (
        f"default-src 'self'; script-src {scripts}; base-uri 'none'; form-action 'self'; "
        f"frame-ancestors {' '.join(current_app.config['CHAT_FRAME_ANCESTORS'])}"
    )
    return response
