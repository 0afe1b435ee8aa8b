"""The bounded queue of computations: a fixed number of threads, and a limit on what waits for them."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from speakerverif.api.service.limits import Limits, Refused

Result = TypeVar("Result")
BUSY = 503


class ComputeQueue:
    """Computations in threads; one that could not begin soon is refused at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.concurrent, "speakerverif-compute")
        self._lock = threading.Lock()
        self._pending = 0
        self._mean_s = 0.1  # of a computation, the latest count most

    @property
    def pending(self) -> int:
        """Computations that run or wait."""
        return self._pending

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return the result of a function that runs in a thread.

        A computation that takes too long goes on in its thread, and counts until it ends: threads can't be stopped.

        Raises:
            Refused: 503, too many wait; 504, it took too long.
        """
        with self._lock:
            if self._pending >= self._limits.concurrent + self._limits.waiting:
                wait_s = math.ceil(self._pending * self._mean_s / self._limits.concurrent)
                raise Refused(BUSY, "too many requests wait; try again later", max(1, wait_s))
            self._pending += 1
        try:
            future = self._threads.submit(self._timed, work)
        except RuntimeError as error:  # shut down
            self._ended(None)
            raise Refused(BUSY, "the service is stopping") from error
        future.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limits.request_s)
        except TimeoutError as error:
            raise Refused(504, f"not done within {self._limits.request_s:g} s") from error

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        self._threads.shutdown(cancel_futures=True)

    def _timed(self, work: Callable[[], Result]) -> Result:
        began = time.monotonic()
        try:
            return work()
        finally:
            with self._lock:
                self._mean_s += 0.1 * (time.monotonic() - began - self._mean_s)

    def _ended(self, _: "Future[Any] | None") -> None:
        with self._lock:
            self._pending -= 1
