import pytest
from flask_chat import client


def test_the_page_asks_for_a_name_first(app):
    browser = app.test_client()
    answer = browser.get("/")
    assert (answer.status_code, answer.location) == (302, "login")
    assert b"Your name" in browser.get("/login").data
    answer = browser.post("/login", data={"name": "ada"})
    assert (answer.status_code, answer.location) == (302, "./")
    assert b"<strong>ada</strong>" in browser.get("/").data
    assert browser.post("/logout").location == "login"
    assert browser.get("/").location == "login"


@pytest.mark.parametrize("name", ["", "two words", "<b>"])
def test_a_name_that_is_not_allowed(app, name):
    answer = app.test_client().post("/login", data={"name": name})
    assert answer.status_code == 400
    assert b"A name has" in answer.data


def test_a_form_of_another_page_is_refused(app):
    browser = app.test_client()
    for origin in ("https://evil.example", "null"):
        answer = browser.post("/login", data={"name": "ada"}, headers={"Origin": origin})
        assert answer.status_code == 403
    answer = browser.post(
        "/login", data={"name": "ada"}, headers={"Origin": "http://localhost:8888"}
    )
    assert answer.status_code == 302


def test_the_page_runs_no_scripts_from_elsewhere(app, monkeypatch):
    browser = app.test_client()
    browser.post("/login", data={"name": "ada"})
    monkeypatch.setattr(client, "is_here", lambda: True)
    answer = browser.get("/")
    assert "script-src 'self';" in answer.headers["Content-Security-Policy"]
    assert "https://" not in answer.text


def test_without_npm_the_client_comes_from_a_cdn_with_its_digest(app, monkeypatch):
    browser = app.test_client()
    browser.post("/login", data={"name": "ada"})
    monkeypatch.setattr(client, "is_here", lambda: False)
    answer = browser.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self' https://cdn.jsdelivr.net;" in policy
    assert f'src="{client.CDN}" integrity="{client.INTEGRITY}"' in answer.text
