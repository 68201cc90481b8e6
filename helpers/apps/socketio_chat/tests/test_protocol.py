import pytest
from flask_chat import protocol


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "not_an_object"),
        (("lobby",), "not_an_object"),
        (({}, {}), "not_an_object"),
        ((b"",), "binary"),
        (({"text": [b"\0"]},), "binary"),
        (({"text": "x" * protocol.MAX_BYTES},), "too_big"),
    ],
)
def test_an_event_carries_one_object(arguments, code):
    with pytest.raises(protocol.Refused) as refused:
        protocol.payload(arguments)
    assert refused.value.code == code


def test_halves_of_characters_can_be_measured():
    assert protocol.payload(({"text": "\ud800"},)) == {"text": "\ud800"}


@pytest.mark.parametrize("name", ["ada", "Ada-1.b_c", "é", "a" * 30])
def test_a_name(name):
    assert protocol.person(name) == name


@pytest.mark.parametrize("name", ["", "two words", "ada\n", "<b>", "a" * 31, "a\0"])
def test_no_name(name):
    assert protocol.person(name) is None


def test_a_name_that_only_looks_different_is_the_same():
    assert protocol.person("\uff41\uff44\uff41") == "ada"


@pytest.mark.parametrize(("ref", "kept"), [(1, 1), ("a", "a"), ("a" * 65, None), ([], None)])
def test_a_reference(ref, kept):
    assert protocol.reference({"ref": ref}) == kept
