"""Words for error messages: which ids, which name was meant, where an id is repeated."""

import difflib
from collections.abc import Sequence

from speakerverif.errors import InputError


def named(ids: Sequence[str], shown: int = 5) -> str:
    """Return the first few ids and how many more there are, for messages."""
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return ", ".join(ids[:shown]) + more


def one_line(error: Exception) -> str:
    """Return another library's message in one line."""
    return " ".join(str(error).split())


def nearest(name: str, known: list[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def refuse_repeated(ids: Sequence[str], where: str, numbers: Sequence[int]) -> None:
    """Raise `InputError` where an id is used twice, naming both rows by their numbers."""
    if len(set(ids)) == len(ids):
        return
    seen: dict[str, int] = {}
    for text, number in zip(ids, numbers, strict=True):
        if text in seen:
            raise InputError(f"{where}: id {text!r} is repeated: rows {seen[text]} and {number}")
        seen[text] = number
