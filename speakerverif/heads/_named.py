"""Build the head that another head is joined to, from a recipe's table."""

from typing import Any

from speakerverif._util import registry
from speakerverif._util.toml import from_dict
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
    known = allowed or registry.names("head")
    name = str(table.get("name"))
    if name not in known:
        raise InputError(f"head.base.name: found {name!r}, expected one of {', '.join(known)}")
    module = registry.find("head", name, "head.base")
    keys = {key: value for key, value in table.items() if key != "name"}
    return module.build(from_dict(module.Config, keys, "head.base"), embedding_dim, num_speakers)
