"""What the client and the server may say to each other: one page of rules is in the README one folder above the project."""

import json
import re

VERSION = 1
MAX_BYTES = 64 * 1024
"""The longest event that is looked at."""
MAX_TEXT = 2000
"""The longest text of a message, in characters."""
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What JSON can write and a database cannot keep: NUL, and halves of characters."""


class Refused(Exception):
    """What a client asked for is not done. It gets the code, which never changes, and words, which may."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


def parse(text):
    """Return the event in a text frame; None stands for a binary frame."""
    if text is None:
        raise Refused("binary", "Send events as text, not as binary frames.")
    if len(text.encode()) > MAX_BYTES:
        raise Refused("too_big", f"An event has at most {MAX_BYTES} bytes.")
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("bad_json", "This is not JSON.") from None
    if not isinstance(event, dict):
        raise Refused("not_an_object", 'An event is a JSON object, like {"type": "join"}.')
    return event


def reference(event):
    """Return the client's own name for an event, which the answer repeats, if it has a usable one."""
    ref = event.get("ref")
    return ref if isinstance(ref, int) or (isinstance(ref, str) and len(ref) <= 64) else None


def kind(event, known):
    """Return the type of an event, which must be one of the known."""
    if event.get("v", VERSION) != VERSION:
        raise Refused("bad_version", f"This server speaks version {VERSION}.")
    if event.get("type") not in known:
        raise Refused("unknown_type", f"The type of an event is one of: {', '.join(known)}.")
    return event["type"]


def room_name(event):
    """Return the name of the room that an event is about."""
    name = event.get("room")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9-]{1,50}", name):
        raise Refused("bad_room", "The name of a room has 1 to 50 of a to z, 0 to 9 and hyphens.")
    return name


def text_of(event):
    """Return what somebody says, without the space around it."""
    text = event.get("text")
    if not isinstance(text, str) or not text.strip():
        raise Refused("missing_text", "There is no text.")
    if len(text) > MAX_TEXT:
        raise Refused("too_long", f"A text has at most {MAX_TEXT} characters.")
    if NO_TEXT.search(text):
        raise Refused("bad_text", "The text holds characters that are none.")
    return text.strip()


def addressee(event):
    """Return the name that a private message goes to."""
    name = event.get("to")
    if not isinstance(name, str) or not name or NO_TEXT.search(name):
        raise Refused("missing_to", 'Say to whom, like "to": "ada".')
    return name
