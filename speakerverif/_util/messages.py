"""Parts of error messages: lists of ids, the nearest known name, the rows of a repeated id."""

import difflib
from collections.abc import Sequence

from speakerverif.errors import InputError


def named(ids: Sequence[str], shown: int = 5) -> str:
    """Return text with the first few ids and the number of further ones."""
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return ", ".join(ids[:shown]) + more


def one_line(error: Exception) -> str:
    """Return another library's error message as one line."""
    return " ".join(str(error).split())


def nearest(name: str, known: list[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known name, or all known names."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def refuse_repeated(ids: Sequence[str], where: str, numbers: Sequence[int]) -> None:
    """Raise `InputError` with both row numbers where an id is used twice."""
    if len(set(ids)) == len(ids):
        return
    seen: dict[str, int] = {}
    for text, number in zip(ids, numbers, strict=True):
        if text in seen:
            raise InputError(f"{where}: id {text!r} is repeated: rows {seen[text]} and {number}")
        seen[text] = number
