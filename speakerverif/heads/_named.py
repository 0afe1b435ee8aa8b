"""Build the head that another head is joined to, from a recipe's table."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from speakerverif import heads
from speakerverif.config import from_dict
from speakerverif.errors import InputError
from speakerverif.heads._base import Head


def build_base(
    table: dict[str, Any], embedding_dim: int, num_speakers: int, allowed: tuple[str, ...] = ()
) -> Head:
    """Return the head of the table `head.base`: `{"name": ..., keys of that head's Config}`.

    Args:
        table: as TOML gives it.
        allowed: the names that can be joined; empty: every head.

    Raises:
        InputError: no name, an unknown name, an unknown key or a value out of range.
    """
    known = allowed or sorted(m.name for m in iter_modules(heads.__path__) if not m.name.startswith("_"))
    name = table.get("name")
    if name not in known:
        raise InputError(f"head.base.name: found {name!r}, expected one of {', '.join(known)}")
    module = import_module(f"{heads.__name__}.{name}")
    keys = {key: value for key, value in table.items() if key != "name"}
    return module.build(from_dict(module.Config, keys, "head.base"), embedding_dim, num_speakers)
