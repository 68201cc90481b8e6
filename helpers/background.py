"""A thread with an event loop of its own, so that what runs there goes on while cells come and go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from .log import Log

T = TypeVar("T")
R = TypeVar("R")


class Background(Generic[T]):
    """Keep an asynchronous context manager open on an event loop in a daemon thread.

    Keep it before you `start` it: an interrupt of the kernel may come at any moment, and then somebody must `stop` it.

    Args:
        resource: what to keep open; its `__aexit__` runs on the same loop, and should bound its own time.
        name: the thread's name.
        log: what the thread's prints and warnings go to.

    Attributes:
        value: what the context manager returned when it was entered.
        loop: the event loop, for `call_soon_threadsafe` and `run_coroutine_threadsafe`.
    """

    value: T
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        resource: AbstractAsyncContextManager[T],
        *,
        name: str,
        log: Log,
    ) -> None:
        self.name = name
        self._resource = resource
        self._log = log
        # Plain values, and the kernel's thread looks at them again and again: an interrupt while it waits for a lock of
        # `threading` can leave that broken for the other thread, and after one in Thread.join Python before 3.13 takes a
        # living thread for dead (python/cpython#90882).
        self._ready = False
        self._ended = False
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._wake: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, timeout: float = 10.0) -> Background[T]:
        """Start the thread, and return this when the context manager has been entered.

        Whatever else ends the wait, an interrupt of the kernel included, leaves no thread behind.

        Args:
            timeout: seconds that entering may take.

        Raises:
            TimeoutError: entering took longer.
            RuntimeError: entering tried to end the thread (`SystemExit`), as uvicorn does when it cannot start.
            BaseException: what entering raised.
        """
        try:
            self._thread.start()
            if not _poll(lambda: self._ready or self._ended, timeout):
                raise TimeoutError(f"{self.name} was not ready within {timeout:g} s.")
        except BaseException:  # KeyboardInterrupt too
            self._ask_to_stop()
            if self._thread.ident is not None:
                self._join(timeout)
            raise
        if self._error is not None and not self._ready:
            raise self._error
        return self

    def _run(self) -> None:
        with self._log.capturing():
            try:
                with asyncio.Runner() as runner:
                    runner.run(self._live())
            except BaseException as error:
                if isinstance(error, SystemExit):  # nobody who stops a server wants to exit
                    error = RuntimeError(f"{self.name} gave up with exit status {error.code}.")
                if self._ready:
                    self._log.fail(self.name, error)
                self._error = error
            finally:
                self._ended = True

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        if self._stopping.is_set():  # interrupted before the loop ran
            raise RuntimeError(f"{self.name} was stopped before it was ready.")
        self.loop.set_exception_handler(self._unheard)
        entering = asyncio.ensure_future(self._resource.__aenter__())
        waking = asyncio.ensure_future(self._wake.wait())
        await asyncio.wait({entering, waking}, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait({entering})
            raise RuntimeError(f"{self.name} was stopped before it was ready.")
        self.value = entering.result()
        try:
            self._ready = True
            await waking
        finally:
            await self._resource.__aexit__(None, None, None)
            # The runner cancels what is left and waits for it; so that it need not wait for what shrugs that off, once before.
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=0.1)

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what nobody awaits, from whatever thread asyncio finds it."""
        error, message = context.get("exception"), f"asyncio: {context['message']}"
        if error is None:
            self._log.add(message)
        else:
            self._log.fail(message, error)

    def _ask_to_stop(self) -> None:
        self._stopping.set()
        if self._wake is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed already
                self.loop.call_soon_threadsafe(self._wake.set)

    def _join(self, timeout: float) -> bool:
        """Wait for the end of the thread, and return whether it came in time."""
        if not _poll(lambda: self._ended, timeout):
            return False
        self._thread.join(timeout)
        return True

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.ident is not None and not self._ended

    @property
    def current(self) -> bool:
        """Whether this is the thread that asks."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float | None = None) -> R:
        """Run a coroutine on this loop and return its result to the calling thread.

        Args:
            coroutine: what to run.
            timeout: seconds to wait; for ever by default.

        Raises:
            TimeoutError: it took longer; it has been cancelled.
            RuntimeError: the loop has stopped, or is the one that would wait for itself.
        """
        if not self.running or self.current:
            coroutine.close()
            raise RuntimeError(
                f"{self.name} cannot run this: "
                + (
                    "it has stopped."
                    if not self.running
                    else "write `await` here, you are on its loop."
                )
            )

        async def captured() -> R:  # else it, and every task that it starts, would print into cells
            with self._log.capturing():
                return await coroutine

        future = asyncio.run_coroutine_threadsafe(captured(), self.loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self, timeout: float = 5.0) -> None:
        """Leave the context manager, end the thread, and wait for both. Stopping twice is safe.

        Raises:
            TimeoutError: the thread still runs after `timeout` seconds: a call that never returns holds its loop.
        """
        self._ask_to_stop()
        if self._thread.ident is None or self.current:
            return  # never started; or stopped by what it runs, and it ends when that has
        if not self._join(timeout):
            raise TimeoutError(
                f"{self.name} did not stop within {timeout:g} s: a call that blocks holds its event loop. "
                "It ends with the kernel: Kernel > Restart."
            )
        if self._error is not None and self._ready:
            raise self._error


def _poll(condition: Callable[[], object], timeout: float) -> bool:
    """Look at a condition until it is true, and return whether that came in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0002)
    return True
