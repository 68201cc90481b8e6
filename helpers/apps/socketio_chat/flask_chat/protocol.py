"""What the client and the server may say to each other: one page of rules is in the README one folder above the project."""

import json
import re
import unicodedata

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


def payload(arguments):
    """Return the one object that an event carries. Socket.IO lets a client send anything, of any number."""
    try:
        size = len(json.dumps(arguments, ensure_ascii=False).encode(errors="surrogatepass"))
    except TypeError:  # bytes, which Socket.IO puts back into the place where they were
        raise Refused("binary", "Send events without binary parts.") from None
    except RecursionError:
        raise Refused("bad_json", "This is nested too deeply.") from None
    if size > MAX_BYTES:
        raise Refused("too_big", f"An event has at most {MAX_BYTES} bytes.")
    if len(arguments) != 1 or not isinstance(arguments[0], dict):
        raise Refused("not_an_object", 'An event carries one object, like {"room": "lobby"}.')
    return arguments[0]


def check_version(event):
    """Refuse an event of other rules."""
    if event.get("v", VERSION) != VERSION:
        raise Refused("bad_version", f"This server speaks version {VERSION}.")


def reference(event):
    """Return the client's own name for an event, which the answer repeats, if it has a usable one."""
    ref = event.get("ref")
    return ref if isinstance(ref, int) or (isinstance(ref, str) and len(ref) <= 64) else None


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


def person(name):
    """Return the name that somebody may bear, or None: it has other characters, none, or too many."""
    name = unicodedata.normalize("NFKC", name)
    return name if re.fullmatch(r"[\w.-]{1,30}", name) else None
