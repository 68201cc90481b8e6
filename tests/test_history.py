"""The checker of deliveries finds everything that was done to a history, and nothing that was not."""

from __future__ import annotations

import doctest
import random
import threading
from collections import Counter

import pytest

from helpers import history as module
from helpers import table
from helpers.history import Event, History, Verdict

LISTS = ("lost", "duplicated", "reordered", "invented", "acked_and_lost")


def told(sent, got, *, acked=()):
    """Return a history of one sender and one receiver."""
    history = History()
    for number in sent:
        history.sent(number)
    for number in got:
        history.received(number)
    for number in acked:
        history.acked(number)
    return history


# What each word means


def test_a_gap_is_a_loss_and_keeps_the_order():
    verdict = told(range(8), [0, 1, 2, 6, 7]).verdict()
    assert verdict.faults == {"lost": [3, 4, 5]}
    assert (verdict.sent, verdict.acked, verdict.received) == (8, 0, 5)
    assert verdict.promises == {
        "at most once": True,
        "at least once": False,
        "exactly once": False,
        "in order": True,
        "acks kept": True,
    }


def test_each_further_copy_is_a_duplicate_and_no_disorder():
    verdict = told(range(3), [0, 1, 0, 2, 0]).verdict()
    assert verdict.faults == {"duplicated": [0, 0]}
    kept = (verdict.at_most_once, verdict.at_least_once, verdict.exactly_once, verdict.in_order)
    assert kept == (False, True, False, True)


def test_what_comes_after_something_later_was_overtaken():
    assert told(range(4), [0, 2, 3, 1]).verdict().faults == {"reordered": [1]}
    assert told(range(4), [3, 0, 1, 2]).verdict().faults == {"reordered": [0, 1, 2]}
    verdict = told(range(2), [1, 0]).verdict()
    assert (verdict.exactly_once, verdict.in_order) == (True, False)


def test_order_is_a_matter_of_each_sender():
    history = History()
    for number in range(3):
        history.sent(("ada", number), by="ada")
        history.sent(("eve", number), by="eve")
    for name in ("eve", "ada"):
        for number in range(3):
            history.received((name, number))
    assert history.verdict().faults == {}
    assert history.verdict().exactly_once


def test_an_invention_breaks_both_promises_of_how_often():
    verdict = told([1], [1, 2]).verdict()
    assert verdict.faults == {"invented": [2]}
    kept = (verdict.at_most_once, verdict.at_least_once, verdict.exactly_once, verdict.in_order)
    assert kept == (False, False, False, True)


def test_a_retry_is_no_new_message():
    verdict = told([1, 1, 2], [1, 2]).verdict()
    assert (verdict.sent, verdict.faults) == (2, {})
    assert told([1, 1], [1, 1]).verdict().faults == {"duplicated": [1]}
    assert told([1, 2, 1], [1, 2]).verdict().faults == {}  # its place is that of the first try
    assert told([1, 2, 1], [2, 1]).verdict().faults == {"reordered": [1]}
    history = told([1], [])
    history.sent("for ben", to="ben")
    history.sent("for ben", to="cleo")
    assert history.verdict("cleo").sent == 1


def test_what_was_acknowledged_must_be_there():
    verdict = told(range(3), [0], acked=[0, 1]).verdict()
    assert verdict.faults == {"lost": [1, 2], "acked and lost": [1]}
    assert not verdict.acks_kept
    assert verdict.acked == 2
    assert told(range(3), [0, 1], acked=[0, 1]).verdict().acks_kept


def test_nothing_is_exactly_once():
    assert History().verdict().promises == dict.fromkeys(History().verdict().promises, True)


def test_each_receiver_is_judged():
    history = History(receivers=["ben", "cleo"])
    for number in range(3):
        history.sent(number)
        history.acked(number)
    for number in (0, 1, 2):
        history.received(number, by="ben")
    for number in (2, 0, 0):
        history.received(number, by="cleo")
    assert history.verdict("ben").faults == {}
    assert history.verdict("cleo").faults == {
        "lost": [1],
        "duplicated": [0],
        "reordered": [0],
        "acked and lost": [1],
    }
    assert history.verdict().faults == history.verdict("cleo").faults
    assert (history.verdict().sent, history.verdict().received) == (3, 6)
    assert (history.verdict("ben").acked, history.verdict("ben").received) == (3, 3)
    assert history.ids("cleo") == [2, 0, 0]


