"""Progress of long work: a bar on a terminal, otherwise messages of the package's logger.

Both are shown where the logger of this module shows messages of level INFO, as it does in commands; in a notebook
`logging.basicConfig(level=logging.INFO)` shows them.
"""

import logging
import sys
import time
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


class Progress:
    """A progress counter; a context manager.

    Args:
        total: number of units of work.
        label: first word of the line.
        unit: the name of one unit, such as "crop".
        done: units that an earlier run finished.
    """

    def __init__(self, total: int, label: str, unit: str = "file", done: int = 0) -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self._started, self._done_before = time.monotonic(), done
        self._last_line = self._started
        self._bar = None
        if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
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
            rate = (self.done - self._done_before) / max(self._last_line - self._started, 1e-9)
            line = f"{self.label}: {self.done}/{self.total} {self.unit}s, {rate:.1f}/s"
            logger.info(f"{line}, {status}" if status else line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
