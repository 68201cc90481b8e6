"""What each response says about the page."""

from django.conf import settings


def content_security_policy(get_response):
    """Let a browser run the scripts of this chat and no others, and show it only in pages that may."""
    policy = (
        "default-src 'self'; base-uri 'none'; form-action 'self'; "
        f"frame-ancestors {' '.join(settings.FRAME_ANCESTORS)}"
    )

    def middleware(request):
        response = get_response(request)
        response["Content-Security-Policy"] = policy
        return response

    return middleware
