"""What was sent, acknowledged and received, and which promises that keeps: a checker of deliveries that sees no wire."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SHOWN = 6
"""How many ids are shown before the rest is only counted."""


class Event(NamedTuple):
    """One thing that happened to a message."""

    kind: Literal["sent", "acked", "received"]
    id: Hashable
    by: str
    """Who sent it; if it was received, who received it."""
    to: tuple[str, ...] | None = None
    """For whom it was sent; None for everybody."""


@dataclass(frozen=True)
class Verdict:
    """What became of the messages of a history: ids, in the order in which they were sent, receiver after receiver.

    A message that two receivers miss is lost twice. An invented message breaks every promise about how often.
    """

    sent: int
    """Messages that were sent; the same one sent again is a retry, and no new message."""
    acked: int
    """Messages whose sender was told that they are safe."""
    received: int
    """Copies that were received, by all receivers."""
    lost: list[Hashable] = field(default_factory=list)
    """Sent to somebody who has never got it."""
    duplicated: list[Hashable] = field(default_factory=list)
    """Received more than once; once in this list for each copy beyond the first."""
    reordered: list[Hashable] = field(default_factory=list)
    """Overtaken: first received after something that the same sender had sent later."""
    invented: list[Hashable] = field(default_factory=list)
    """Received and never sent, or not to this receiver; once in this list for each copy."""
    acked_and_lost: list[Hashable] = field(default_factory=list)
    """Lost, though its sender was told that all is well."""

    @property
    def at_most_once(self) -> bool:
        """Whether nobody got anything twice."""
        return not self.duplicated and not self.invented

    @property
    def at_least_once(self) -> bool:
        """Whether everybody got everything."""
        return not self.lost and not self.invented

    @property
    def exactly_once(self) -> bool:
        """Whether everybody got everything, and nothing twice."""
        return self.at_most_once and self.at_least_once

    @property
    def in_order(self) -> bool:
        """Whether what each sender sent came in that order, as far as it came: a gap or a second copy is no disorder."""
        return not self.reordered

    @property
    def acks_kept(self) -> bool:
        """Whether everything that was acknowledged did arrive."""
        return not self.acked_and_lost

    @property
    def promises(self) -> dict[str, bool]:
        """Which promises were kept, by name."""
        return {
            "at most once": self.at_most_once,
            "at least once": self.at_least_once,
            "exactly once": self.exactly_once,
            "in order": self.in_order,
            "acks kept": self.acks_kept,
        }

    @property
    def faults(self) -> dict[str, list[Hashable]]:
        """What went wrong, by name: only the lists that hold something."""
        lists = {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "reordered": self.reordered,
            "invented": self.invented,
            "acked and lost": self.acked_and_lost,
        }
        return {name: ids for name, ids in lists.items() if ids}

    @property
    def row(self) -> dict[str, object]:
        """This verdict as a row for `table`."""
        return {
            "sent": self.sent,
            "received": self.received,
            "lost": len(self.lost),
            "duplicated": len(self.duplicated),
            "reordered": len(self.reordered),
            "invented": len(self.invented),
            "keeps": ", ".join(self._kept()) or "no promise",
        }

    def _kept(self) -> list[str]:
        """Name the promises that were kept, but for those that say nothing new."""
        said = {"at most once", "at least once"} if self.exactly_once else set()
        if not self.acked:
            said.add("acks kept")  # nothing was promised
        return [name for name, kept in self.promises.items() if kept and name not in said]

    def __str__(self) -> str:
        found = [f"  {name}: {_ids(ids)}" for name, ids in self.faults.items()]
        acked = f"{self.acked:,} acked, " if self.acked else ""
        return "\n".join(
            [
                f"{self.sent:,} sent, {acked}{self.received:,} received",
                *(found or ["  nothing lost, duplicated, reordered or invented"]),
                f"  keeps: {', '.join(self._kept()) or 'no promise'}",
            ]
        )

    __repr__ = __str__


class History:
    """What happened to messages, written down by those to whom it happened, from any thread.

    Write `sent` before you send, `acked` when the answer is there, and `received` where it counts: where a message arrives, or,
    to judge effects, where something is done about it. Ask for the `verdict` when all has come to rest: what is still on its
    way looks lost.

    Args:
        receivers: who should get what is sent to everybody; by default whoever has received something, or is named in `to`.

    Example:
        >>> history = History()
        >>> for number in range(4):
        ...     history.sent(number)
        >>> for number in [0, 3, 1, 1]:
        ...     history.received(number)
        >>> history.verdict()
        4 sent, 4 received
          lost: 2
          duplicated: 1
          reordered: 1
          keeps: no promise
    """

    def __init__(self, receivers: Iterable[str] = ()) -> None:
        self._receivers = _names(receivers)
        self._events: list[Event] = []
        self._senders: dict[Hashable, str] = {}
        self._lock = threading.Lock()

    @property
    def events(self) -> list[Event]:
        """All that was written down so far, oldest first: a copy."""
        with self._lock:
            return list(self._events)

    def sent(
        self, id: Hashable, by: str = "sender", *, to: str | Iterable[str] | None = None
    ) -> None:
        """Write down that a message is sent; write it once more for a retry.

        Args:
            id: what tells it from all other messages.
            by: who sends it.
            to: for whom it is; everybody by default. A retry changes nothing about that.

        Raises:
            ValueError: somebody else has sent a message with this id.
        """
        names = None if to is None else _names(to)
        with self._lock:
            sender = self._senders.setdefault(id, by)
            if sender != by:
                raise ValueError(
                    f"Message {id!r} was sent by {sender!r}, and now by {by!r}: give each message an id of its own, "
                    f"such as {(by, id)!r}."
                )
            self._events.append(Event("sent", id, by, names))

    def acked(self, id: Hashable) -> None:
        """Write down that the sender has been told that a message is safe, with whoever should get it.

        Raises:
            ValueError: nobody has sent a message with this id.
        """
        with self._lock:
            if id not in self._senders:
                raise ValueError(
                    f"Message {id!r} was acknowledged and never sent: write `sent` first."
                )
            self._events.append(Event("acked", id, self._senders[id]))

    def received(self, id: Hashable, by: str = "receiver") -> None:
        """Write down that a copy of a message has arrived; `by` says at whom."""
        with self._lock:
            self._events.append(Event("received", id, by))

    def ids(self, by: str = "receiver") -> list[Hashable]:
        """Return what a receiver has got, in order, second copies too."""
        return [event.id for event in self.events if (event.kind, event.by) == ("received", by)]

    def verdict(self, by: str | None = None) -> Verdict:
        """Judge what has been written down so far.

        Args:
            by: one receiver, to judge only what became of messages to them; all by default.
        """
        return _judge(self.events, self._receivers, by)

    def __repr__(self) -> str:
        counts = Counter(event.kind for event in self.events)
        return f"<History: {counts['sent']} sent, {counts['acked']} acked, {counts['received']} received>"


def _judge(events: list[Event], declared: tuple[str, ...], by: str | None) -> Verdict:
    """Compare what each receiver should have got with what they got."""
    sent: dict[Hashable, Event] = {}
    copies: defaultdict[str, list[Hashable]] = defaultdict(list)
    for event in events:
        if event.kind == "sent":
            sent.setdefault(event.id, event)
        elif event.kind == "received":
            copies[event.by].append(event.id)
    acked = {event.id for event in events if event.kind == "acked"}
    named = [name for event in sent.values() for name in event.to or ()]
    seen = tuple(dict.fromkeys([*named, *copies, *([] if by is None else [by])]))
    everybody = declared or seen or ("receiver",)

    received = 0
    lost, duplicated, reordered, invented = [], [], [], []
    judged = dict.fromkeys([*everybody, *seen]) if by is None else [by]
    for receiver in judged:
        got = copies.get(receiver, [])
        due = [
            id
            for id, event in sent.items()
            if receiver in (everybody if event.to is None else event.to)
        ]
        counts, expected, overtaken = Counter(got), set(due), _overtaken(got, due, sent)
        received += len(got)
        lost += [id for id in due if not counts[id]]
        duplicated += [id for id in due for _ in range(counts[id] - 1)]
        reordered += [id for id in due if id in overtaken]
        invented += [id for id in got if id not in expected]
    return Verdict(
        sent=len(sent) if by is None else len(due),
        acked=len(acked if by is None else acked.intersection(due)),
        received=received,
        lost=lost,
        duplicated=duplicated,
        reordered=reordered,
        invented=invented,
        acked_and_lost=[id for id in lost if id in acked],
    )


def _overtaken(
    got: list[Hashable], due: list[Hashable], sent: dict[Hashable, Event]
) -> set[Hashable]:
    """Return what came, for the first time, after something that its sender sent later."""
    places = {id: place for place, id in enumerate(due)}
    newest: dict[str, int] = {}
    overtaken = set()
    for id in dict.fromkeys(got):
        if id in places:
            sender, place = sent[id].by, places[id]
            if place < newest.get(sender, place):
                overtaken.add(id)
            newest[sender] = max(place, newest.get(sender, place))
    return overtaken


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


def _ids(ids: list[Hashable]) -> str:
    shown = ", ".join(str(id) for id in ids[:SHOWN])
    return shown + (f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else "")
