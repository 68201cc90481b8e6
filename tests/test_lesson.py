"""The voice of a notebook: it asks first, and it insists on errors."""

from __future__ import annotations

import doctest
import errno
import importlib
import pkgutil
import urllib.error
from email.message import Message
from typing import Any

import httpx
import pytest
from test_draw import PAYLOADS, Page
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response

import helpers
from helpers import expect, predict
from helpers.lesson import code_of


def test_a_prediction_shows_the_question_and_does_not_wait() -> None:
    prediction = predict("How many?", [2, "three", 4.5])
    assert repr(prediction) == "Predict: How many?\n  A: 2\n  B: three\n  C: 4.5"
    page = Page(prediction._repr_html_())
    assert page.text == "PredictHow many? A: 2 B: three C: 4.5"
    radios = [attributes for tag, attributes in page.tags if tag == "input"]
    assert [radio["type"] for radio in radios] == ["radio"] * 3
    assert {radio["name"] for radio in radios} == {"How many?"}, "one choice of three"


def test_the_computed_answer_is_revealed(capsys: pytest.CaptureFixture[str]) -> None:
    prediction = predict("How many?", [2, "three", 4.5])
    for answer in (2, "2", "three", 4.5):
        prediction.reveal(answer)
    assert capsys.readouterr().out == "A: 2\nA: 2\nB: three\nC: 4.5\n"


def test_an_answer_that_is_no_option_shows_that_the_question_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AssertionError) as caught:
        predict("How many?", [2, 3]).reveal(4)
    assert str(caught.value) == "The answer '4' is none of the options ['2', '3']."
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [[], ["one"], ["same", "same"], [1, "1"]])
def test_a_question_needs_different_options(options: list[Any]) -> None:
    with pytest.raises(ValueError, match="two or more different options, not") as caught:
        predict("How many?", options)
    assert repr(options) in str(caught.value)


def test_what_is_asked_is_escaped() -> None:
    for payload in PAYLOADS:
        page = Page(predict(payload, [payload + "a", payload + "b"])._repr_html_())
        assert {tag for tag, _ in page.tags} == {
            "fieldset", "legend", "strong", "label", "input",
        }  # fmt: skip
        assert page.text.count(payload) == 3
    assert len(PAYLOADS) == 20


class Boom(Exception):
    def __init__(self, code: object = None) -> None:
        super().__init__("the message")
        self.code = code


def test_an_expected_error_is_swallowed_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with expect(Boom):
        raise Boom
    with expect(Exception):  # a class of errors; the name is that of the raised one
        raise Boom(5)
    with expect(Boom, code=7) as expected:
        raise Boom(7)
    assert isinstance(expected.error, Boom)
    with expect(ConnectionRefusedError):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "in any wording")
    assert capsys.readouterr().out == (
        f"Boom\nBoom 5\nBoom 7\nConnectionRefusedError {errno.ECONNREFUSED}\n"
    )


def test_nothing_raised_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError) as caught, expect(Boom):
        pass
    assert str(caught.value) == "This block had to raise Boom and raised nothing."
    with pytest.raises(AssertionError) as caught, expect(Boom, code=1006):
        pass
    assert str(caught.value) == "This block had to raise Boom with code 1006 and raised nothing."
    assert capsys.readouterr().out == ""


def test_another_error_passes_through_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for other in (KeyError("m"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as caught, expect(Boom) as expected:
            raise other
        assert caught.value is other
        assert expected.error is None
    assert capsys.readouterr().out == ""


def test_another_code_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    error = Boom(1001)
    with pytest.raises(AssertionError) as caught, expect(Boom, code=1006):
        raise error
    assert str(caught.value) == "This block had to raise Boom with code 1006; the code was 1001."
    assert caught.value.__cause__ is error
    assert capsys.readouterr().out == ""


def http_status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(code))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionClosedOK(Close(1000, ""), Close(1000, ""), True), 1000),
        (ConnectionClosedError(Close(4001, "bye"), None), 4001),
        (ConnectionClosedError(None, Close(1000, "")), 1006),
        (ConnectionClosedError(None, None), 1006),
        (InvalidStatus(Response(403, "Forbidden", Headers())), 403),
        (http_status(404), 404),
        (urllib.error.HTTPError("http://127.0.0.1/", 503, "", Message(), None), 503),
        (ConnectionResetError(errno.ECONNRESET, "reset"), errno.ECONNRESET),
        (OSError("no number"), None),
        (SystemExit(3), 3),
        (SystemExit("bye"), None),
        (Boom("text"), None),
        (ValueError("nothing"), None),
    ],
)
def test_the_code_is_what_the_protocol_says(error: BaseException, code: int | None) -> None:
    assert code_of(error) == code
    if isinstance(error, urllib.error.HTTPError):
        error.close()


def test_the_examples_in_the_documentation_run() -> None:
    """What the docstrings of the package show is what happens."""
    results = {}
    for module in pkgutil.iter_modules(helpers.__path__):
        results[module.name] = doctest.testmod(importlib.import_module(f"helpers.{module.name}"))
    assert {name: found.failed for name, found in results.items() if found.failed} == {}
    assert len(results) >= 9
    assert results["lesson"].attempted >= 4
    assert results["draw"].attempted >= 2
    assert sum(found.attempted for found in results.values()) >= 7
