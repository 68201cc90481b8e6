"""What an event must look like."""

from chat import protocol
from django.test import SimpleTestCase


class ProtocolTests(SimpleTestCase):
    def refused(self, function, *arguments):
        with self.assertRaises(protocol.Refused) as refused:
            function(*arguments)
        return refused.exception.code

    def test_an_event_is_an_object_in_json(self):
        self.assertEqual(protocol.parse('{"type": "join"}'), {"type": "join"})
        self.assertEqual(self.refused(protocol.parse, "{"), "bad_json")
        self.assertEqual(self.refused(protocol.parse, "[1]"), "not_an_object")
        self.assertEqual(self.refused(protocol.parse, None), "binary")

    def test_the_size_of_an_event_is_counted_in_bytes(self):
        self.assertEqual(self.refused(protocol.parse, "é" * (32 * 1024 + 1)), "too_big")

    def test_a_text_loses_the_space_around_it(self):
        self.assertEqual(protocol.text_of({"text": " a b\n"}), "a b")
        self.assertEqual(self.refused(protocol.text_of, {"text": " "}), "missing_text")

    def test_only_a_usable_ref_is_repeated(self):
        self.assertEqual(protocol.reference({"ref": "a"}), "a")
        for unusable in ({}, {"ref": []}, {"ref": "x" * 65}):
            self.assertIsNone(protocol.reference(unusable))
