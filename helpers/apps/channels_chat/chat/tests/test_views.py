"""Logging in and out, and what each page says about itself."""

from django.contrib.auth.models import User
from django.test import Client, TestCase


class LoginTests(TestCase):
    def test_who_is_not_logged_in_is_sent_to_the_form(self):
        self.assertEqual(self.client.get("/").headers["Location"], "login")

    def test_a_new_name_is_welcome(self):
        self.assertEqual(self.client.post("/login", {"name": "bob"}).headers["Location"], "./")
        self.assertContains(self.client.get("/"), "<strong>bob</strong>")

    def test_a_name_that_is_not_allowed_gets_the_form_again(self):
        self.assertContains(self.client.post("/login", {"name": "<b>"}), "letters", status_code=400)
        self.assertFalse(User.objects.filter(username="<b>").exists())

    def test_a_name_with_a_password_needs_it(self):
        User.objects.create_user("eve", password="secret")
        self.assertEqual(self.client.post("/login", {"name": "eve"}).status_code, 400)
        right = {"name": "eve", "password": "secret"}
        self.assertEqual(self.client.post("/login", right).status_code, 302)

    def test_a_form_from_elsewhere_is_refused(self):
        strict = Client(enforce_csrf_checks=True)
        self.assertEqual(strict.post("/login", {"name": "bob"}).status_code, 403)

    def test_logging_out_takes_a_post(self):
        self.client.post("/login", {"name": "bob"})
        self.assertEqual(self.client.get("/logout").status_code, 405)
        self.client.post("/logout")
        self.assertEqual(self.client.get("/").status_code, 302)

    def test_a_page_runs_no_script_but_its_own(self):
        answer = self.client.get("/login")
        self.assertIn("default-src 'self'", answer.headers["Content-Security-Policy"])
        self.assertNotContains(answer, "<script>")