def test_a_declared_receiver_who_gets_nothing_has_lost_everything():
    history = History(receivers=["ben", "cleo"])
    history.sent(1)
    history.received(1, by="ben")
    assert history.verdict().lost == [1]
    assert history.verdict("cleo").lost == [1]
    assert told([1, 2], []).verdict().lost == [1, 2]
    assert told([1, 2], []).verdict("whoever").lost == [1, 2]


def test_what_was_sent_to_some_is_an_invention_for_others():
    history = History()
    history.sent("hello")
    history.sent("secret", to="ben")
    history.sent("for two", to=["ben", "cleo"])
    history.sent("for nobody", to=[])
    for name, texts in {
        "ben": ["hello", "secret", "for two"],
        "cleo": ["hello", "for two"],
    }.items():
        for text in texts:
            history.received(text, by=name)
    assert history.verdict().faults == {}
    history.received("secret", by="cleo")
    history.received("for nobody", by="ben")
    assert history.verdict().invented == ["for nobody", "secret"]
    assert history.verdict("cleo").invented == ["secret"]
    assert history.verdict("cleo").sent == 2
    history.acked("secret")
    assert [history.verdict(name).acked for name in (None, "ben", "cleo")] == [1, 1, 0]


def test_a_stranger_among_declared_receivers_has_no_business_there():
    history = History(receivers=["ben"])
    history.sent(1)
    history.received(1, by="ben")
    history.received(1, by="eve")
    assert history.verdict().faults == {"invented": [1]}


def test_ids_belong_to_one_sender_and_acks_to_a_message():
    history = History()
    history.sent(0, by="ada")
    with pytest.raises(ValueError, match=r"by 'ada', and now by 'eve': .* such as \('eve', 0\)"):
        history.sent(0, by="eve")
    with pytest.raises(ValueError, match="Message 1 was acknowledged and never sent"):
        history.acked(1)
    assert history.events == [Event("sent", 0, "ada")]


def test_it_says_what_it_found():
    assert str(told(range(8), [0, 1, 2, 6, 7]).verdict()) == (
        "8 sent, 5 received\n  lost: 3, 4, 5\n  keeps: at most once, in order"
    )
    assert str(told(range(20), range(10, 20), acked=[1]).verdict()) == (
        "20 sent, 1 acked, 10 received\n  lost: 0, 1, 2, 3, 4, 5 and 4 more\n"
        "  acked and lost: 1\n  keeps: at most once, in order"
    )
    assert repr(told([1, 2], [1, 2], acked=[1]).verdict()) == (
        "2 sent, 1 acked, 2 received\n  nothing lost, duplicated, reordered or invented\n"
        "  keeps: exactly once, in order, acks kept"
    )
    assert repr(told([1, 2], [1], acked=[2])) == "<History: 2 sent, 1 acked, 1 received>"


def test_it_is_a_row_of_a_table():
    rows = [{"": "a stream"} | told(range(4), [0, 3, 1, 1]).verdict().row]
    assert repr(table(rows)).splitlines() == [
        "          sent  received  lost  duplicated  reordered  invented  keeps",
        "a stream     4         4     1           1          1         0  no promise",
    ]


def test_its_example_is_true():
    assert doctest.testmod(module) == (0, 4)


