"""Encoders, heads, back ends and corpora by name: those of this package, and external modules.

A plain name is a file of `models/encoders/`, `heads/`, `scoring/backends/` or `corpora/`. A dotted name, such as
`my_package.my_head`, is a module that Python can import. Importing runs its code, so a dotted name is imported only if
the user trusts it: it is imported already, the user's recipe or command line names it, or the environment variable
`SPEAKERVERIF_TRUSTED_MODULES` lists it or a package that contains it. The `config.toml` of a model folder can refer to
a trusted module but can't make one trusted.
"""

import dataclasses
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Literal

from speakerverif._util.messages import nearest
from speakerverif._util.toml import from_dict, to_dict
from speakerverif.errors import InputError

Kind = Literal["encoder", "head", "backend", "corpus"]
PACKAGES: dict[Kind, str] = {
    "encoder": "speakerverif.models.encoders",
    "head": "speakerverif.heads",
    "backend": "speakerverif.scoring.backends",
    "corpus": "speakerverif.corpora",
}
FUNCTIONS: dict[Kind, str] = {
    "encoder": "build(config, num_mels)",
    "head": "build(config, embedding_dim, num_speakers)",
    "backend": "build(config)",
    "corpus": "prepare(root, out)",
}
TRUSTED_MODULES = "SPEAKERVERIF_TRUSTED_MODULES"  # environment variable: names separated by commas

_trusted: set[str] = set()


def names(kind: Kind) -> list[str]:
    """Return the sorted names of this package's modules of a kind."""
    package = importlib.import_module(PACKAGES[kind])
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def trust(modules: Iterable[str]) -> None:
    """Allow modules to be imported by their dotted names, for the rest of this process.

    Args:
        modules: names that the user chose, in a recipe or on the command line; never from a model folder.
    """
    _trusted.update(modules)


def find(kind: Kind, name: str, where: str) -> ModuleType:
    """Return the module of an encoder, head, back end or corpus.

    Args:
        kind: one of `PACKAGES`.
        name: one of `names(kind)`, or a dotted name.
        where: the name's source, for errors, such as `[encoder]`.

    Raises:
        InputError: an unknown name (the error suggests the nearest known one); a module that isn't trusted, can't
            be imported, or lacks a definition that its kind requires.
    """
    if "." in name:
        return _from_outside(kind, name, where)
    registered = names(kind)
    if name not in registered:
        raise InputError(f"{where}: unknown name {name!r}; {nearest(name, registered)}")
    return importlib.import_module(f"{PACKAGES[kind]}.{name}")


def resolve(kind: Kind, table: dict[str, Any]) -> tuple[ModuleType, Any]:
    """Return the module that a recipe's table names, and its `Config` filled from the table's other keys.

    Raises:
        InputError: as `find`; an unknown key or a value of the wrong type.
    """
    where, name = f"[{kind}]", str(table.get("name"))
    module = find(kind, name, where)
    options = {key: value for key, value in table.items() if key != "name"}
    return module, from_dict(module.Config, options, f"{where} {name}")


def defaults(kind: Kind, table: dict[str, Any]) -> dict[str, Any]:
    """Return the default values of a module for the keys that a recipe's table doesn't set.

    Raises:
        InputError: as `resolve`.
    """
    values = to_dict(resolve(kind, table)[1])
    return {key: value for key, value in values.items() if key not in table}


def dotted_names(tables: dict[str, Any]) -> list[str]:
    """Return the dotted names in a recipe's table of an encoder, head or back end, nested tables included."""
    nested = [name for value in tables.values() if isinstance(value, dict) for name in dotted_names(value)]
    name = tables.get("name")
    return [*([name] if isinstance(name, str) and "." in name else []), *nested]


def _from_outside(kind: Kind, name: str, where: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            f"{where}: {name!r} is not the dotted name of a module, such as my_package.my_{kind}"
        )
    if name not in sys.modules and not _is_trusted(name):
        raise InputError(
            f"{where}: {name} is a module from outside this package, and loading it runs its code. If you trust it, "
            f"set {TRUSTED_MODULES}={name.partition('.')[0]} in the environment, or import {name} first"
        )
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(f"{where}: importing {name} failed: {error}") from error
        raise InputError(
            f"{where}: there is no module {name}: {error}; install it, or add the folder that holds it to PYTHONPATH"
        ) from error
    except Exception as error:  # a module may raise anything while it is imported
        raise InputError(
            f"{where}: importing {name} failed: {place_of(error)}{type(error).__name__}: {error}"
        ) from error
    function = FUNCTIONS[kind].partition("(")[0]
    lacks = [] if callable(getattr(module, function, None)) else [f"the function {FUNCTIONS[kind]}"]
    if kind != "corpus":
        config = getattr(module, "Config", None)
        if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
            lacks.append("the dataclass Config")
    if lacks:
        raise InputError(f"{where}: {module.__file__ or name} lacks {' and '.join(lacks)}")
    return module


def place_of(error: Exception) -> str:
    """Return `path:line: ` of the code that raised an error; empty for a syntax error, whose message has both."""
    if isinstance(error, SyntaxError):
        return ""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}: "


def _is_trusted(name: str) -> bool:
    listed = {text.strip() for text in os.environ.get(TRUSTED_MODULES, "").split(",")}
    return any(name == other or name.startswith(f"{other}.") for other in (listed | _trusted) - {""})
