from django.http import HttpRequest, HttpResponse
from django.urls import path


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"Django, over {type(request).__name__}")


urlpatterns = [path("", hello)]