def test_threads_write_into_one_history():
    history = History()
    start = threading.Barrier(8)

    def write(name):
        start.wait(10)
        for number in range(250):
            history.sent((name, number), by=name)
            history.received((name, number), by="ben")

    threads = [threading.Thread(target=write, args=[f"sender {n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    verdict = history.verdict()
    assert (verdict.sent, verdict.received, verdict.faults) == (2000, 2000, {})


def test_what_was_asked_for_is_a_copy():
    history = told([1], [1])
    history.events.clear()
    verdict = history.verdict()
    history.sent(2)
    assert isinstance(verdict, Verdict)
    assert (verdict.sent, history.verdict().lost) == (1, [2])


# Doctored histories

SENDERS = ("ada", "ben")
RECEIVERS = ("cleo", "dan", "eve")


class Story:
    """What a network might have done: who sent what to whom, and what each receiver got, in order. Then somebody meddles."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        count = self.chance.randint(12, 40)
        self.sent = [(self.chance.choice(SENDERS), number) for number in range(count)]
        self.to = {
            id: None if self.chance.random() < 0.7 else self.chance.sample(RECEIVERS, 2)
            for id in self.sent
        }
        self.acked = {id for id in self.sent if self.chance.random() < 0.5}
        self.got = {name: self.interleaved(name) for name in RECEIVERS}
        self.injected = {name: {kind: [] for kind in LISTS} for name in RECEIVERS}
        self.touched = set()

    def interleaved(self, receiver):
        """Return what a receiver should get: each sender's messages in order, the senders mixed at will."""
        queues = [
            [id for id in self.sent if id[0] == sender and receiver in (self.to[id] or RECEIVERS)]
            for sender in SENDERS
        ]
        got = []
        while any(queues):
            got.append(self.chance.choice([queue for queue in queues if queue]).pop(0))
        return got

    def untouched(self, receiver):
        """Choose a message of a receiver with which nobody has meddled yet."""
        free = [id for id in self.got[receiver] if (receiver, id) not in self.touched]
        if not free:
            return None
        chosen = self.chance.choice(free)
        self.touched.add((receiver, chosen))
        return chosen

    def lose(self, receiver):
        if id := self.untouched(receiver):
            self.got[receiver].remove(id)
            self.injected[receiver]["lost"].append(id)
            if id in self.acked:
                self.injected[receiver]["acked_and_lost"].append(id)

    def duplicate(self, receiver):
        if id := self.untouched(receiver):
            got = self.got[receiver]
            got.insert(self.chance.randint(got.index(id) + 1, len(got)), id)
            self.injected[receiver]["duplicated"].append(id)

    def invent(self, receiver):
        got = self.got[receiver]
        others = [
            id for id in self.sent if receiver not in (self.to[id] or RECEIVERS) and id not in got
        ]
        unknown = ("nobody", len(self.injected[receiver]["invented"]))
        id = self.chance.choice([unknown, *others])
        got.insert(self.chance.randint(0, len(got)), id)
        self.touched.add((receiver, id))
        self.injected[receiver]["invented"].append(id)

    def delay(self, receiver):
        """Let one message be overtaken by some later ones of its sender: it alone is late."""
        got = self.got[receiver]
        if not (id := self.untouched(receiver)):
            return
        place = got.index(id)
        later = [
            n
            for n, other in enumerate(got)
            if n > place and other[0] == id[0] and other[1] > id[1]
            if got.index(other) == n
        ]
        if later:
            end = self.chance.choice(later)
            self.touched |= {(receiver, other) for other in got[place : end + 1]}  # they stay so
            got.insert(end, got.pop(place))
            self.injected[receiver]["reordered"].append(id)

    def history(self):
        history = History(RECEIVERS)
        for id in self.sent:
            for _ in range(self.chance.choice([1, 1, 2])):  # some with a retry
                history.sent(id, by=id[0], to=self.to[id])
        for name, got in self.got.items():
            for id in got:
                history.received(id, by=name)
        for id in self.acked:
            history.acked(id)
        return history


def found_in(history, receiver):
    verdict = history.verdict(receiver)
    return {kind: Counter(getattr(verdict, kind)) for kind in LISTS}


def test_it_finds_every_fault_in_500_doctored_histories():
    totals = Counter()
    for seed in range(500):
        story = Story(seed)
        for _ in range(story.chance.randint(1, 8)):
            meddle = story.chance.choice([story.lose, story.duplicate, story.invent, story.delay])
            meddle(story.chance.choice(RECEIVERS))
        history = story.history()
        expected = {
            name: {kind: Counter(ids) for kind, ids in kinds.items()}
            for name, kinds in story.injected.items()
        }
        assert {name: found_in(history, name) for name in RECEIVERS} == expected, seed
        whole = history.verdict()
        for kind in LISTS:
            injected = sum((expected[name][kind] for name in RECEIVERS), Counter())
            assert Counter(getattr(whole, kind)) == injected, (seed, kind)
            totals[kind] += injected.total()
        assert whole.at_most_once == (not whole.duplicated and not whole.invented)
        assert whole.at_least_once == (not whole.lost and not whole.invented)
        assert whole.exactly_once == (whole.at_most_once and whole.at_least_once)
        assert (whole.in_order, whole.acks_kept) == (
            not whole.reordered,
            not whole.acked_and_lost,
        )
    assert all(totals[kind] >= 200 for kind in LISTS), totals


def test_it_raises_no_alarm_on_500_clean_histories():
    received = 0
    for seed in range(500, 1000):
        history = Story(seed).history()
        for name in (None, *RECEIVERS):
            verdict = history.verdict(name)
            assert verdict.faults == {}, seed
            assert all(verdict.promises.values()), seed
        received += history.verdict().received
    assert received > 20_000
