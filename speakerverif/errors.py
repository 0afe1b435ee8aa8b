"""The one exception that user input raises."""

import re

LONGEST_MESSAGE = 4000  # characters
# Control characters but tab and line feed, lone surrogates, and characters that reorder or break a line.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(ValueError):
    """Something the user gave is wrong: a file, a list, a recipe, an option.

    The message says where (`path:line`), what was found, what was expected and what to do. Of what it quotes, control
    characters become escapes, and the middle of a long text is left out: a damaged file can't disturb a terminal.
    Only `cli.py` catches it, prints it as one line and exits with status 2.
    """

    def __init__(self, message: object = "") -> None:
        """Take the message."""
        text = _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(message))
        if len(text) > LONGEST_MESSAGE:
            half = LONGEST_MESSAGE // 2
            text = f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
        super().__init__(text)
