"""Reading of the package's own JSON records: an object of the expected types, or `InputError`."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speakerverif._util.files import open_input
from speakerverif.errors import InputError

# A record written by this package is far smaller; a larger file is something else.
LARGEST_RECORD = 1 << 26


def read_json(path: str | Path, advice: str = "") -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        advice: what the user can do if it is damaged.

    Raises:
        InputError: the file can't be read, or doesn't hold one JSON object.
    """
    with open_input(path) as file:
        try:
            text = file.read(LARGEST_RECORD + 1)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
    if len(text) > LARGEST_RECORD:
        raise InputError(f"{path}: more than {LARGEST_RECORD >> 20} MB; expected a record in JSON")
    return parse_object(text, str(path), advice)


def parse_object(text: str | bytes, where: str, advice: str = "") -> dict[str, Any]:
    """Return a JSON object.

    Args:
        text: the object; bytes are UTF-8.
        where: its place, for messages.
        advice: what the user can do if it is damaged.

    Raises:
        InputError: the text isn't one JSON object.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = f"not JSON: {error}"
    else:
        if isinstance(value, dict):
            return value
        reason = f"expected a JSON object, found {str(value)[:40]!r}"
    raise InputError(f"{where}: damaged ({reason}){f'; {advice}' * bool(advice)}")


def check_types(record: Any) -> None:
    """Raise `TypeError` where a field of a dataclass or named tuple, or of one within it, has not the declared type.

    An int is accepted as a float.
    """
    for name, hint in typing.get_type_hints(type(record)).items():
        _check(getattr(record, name), hint, name)


def _check(value: Any, hint: Any, name: str) -> None:
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any:
        return
    if kind in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return
        (hint,) = (argument for argument in arguments if argument is not type(None))
        _check(value, hint, name)
        return
    if kind is typing.Literal:
        if not (isinstance(value, str) and value in arguments):
            raise TypeError(f"{name}: expected {_name(hint)}, found {str(value)[:40]!r}")
        return
    if kind is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        good = isinstance(value, kind)
    if not good:
        raise TypeError(f"{name}: expected {_name(hint)}, found {str(value)[:40]!r}")
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        check_types(value)
    elif kind is tuple:
        for part in value:
            _check(part, arguments[0], name)
    elif issubclass(kind, Mapping) and arguments:
        for part in value.values():
            _check(part, arguments[1], name)


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")
