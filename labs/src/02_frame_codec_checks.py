"""The checks of lab 02. The judge is the `websockets` library, without any network: its protocol takes and gives bytes."""

from random import Random

from websockets.frames import Frame as LibraryFrame
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from helpers import byhand, table
from helpers.lab import NotYet, exercise, given, require, show

SIZES = [0, 1, 5, 125, 126, 127, 255, 256, 65_535, 65_536, 70_000]
MASK = bytes.fromhex("37fa213d")
NAMES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


def judge_of(side):
    """The library's protocol, in the middle of a connection."""
    return Protocol(side, state=OPEN, max_size=None)


def short(data):
    return data[:14].hex(" ") + (f" … ({len(data):,} bytes)" if len(data) > 14 else "")


@exercise(
    "02-encode",
    hints=(
        "Write down, for 5 bytes, for 300 and for 70,000: what is in the second byte, and what comes after it?",
        "Start from the `length` of notebook 02. What differs when the frame has no mask? `to_bytes(2)` writes a "
        "number in two bytes, big end first.",
        "`first = fin << 7 | opcode`; `flag = 0 if mask is None else 0x80`; then three cases for the length; then the mask, "
        "if any; and last the payload, each byte XORed with `mask[i % 4]`.",
    ),
)
def encode_is_what_the_library_reads(encode):
    for mask in (None, MASK):
        for size in SIZES:
            for opcode, fin in ((2, True), (2, False)) if size > 125 else ((1, True), (10, True)):
                one_frame(encode, opcode, b"real-time" * (size // 9) + b"x" * (size % 9), fin, mask)
    heads = [encode(2, bytes(size)) for size in (125, 126, 65_535, 65_536)]
    show(
        table(
            [
                {"payload": f"{size:,} bytes", "your header": head[:-size].hex(" ")}
                for size, head in zip((125, 126, 65_535, 65_536), heads, strict=True)
            ],
            caption="Where the form of the length changes",
        )
    )
    return "The library has read all your frames, in every length class, with and without a mask."


def one_frame(encode, opcode, payload, fin, mask):
    what = f"a {NAMES[opcode]} frame of {len(payload):,} bytes"
    call = f"`encode({opcode}, <{len(payload)} bytes>, fin={fin}, mask={'None' if mask is None else 'MASK'})`"
    given(f"The check called {call}.")
    data = encode(opcode, payload, fin=fin, mask=mask)
    require(
        isinstance(data, (bytes, bytearray)),
        f"Your function returned {type(data).__name__} for {what}. A socket sends bytes and nothing else: `return` them.",
    )
    expected = byhand.frame(payload, opcode, fin=fin, mask=mask)
    head = len(expected) - len(payload)
    require(
        data[:1] == expected[:1],
        f"Your frame for {call} begins with {data[:1].hex() or 'nothing'}, bits {bits(data[:1])}: FIN is the first bit, "
        f"the opcode the last four. A peer would take it for another kind of frame, or wait for a part that never comes.",
    )
    flagged = bool(data[1] & 0x80) if len(data) > 1 else False
    require(
        flagged == (mask is not None),
        f"Your frame for {call} begins {short(data[:14])}: its second byte has "
        + (
            "the MASK bit set. The peer would take four bytes of the payload for a mask."
            if flagged
            else "no MASK bit. The peer would take the mask for payload, and a server hangs up with 1002."
        ),
    )
    size = head - (4 if mask else 0)
    require(
        data[:size] == expected[:size],
        f"Your frame for {what} begins {short(data)}, so the peer reads a wrong length, and everything after this frame is "
        "noise to it. There are three forms: up to 125, up to 65,535, and longer.",
    )
    require(
        data[size:head] == expected[size:head],
        f"After the length in your frame for {call} stands {data[size : size + 4].hex(' ') or 'nothing'}. The peer "
        "takes the four bytes there for the mask, so they have to be the mask itself.",
    )
    require(
        data[head:] == expected[head:],
        f"The header of your frame for {call} is right; the payload that the peer gets out of it is not what went in. "
        + (
            "Byte number i is mixed with byte i % 4 of the mask."
            if mask
            else "Without a mask it goes out as it is."
        ),
    )
    judge = judge_of(SERVER if mask else CLIENT)
    judge.receive_data(bytes(data))
    frames = judge.events_received()
    assert [(f.opcode, bytes(f.data), f.fin) for f in frames] == [(opcode, payload, fin)]


def bits(data):
    return f"{data[0]:08b}" if data else "none"


@exercise(
    "02-read",
    hints=(
        "How many bytes do you need before you know how many bytes you need?",
        "Work out where the header ends without taking anything away; compare with `len(buffer)`; take away only when all "
        "is there.",
        "`end = start + length`; `if len(buffer) < end: return None`; `payload = bytes(buffer[start:end])`; `del "
        "buffer[:end]`.",
    ),
)
def read_takes_whole_frames(read):
    random = Random(6455)
    for side in (CLIENT, SERVER):  # who sends: a client masks
        frames = [some_frame(random, size) for size in (5, 300, *SIZES)]
        for number, frame in enumerate(frames):
            first, *rest = frame.serialize(mask=side is CLIENT)
            wire = bytes(
                [first | number % 8 << 4, *rest]
            )  # with reserved bits, as an extension sets them
            whole(read, frame, wire, number % 8, side is CLIENT)
    return "Every frame of the library came out whole, and none before all of it was there."


def some_frame(random, size):
    opcode = random.choice([0, 1, 2] if size > 125 else [0, 1, 2, 9, 10])
    return LibraryFrame(
        Opcode(opcode), random.randbytes(size), fin=opcode > 8 or random.random() < 0.5
    )


def whole(read, frame, wire, reserved, masked):
    what = f"a{' masked' if masked else 'n unmasked'} frame of {len(frame.data):,} bytes"
    given(f"The buffer held {what}: {short(wire)}.")
    buffer = bytearray(wire) + b"\x89\x00"
    found = read(buffer)
    require(
        found is not None,
        f"All {len(wire):,} bytes of {what} were there, and two bytes of the next one, and you returned None: this "
        f"reader would wait for ever. The header was {short(wire[:10])}.",
    )
    require(
        hasattr(found, "opcode"),
        f"The buffer held {what} and two bytes of the next one, and your function returned {type(found).__name__}. One "
        "`Frame`, and nothing beside it: what is left stays in the buffer.",
    )
    require(
        (found.opcode, found.fin, found.masked) == (frame.opcode, frame.fin, masked),
        f"The frame {short(wire)} came out as opcode {found.opcode}, fin {found.fin}, masked {found.masked}. The first "
        "bit is FIN, the last four the opcode; the first bit of the second byte says whether there is a mask. `fin` and "
        "`masked` are True or False.",
    )
    require(
        found.reserved == reserved,
        f"The frame {short(wire)} came out with reserved {found.reserved}. Its first byte is {wire[0]:08b}: the three bits "
        f"behind FIN are {reserved:03b}, as a number {reserved}.",
    )
    require(
        isinstance(found.payload, (bytes, bytearray)),
        f"The payload of {what} came out as {type(found.payload).__name__}. What a frame carries is `bytes`, also when it is "
        "a piece of a text: whoever puts the pieces together cannot join anything else.",
    )
    require(
        len(found.payload) == len(frame.data),
        f"Out of {what} came a payload of {len(found.payload):,} bytes. The second byte, without its first bit, was "
        f"{wire[1] & 0x7F}: 126 and 127 are no lengths, they say that the length follows, in two bytes or in eight.",
    )
    require(
        found.payload == frame.data,
        f"The payload of {what} has the right length and other bytes: on the wire stood {short(wire)}. "
        + ("Is it still masked?" if masked else "This one has no mask."),
    )
    require(
        buffer == b"\x89\x00",
        f"Behind {what} stood two bytes of the next frame. After your function the buffer holds {len(buffer):,} bytes: "
        "exactly the bytes of the frame that you return have to go.",
    )
    for cut in sorted({0, 1, 2, 3, 5, 9, 13, len(wire) - 1} & set(range(len(wire)))):
        given(f"The buffer held the first {cut} of the {len(wire):,} bytes of {what}.")
        buffer = bytearray(wire[:cut])
        found = read(buffer)
        require(
            found is None,
            f"Only {cut} of {len(wire):,} bytes of {what} had come, and your function returned a frame. TCP delivers in "
            "pieces as it likes: the rest would be taken for the next frame. Return None and wait.",
        )
        require(
            buffer == wire[:cut],
            f"Only {cut} of {len(wire):,} bytes had come. You returned None, and the buffer holds {len(buffer)} bytes now: "
            "what is gone will be missing when the rest arrives.",
        )


@exercise(
    "02-judge",
    hints=(
        "Which of the rules can be checked on every frame, which only on close, ping and pong, which only on close?",
        "Opcodes of 8 and more are control frames. A close frame is empty, or begins with two bytes of code. Two "
        "ranges and three exceptions say which code may be sent; the rest of the payload is the reason.",
        "`code = int.from_bytes(frame.payload[:2])`; `legal = 1000 <= code <= 1014 and code not in (1004, 1005, 1006) or "
        "3000 <= code <= 4999`; and the rest of the payload: try to decode it, `UnicodeDecodeError` means 1007.",
    ),
)
def judge_agrees_with_the_library(judge, Frame):
    cases = dict(illegal() | legal())
    for what, frame in cases.items():
        wire = byhand.frame(
            frame.pop("payload", b""),
            frame.pop("opcode", 1),
            mask=MASK if frame.pop("masked", True) else None,
            **frame,
        )
        code = verdict(wire)
        given(f"The frame was {what}: {short(wire)}.")
        found = judge(as_frame(Frame, wire))
        if code is None:
            require(
                found is None,
                f"You answered {found!r} to {what}, which is legal: this client would lose its connection for nothing.",
            )
        elif found is None:
            raise NotYet(
                f"You let pass {what}: {short(wire)}. The library hangs up with {code}. Whoever lets it pass gives each "
                "end its own idea of what was said."
            )
        else:
            require(
                found == code,
                f"You answered {found!r} to {what}; the library says {code}, a number. "
                "1002 is for a frame that breaks the protocol, 1007 for bytes that are no text where there must be text.",
            )
    return f"{len(cases)} frames, legal and not, and you and the library agree about each."


def illegal():
    cases = {
        "a frame without a mask": {"payload": b"hi", "masked": False},
        "a ping in pieces": {"opcode": 9, "fin": False},
        "a ping of 126 bytes": {"opcode": 9, "payload": bytes(126)},
        "a close frame of 126 bytes": {"opcode": 8, "payload": (1000).to_bytes(2) + b"x" * 124},
        "a close frame with half a code": {"opcode": 8, "payload": b"\x03"},
        "a close frame whose reason is no UTF-8": {
            "opcode": 8,
            "payload": (1000).to_bytes(2) + b"\xff",
        },
    }
    for reserved in (1, 2, 4):
        cases[f"a text frame with the reserved bits {reserved:03b}"] = {"reserved": reserved}
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        cases[f"a frame with the unknown opcode {opcode}"] = {"opcode": opcode}
    for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535):
        cases[f"a close frame with code {code}"] = {"opcode": 8, "payload": code.to_bytes(2)}
    for name, opcode in (("pong", 10), ("close frame", 8)):
        cases[f"a {name} in pieces"] = {"opcode": opcode, "fin": False}
    return cases | {
        "a pong of 126 bytes": {"opcode": 10, "payload": bytes(126)},
        "a continuation without a mask": {"opcode": 0, "payload": b"\xa9", "masked": False},
        "a ping without a mask": {"opcode": 9, "masked": False},
        "a ping with the reserved bits 100": {"opcode": 9, "reserved": 4},
    }


def legal():
    cases = {
        "an empty text frame": {},
        "a text frame of 70,000 bytes": {"payload": b"x" * 70_000},
        "the first piece of a text": {"payload": b"\xc3", "fin": False},
        "a continuation": {"opcode": 0, "payload": b"\xa9"},
        "a binary frame of bytes that are no text": {"opcode": 2, "payload": b"\xff\xfe"},
        "a ping of 125 bytes": {"opcode": 9, "payload": b"\xff" * 125},
        "a pong": {"opcode": 10},
        "an empty close frame": {"opcode": 8},
        "a close frame with a reason": {"opcode": 8, "payload": (1000).to_bytes(2) + "é".encode()},
    }
    for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999):
        cases[f"a close frame with code {code}"] = {"opcode": 8, "payload": code.to_bytes(2)}
    return cases


