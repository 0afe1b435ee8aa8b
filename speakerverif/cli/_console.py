"""Output of the command line on standard output and standard error."""

import codecs
import contextlib
import io
import logging
import sys
from collections.abc import Iterator

LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}
PLAIN = {"–": "-", "—": "-", "…": "...", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "−": "-", "\u00a0": " "}
PLAIN_ERRORS = "speakerverif.plain"


class _StandardError(logging.Handler):
    """A handler that writes plain lines to the current standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        try:
            line = self.format(record)
            if "tqdm" in sys.modules:
                from tqdm import tqdm

                tqdm.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def messages_shown(verbosity: int) -> Iterator[None]:
    """Show the package's messages on standard error: warnings (-1), also progress (0), also details (1)."""
    logger, handler = logging.getLogger("speakerverif"), _StandardError()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(LEVELS[verbosity])
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def write_what_the_console_can_show() -> None:
    """Write characters that a console can't show as similar ones or escapes, instead of failing."""
    codecs.register_error(PLAIN_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN_ERRORS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = "".join(
        PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode("ascii")
        for c in error.object[error.start : error.end]
    )
    return text, error.end
