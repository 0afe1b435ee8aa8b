"""Parts by name: every file of `encoders/`, `heads/`, `backends/` and `corpora/` is one, a new idea is one new file."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any, Literal

from speakerverif._util.messages import nearest
from speakerverif._util.toml import from_dict
from speakerverif.errors import InputError

Kind = Literal["encoder", "head", "backend", "corpus"]
PACKAGES: dict[Kind, str] = {
    "encoder": "speakerverif.models.encoders",
    "head": "speakerverif.heads",
    "backend": "speakerverif.scoring.backends",
    "corpus": "speakerverif.corpora",
}


def names(kind: Kind) -> list[str]:
    """Return the names of the parts of a kind that this package has, sorted."""
    package = importlib.import_module(PACKAGES[kind])
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(kind: Kind, name: str, where: str) -> ModuleType:
    """Return the module of a part.

    Args:
        kind: what the part is.
        name: one of `names(kind)`.
        where: what to call the place in errors, such as `[encoder]`.

    Raises:
        InputError: unknown name; the nearest known one is named.
    """
    known = names(kind)
    if name not in known:
        raise InputError(f"{where}: unknown name {name!r}; {nearest(str(name), known)}")
    return importlib.import_module(f"{PACKAGES[kind]}.{name}")


def resolve(kind: Kind, table: dict[str, Any]) -> tuple[ModuleType, Any]:
    """Return the module that a recipe's table names, and its `Config` filled from the table's other keys.

    Raises:
        InputError: unknown name, key or value; the alternatives are named.
    """
    where, name = f"[{kind}]", table.get("name")
    module = find(kind, str(name), where)
    options = {key: value for key, value in table.items() if key != "name"}
    return module, from_dict(module.Config, options, f"{where} {name}")
