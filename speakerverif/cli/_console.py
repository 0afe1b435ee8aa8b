"""What the command line shows on standard output and standard error."""

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
    """Writes messages as plain lines to the standard error of the moment, above a progress bar where one is drawn."""

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
    """Show the package's messages on standard error: warnings (-1), what is being done (0), details (1)."""
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
    """Have characters that a console lacks written as similar ones or as escapes, where they would end the program."""
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
