"""Strict TOML: tables to dataclasses and back, every key, type and value checked."""

import dataclasses
import functools
import logging
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

from speakerverif._util.files import open_input
from speakerverif._util.messages import nearest
from speakerverif._util.ranges import Range, Rising
from speakerverif.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DEPTH = 12  # of nested tables and lists; recipes need five
LARGEST = 16 << 20  # bytes of a TOML file
_TOO_DEEP = f"tables or lists are nested more than {MAX_DEPTH} deep"


@runtime_checkable
class Related(Protocol):
    """A dataclass whose values may contradict each other."""

    def problems(self) -> Iterator[str]:
        """Yield each problem, as `key: found ..., expected ...`."""


def from_dict(cls: type[T], table: dict[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a plain table, checking every key, type, range and relation.

    Args:
        cls: a dataclass; keys without a default are required.
        table: keys and values as TOML gives them.
        where: the table's name in errors, such as `ecapa.toml: [encoder]`.

    Raises:
        InputError: unknown key (names the nearest), a key that is missing, wrong type, value out of range or not one
            of the choices, values that contradict each other (see `Related`).
    """
    if not isinstance(table, dict):
        raise InputError(f"{where}: expected a table, found {table!r}")
    hints = typing.get_type_hints(cls, include_extras=True)
    field_names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in field_names:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, field_names)}")
    required = [f.name for f in dataclasses.fields(cls) if _is_required(f)]  # type: ignore[arg-type]
    if missing := [key for key in required if key not in table]:
        raise InputError(f"{where}: the key {missing[0]!r} is missing")
    config = cls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in table.items()})
    if isinstance(config, Related):
        for problem in config.problems():
            raise InputError(f"{where}.{problem}")
    return config


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint`, or raise `InputError`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _in_range(_convert(args[0], value, where), args[1:], where)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, found {value!r}")
        if origin is list or args[1:] == (Ellipsis,):
            return origin(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(args):
            raise InputError(f"{where}: expected {len(args)} values, found {len(value)}")
        return tuple(
            _convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a table, found {value!r}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _in_range(value: Any, rules: tuple[Any, ...], where: str) -> Any:
    """Return the value if its type's annotations allow it, or raise `InputError`."""
    values = value if isinstance(value, tuple) else (value,)
    for rule in rules:
        if isinstance(rule, Range):
            for number in values:
                if number not in rule:
                    raise InputError(f"{where}: found {number!r}, expected {rule}")
        if isinstance(rule, Rising) and values[0] > values[1]:
            raise InputError(f"{where}: found {list(values)!r}, expected the lower number first")
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain tables, with tuples as lists, for TOML and JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        InputError: no such file, or not TOML (with line and column).
    """
    try:
        with open_input(path) as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise InputError(f"{path}: not a TOML file of ours: it has more than {LARGEST >> 20} MB")
        return parse_toml(text.decode("utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text; `where` names it in errors.

    Raises:
        InputError: not TOML (with line and column), or nested too deep.
    """
    try:
        return _shallow(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not a TOML file: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: {_TOO_DEEP}") from error


def _shallow(tables: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the tables, checked to be shallow enough for recursive functions.

    Raises:
        InputError: they are nested deeper than `MAX_DEPTH`.
    """
    level: list[Any] = [tables]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for parent in level
            for value in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(value, dict | list)
        ]
        if not level:
            return tables
    raise InputError(f"{where}: {_TOO_DEEP}")


def format_toml(tables: dict[str, Any]) -> str:
    """Return nested tables of plain values as TOML text (`tomllib` can read but not write)."""
    lines: list[str] = []

    def literal(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            escaped = "".join(f"\\u{ord(c):04x}" if c < " " or c in '"\\\x7f' else c for c in value)
            return f'"{escaped}"'
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(literal, value)) + "]"
        return repr(value)

    def emit(table: dict[str, Any], prefix: str) -> None:
        lines.extend(
            f"{k} = {literal(v)}" for k, v in table.items() if not isinstance(v, dict) and v is not None
        )
        for key, sub in table.items():
            if isinstance(sub, dict):
                lines.append(f"\n[{prefix}{key}]")
                emit(sub, f"{prefix}{key}.")

    emit(tables, "")
    return "\n".join(lines).lstrip("\n") + "\n"


def merge(base: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """Return `base` updated with the values of `delta`, table by table.

    A table with a different `name` (another encoder, another head) replaces the whole table in `base`.
    """
    merged = dict(base)
    for key, value in delta.items():
        old = merged.get(key)
        same_kind = (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("name", old.get("name")) == old.get("name")
        )
        merged[key] = merge(old, value) if same_kind else value  # type: ignore[arg-type]
    return merged


def _replaced(former: dict[str, Any], tables: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for each table whose new `name` has reset its values to defaults."""
    for key, old in former.items():
        new = tables.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            dropped = [name for name in old if name not in new]
            if old.get("name") != new.get("name") and dropped:
                values = ", ".join(f"{name} = {old[name]!r}" for name in dropped)
                yield f"{prefix}{key} {new.get('name')} has its defaults; no longer in force: {values}"
            yield from _replaced(old, new, f"{prefix}{key}.")


def override(tables: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return a recipe's tables updated with `--set key.sub=value` assignments; values are TOML or bare strings.

    An empty table, `{}`, clears the existing one: `finetune={}` removes that stage. Where a new `name` resets the
    values of a table to defaults, a log message names them.
    """
    for text in assignments:
        key, sep, raw = text.partition("=")
        if not sep or not key.strip():
            raise InputError(f"--set {text}: expected key=value, such as train.epochs=5")
        try:
            value = tomllib.loads(f"v = {raw}")["v"]
        except tomllib.TOMLDecodeError:
            value = raw
        except RecursionError as error:
            raise InputError(f"--set {key}: {_TOO_DEEP}") from error
        delta: Any = value
        for part in reversed(key.strip().split(".")):
            delta = {part: delta}
        former, tables = tables, merge(tables, _shallow(delta, f"--set {key}"))
        for line in _replaced(former, tables):
            logger.info(f"--set {text}: {line}")
        if value == {}:
            *path, last = key.strip().split(".")
            functools.reduce(dict.__getitem__, path, tables)[last] = {}
    return tables
