"""How a visitor gets a name."""

from django import forms
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.validators import RegexValidator


class LoginForm(forms.Form):
    """A name, new or known. It is free for everyone until it has a password (`manage.py changepassword NAME`)."""

    name = forms.CharField(
        label="Your name",
        max_length=30,
        validators=[RegexValidator(r"^[\w.-]+\Z", "Use letters, digits, and . _ - only.")],
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "username"}),
    )
    password = forms.CharField(
        label="Password (only if this name has one)",
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    def clean_name(self):
        return User.normalize_username(self.cleaned_data["name"])

    def clean(self):
        if self.errors:
            return
        name, password = self.cleaned_data["name"], self.cleaned_data["password"]
        user = User.objects.filter(username=name).first()
        if user is None:
            user = User.objects.create_user(name)
        elif not user.is_active:
            user = None
        elif user.has_usable_password():
            user = authenticate(username=name, password=password)
        if user is None:
            raise forms.ValidationError("This name needs its password.")
        self.user = user
