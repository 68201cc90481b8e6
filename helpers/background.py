"""A thread with an event loop of its own, so that what runs there goes on while cells come and go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from .log import Log

T = TypeVar("T")
R = TypeVar("R")


class Background(Generic[T]):
    """Keep an asynchronous context manager open on an event loop in a daemon thread.

    The constructor returns when the context manager has been entered, or raises what entering it raised; whatever else ends
    the wait, an interrupt of the kernel included, leaves no thread behind.

    Args:
        resource: what to keep open; its `__aexit__` runs on the same loop, and should bound its own time.
        name: the thread's name.
        log: what the thread's prints and warnings go to.
        timeout: seconds that entering may take.

    Attributes:
        value: what the context manager returned when it was entered.
        loop: the event loop, for `call_soon_threadsafe` and `run_coroutine_threadsafe`.

    Raises:
        TimeoutError: entering took longer than `timeout`.
        RuntimeError: entering tried to end the thread (`SystemExit`), as uvicorn does when it cannot start.
    """

    value: T
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        resource: AbstractAsyncContextManager[T],
        *,
        name: str,
        log: Log,
        timeout: float = 10.0,
    ) -> None:
        self.name = name
        self._resource = resource
        self._log = log
        self._ready: Future[T] = Future()
        self._ended: Future[None] = Future()
        self._stopping = threading.Event()
        self._wake: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
            self.value = self._ready.result(timeout)
        except BaseException as error:  # KeyboardInterrupt too
            late = isinstance(error, TimeoutError) and not self._ready.done()
            self._ask_to_stop()
            if self._thread.ident is not None:
                self._thread.join(timeout)
            if late:
                raise TimeoutError(f"{name} was not ready within {timeout:g} s.") from None
            raise

    def _run(self) -> None:
        with self._log.capturing():
            try:
                with asyncio.Runner() as runner:
                    runner.run(self._live())
            except BaseException as error:
                if isinstance(error, SystemExit):  # nobody who stops a server wants to exit
                    error = RuntimeError(f"{self.name} gave up with exit status {error.code}.")
                if self._ready.done():
                    self._log.fail(self.name, error)
                    self._ended.set_exception(error)
                else:
                    self._ready.set_exception(error)
                    self._ended.set_result(None)
            else:
                self._ended.set_result(None)

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        if self._stopping.is_set():  # interrupted before the loop ran
            raise RuntimeError(f"{self.name} was stopped before it was ready.")
        self.loop.set_exception_handler(self._unheard)
        entering = asyncio.ensure_future(self._enter())
        waking = asyncio.ensure_future(self._wake.wait())
        await asyncio.wait({entering, waking}, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait({entering})
            raise RuntimeError(f"{self.name} was stopped before it was ready.")
        value = entering.result()
        try:
            self._ready.set_result(value)
            await waking
        finally:
            await self._resource.__aexit__(None, None, None)
            # The runner cancels what is left and waits for it; so that it need not wait for what shrugs that off, once before.
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=0.1)

    async def _enter(self) -> T:
        try:
            return await self._resource.__aenter__()
        except SystemExit as error:  # it would end the loop and stay in its task, unread
            raise RuntimeError(f"{self.name} gave up with exit status {error.code}.") from error

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

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float | None = None) -> R:
        """Run a coroutine on this loop and return its result to the calling thread.

        Args:
            coroutine: what to run.
            timeout: seconds to wait; for ever by default.

        Raises:
            TimeoutError: it took longer; it has been cancelled.
            RuntimeError: the loop has stopped, or is the one that would wait for itself.
        """
        if not self.running or threading.current_thread() is self._thread:
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
        if threading.current_thread() is self._thread:
            return  # stopped by what it runs: it ends when that has
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(
                f"{self.name} did not stop within {timeout:g} s: a call that blocks holds its event loop. "
                "It ends with the kernel: Kernel > Restart."
            )
        self._ended.result()
