"""Handling of Ctrl-C and termination: the first signal makes a training save and end, the second ends it at once."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from speakerverif.training import distributed

# torchrun forwards a signal to processes that have already received it from the terminal.
REPEATED_S = 3.0


class Interruption:
    """A context that records SIGINT or SIGTERM instead of ending; a second signal ends the process as usual.

    Outside the main thread, where Python handles no signals, it has no effect.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._received_at = 0.0
        self._former: dict[signal.Signals, Any] = {}

    @property
    def name(self) -> str:
        """The name of the signal received, here or in another process."""
        return "an interruption" if self._received is None else self._received.name

    def requested(self) -> bool:
        """Return whether any process has received a signal."""
        return distributed.any_says(self._received is not None)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received, self._received_at = signal.Signals(number), time.monotonic()
        elif distributed.size() == 1 or time.monotonic() - self._received_at > REPEATED_S:
            raise KeyboardInterrupt