def verdict(wire):
    """The code with which the library hangs up on a frame, or None. A continuation gets a first piece before it."""
    protocol = judge_of(SERVER)
    if wire[0] & 15 == 0:
        protocol.receive_data(byhand.frame(b"\xc3", fin=False))
    protocol.receive_data(wire)
    return None if protocol.parser_exc is None else protocol.close_sent.code


def as_frame(Frame, wire):
    mask = wire[1] & 0x80
    payload = wire[{126: 4, 127: 10}.get(wire[1] & 0x7F, 2) :]
    if mask:
        key, payload = payload[:4], payload[4:]
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return Frame(wire[0] & 15, payload, bool(wire[0] & 0x80), wire[0] >> 4 & 7, bool(mask))


@exercise(
    "02-messages",
    hints=(
        "What do you have to remember between two frames, and when do you forget it?",
        "Keep the opcode of the first piece, and the pieces as bytes. Decode once, when the last piece is there. Control "
        "frames pass by without touching any of it.",
        "`if frame.opcode >= 8: return None`; `(frame.opcode == 0) == (self.opcode is None)` is the mistake in both "
        "directions.",
    ),
)
def messages_come_out_whole(Messages, Frame, Refused):
    def frames(*parts):
        return [Frame(*part, masked=True) for part in parts]

    def heard(messages, *parts):
        given(f"Frames of a client, as (opcode, payload, fin): {', '.join(map(repr, parts))}.")
        return [messages.receive(frame) for frame in frames(*parts)]

    def refused(messages, *parts):
        try:
            return None, heard(messages, *parts)
        except Refused as refusal:
            return refusal.code, []

    said = heard(Messages(), (1, "é".encode(), True), (2, b"\xff", True))
    require(
        repr(said) == repr(["é", b"\xff"]),  # a bytearray is equal to bytes
        f"A text frame with 'é' and a binary frame with ff came out as {said!r}. The opcode of the message decides: "
        "text is decoded and becomes a `str`, binary stays `bytes`.",
    )
    said = heard(Messages(), (1, b"Hel", False), (0, b"", False), (0, b"lo", True), (1, b"!", True))
    require(
        said == [None, None, "Hello", "!"],
        f"'Hel', '' and 'lo' are three pieces of one message, then came '!'. You returned {said!r}: one value for each "
        "frame, None until a message is whole, and nothing of it left for the next one.",
    )
    code, said = refused(
        Messages(), (1, b"Hel", False), (9, b"still there?", True), (0, b"lo", True)
    )
    require(
        said == [None, None, "Hello"],
        f"A ping came between two pieces, which is allowed; you answered {code or said!r}. A ping is no piece of the "
        "message, and no message: it must neither end up in the text nor end it.",
    )
    code, said = refused(Messages(), (1, b"Hel", False), (10, b"", True), (0, b"lo", True))
    require(
        said == [None, None, "Hello"],
        f"A pong came between two pieces, which is allowed as well; you answered {code or said!r}. Opcodes of 8 and more are "
        "control frames, all of them, and no part of a message.",
    )
    code, said = refused(Messages(), (1, b"Hel", False), (8, b"", True))
    require(
        said == [None, None],
        f"A client closed in the middle of a message, which it may; you answered its close frame with {code or said[1]!r}, so "
        "a farewell looks like a mistake. A close frame is a control frame, too.",
    )
    try:
        said = heard(Messages(), (1, b"\xc3", False), (0, b"\xa9", True))
    except (UnicodeDecodeError, Refused) as error:
        raise NotYet(
            f"'é' is the two bytes c3 a9, and the cut went between them; your code ended in {type(error).__name__}. "
            "Pieces are cut anywhere: only the whole message has to be UTF-8."
        ) from None
    assert said == [None, "é"]
    for what, parts in {
        "a continuation of nothing": [(0, b"lo", True)],
        "a continuation after a message had ended": [(1, b"hi", True), (0, b"lo", True)],
        "a new message in the middle of another": [(1, b"Hel", False), (1, b"again", True)],
    }.items():
        code, said = refused(Messages(), *parts)
        require(
            code == 1002,
            f"You answered {what} with {code or said!r}. Pieces carry no number, so two messages cannot take turns: raise "
            "Refused(1002).",
        )
    try:
        code, said = refused(Messages(), (1, b"\xff", False), (0, b"", True))
    except UnicodeDecodeError:
        raise NotYet(
            "A text message was the byte ff, and your code ended in a UnicodeDecodeError, which the client would see as "
            "1011: an error of the server. It is an error of the client: raise Refused(1007)."
        ) from None
    require(
        code == 1007,
        f"You answered a text message of the byte ff with {code or said!r}. It is no UTF-8, and whoever shows it to others "
        "shows each of them something else: raise Refused(1007).",
    )
    code, said = refused(Messages(limit=5), (2, b"abc", False), *[(0, b"abc", False)] * 999)
    require(
        code == 1009,
        "A client sent 1,000 pieces of 3 bytes and no end, and you had said limit=5: your last answer was "
        f"{code or said[-1]!r}, and all of them were taken. Anybody could fill your memory this way. Count while the pieces "
        "come, and raise Refused(1009).",
    )
    code, said = refused(Messages(limit=5), (2, b"abcdef", True))
    require(
        code == 1009,
        f"With limit=5, a message of six bytes in a single frame is too long; you answered {code or said!r}. `limit` counts "
        "bytes, however few the pieces: raise Refused(1009).",
    )
    code, said = refused(Messages(limit=5), (1, "ééé".encode(), True))
    require(
        code == 1009,
        f"With limit=5, you answered 'ééé' with {code or said!r}. It has three letters and six bytes, and bytes are what you "
        "keep while the pieces come. Count before you decode.",
    )
    code, said = refused(
        Messages(limit=5), (2, b"abcde", True), (2, b"abc", False), (0, b"de", True)
    )
    require(
        said == [b"abcde", None, b"abcde"],
        f"With limit=5, two messages of five bytes are allowed, whole or in pieces; you answered {code or said!r}.",
    )
    clients = Messages(), Messages()
    turns = []
    for number, part in enumerate(
        [(1, b"Hel", False), (1, b"Wor", False), (0, b"lo", True), (0, b"ld", True)]
    ):
        code, said = refused(clients[number % 2], part)
        turns.append(code or said[0])
    require(
        turns == [None, None, "Hello", "World"],
        f"Of two clients, one sent 'Hel' and 'lo', the other 'Wor' and 'ld', in turns; you answered {turns!r}. One gets the "
        "words of the other, or an end for its mistakes. What one client has begun belongs on `self`, made in `__init__`.",
    )
    at_random(Messages, Frame)
    return "A hundred messages, cut at random with pings in between, and all came out whole."


def at_random(Messages, Frame):
    """What is left after the named cases: any cut, any number of pieces, any ping, against the library's own protocol."""
    random, messages, library = Random(6455), Messages(), judge_of(SERVER)
    for _ in range(100):
        text = "".join(random.choices("aé€😀", k=random.randrange(12)))
        data = text.encode()
        cuts = sorted(random.choices(range(len(data) + 1), k=random.randrange(4)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for number, piece in enumerate(pieces):
            parts = [(0 if number else 1, piece, number == len(pieces) - 1)]
            if random.random() < 0.3:
                parts.insert(0, (9, b"?", True))
            for part in parts:
                library.receive_data(byhand.frame(part[1], part[0], fin=part[2]))
                found = messages.receive(Frame(*part, masked=True))
        require(
            found == text,
            f"{text!r}, cut into {len(pieces)} pieces, came out as {found!r}. Any text is a message, also one without a "
            "letter, and any cut is allowed.",
        )
    assert library.parser_exc is None
