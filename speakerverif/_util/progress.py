"""Progress of long work on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

LINE_EVERY_S = 10.0


class Progress:
    """Counts work done out of `total`; a context manager.

    Args:
        total: number of units of work.
        label: what the line begins with.
        unit: the name of one unit, such as "crop".
        done: units finished before (a resumed run).
    """

    def __init__(self, total: int, label: str, unit: str = "file", done: int = 0):
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self._started, self._done_before = time.monotonic(), done
        self._last_line = self._started
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=label, unit=unit, initial=done, dynamic_ncols=True, file=sys.stderr
            )

    def update(self, count: int, status: str = "") -> None:
        """Add `count` finished units and show `status`, a short text such as the loss."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(status, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._print(status)

    def note(self, text: str) -> None:
        """Print a line of its own without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _print(self, status: str) -> None:
        rate = (self.done - self._done_before) / max(time.monotonic() - self._started, 1e-9)
        line = f"{self.label}: {self.done}/{self.total} {self.unit}s, {rate:.1f}/s"
        print(f"{line}, {status}" if status else line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
