"""Django for the notebooks: configured once in the kernel, or a project under the real `runserver` in a process of its own."""

from __future__ import annotations

import copy
import json
import re
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .process import Child
from .server import Server

DEFAULTS: dict[str, Any] = {
    "SECRET_KEY": "no secret: this Django never leaves your machine",
    "ALLOWED_HOSTS": ["127.0.0.1", "localhost"],
    "ROOT_URLCONF": "__main__",
    "CHANNEL_LAYERS": {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    "LOGGING_CONFIG": None,
}
"""What `configure` sets where it is told nothing else: URLs are the `urlpatterns` of the notebook itself, channel layers are in
memory, and warnings go to the logs of the servers, because Django adds no handlers of its own."""

_DATABASE = "file:/workbook?vfs=memdb"

WITH_USERS: dict[str, Any] = {
    "INSTALLED_APPS": [
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
    ],
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _DATABASE}},
}
"""Settings for `configure`: users and sessions, in a database in the memory of this process. `empty_database` makes its tables.

Not `:memory:` and not `mode=memory`: those Django never closes, and the first is another database in each thread. What the VFS
`memdb` keeps under a name that begins with a slash belongs to the whole process (https://sqlite.org/src/file/src/memdb.c).
"""

_lock = threading.Lock()
_kept: sqlite3.Connection | None = None  # the database ends with its last connection
_configured: dict[str, Any] | None = None


def configure(**settings: Any) -> None:
    """Make Django ready in this kernel. Asking again for the same is safe; a process can have one Django only.

    After each call Django reads the `urlpatterns` of the notebook anew, so that a cell that defines them can be run again.

    Args:
        settings: settings of Django, for example `INSTALLED_APPS=["channels"]`; they replace those of `DEFAULTS`.

    Raises:
        RuntimeError: Django has been made ready before, with other settings or by somebody else. (Django: "Settings already
            configured.", https://docs.djangoproject.com/en/5.2/topics/settings/#either-configure-or-django-settings-module-is-required)
    """
    global _configured
    import django
    from django.conf import settings as present
    from django.urls import clear_url_caches

    wanted = {**DEFAULTS, **settings}
    with _lock:
        if not present.configured:
            present.configure(**copy.deepcopy(wanted))  # Django adds to DATABASES
            _configured = wanted
        if _configured is None:
            raise RuntimeError(
                "This kernel's Django has been configured already, and not by project.configure(). A process can have one "
                "Django only. Choose Kernel > Restart, then run this section from its first cell."
            )
        different = sorted(
            name
            for name in {*wanted, *_configured}
            if wanted.get(name, ...) != _configured.get(name, ...)
        )
        if different:
            raise RuntimeError(
                f"This kernel's Django has been configured already, with other values of {', '.join(different)}. A process "
                "can have one Django only. Choose Kernel > Restart, then run this section from its first cell."
            )
        django.setup()
        clear_url_caches()


def empty_database() -> None:
    """Give a Django with a database in memory (`WITH_USERS`) empty tables, in a cell, too.

    The first call makes the tables of all installed apps, without their migrations; each later one empties them.
    """
    global _kept
    with _lock, ThreadPoolExecutor(1) as thread:  # Django refuses to work in a thread with a loop
        if _kept is None:
            thread.submit(_make_tables).result()
            _kept = sqlite3.connect(_DATABASE, uri=True, check_same_thread=False)
        thread.submit(_empty_tables).result()


def _make_tables() -> None:
    from django.apps import apps
    from django.core.management import call_command
    from django.test.utils import override_settings

    without = {app.label: None for app in apps.get_app_configs()}
    with override_settings(MIGRATION_MODULES=without):
        call_command("migrate", run_syncdb=True, verbosity=0)


def _empty_tables() -> None:
    from django.core.management import call_command
    from django.db import connection

    try:
        call_command("flush", interactive=False, verbosity=0)
    finally:
        connection.close()


class _Runserver(Server):
    kind = "Django's runserver in another process"

    def __init__(self, settings: dict[str, Any], name: str) -> None:
        super().__init__(name)
        self._settings = settings
        self._child: Child | None = None

    def _open(self, timeout: float) -> None:
        program = f"from {__name__} import _main; import sys; _main(sys.argv[1])"
        command = [sys.executable, "-c", program, json.dumps(self._settings)]
        self._child = Child(command, name=self.name)
        try:
            self.log = self._child.log
            self._child.wait_until(self._take_port, timeout)
        except BaseException:
            self._child.stop()
            raise
        self.running = True

    def _take_port(self) -> int:
        for line in self.log:
            found = re.search(r"(?:server at http://|TCP address )127\.0\.0\.1:([1-9]\d*)", line)
            if found:
                self.port = int(found[1])
        return self.port

    def _close(self) -> None:
        if self._child is not None:
            self._child.stop()


def runserver(
    settings: dict[str, Any], *, name: str = "runserver", timeout: float = 30.0
) -> Server:
    """Start Django's own `runserver` for some settings, in a process of its own, and return it when it is ready.

    It is Django's or, with `daphne` among the `INSTALLED_APPS`, that of Daphne: a real `manage.py runserver` without the
    reloader, on 127.0.0.1, on a port that the system chooses.

    Args:
        settings: the settings of the project, but for a `SECRET_KEY` and the `ALLOWED_HOSTS`; only what JSON can say.
        name: what to call it.
        timeout: seconds that starting may take, 30 by default.

    Returns:
        The running server, which is also a context manager. It does not replace another one of the same name.

    Raises:
        RuntimeError: the command ended; the message holds what it said.
        TimeoutError: it was not ready in time.
    """
    server = _Runserver(settings, name)
    server._open(timeout)
    return server


def _main(settings: str) -> None:
    """Run `runserver` until the process is told to end."""
    from django.conf import settings as present
    from django.core.management import execute_from_command_line

    shown = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"daphne.server": {"handlers": ["console"], "level": "INFO"}},
    }  # Daphne names its port in its log, and nowhere else
    own = {name: DEFAULTS[name] for name in ("SECRET_KEY", "ALLOWED_HOSTS")}
    logs = {"LOGGING": shown, "LOGGING_CONFIG": "logging.config.dictConfig"}
    present.configure(**{**own, **json.loads(settings), **logs})
    execute_from_command_line(["manage.py", "runserver", "127.0.0.1:0", "--noreload"])
