"""Heads that are part of another head."""

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
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        allowed: names that may be the base; empty: every head.

    Raises:
        InputError: no name, an unknown name, an unknown key or a value out of range.
    """
    choices, name = allowed or registry.names("head"), str(table.get("name"))
    if name not in choices and (allowed or "." not in name):
        raise InputError(f"head.base.name: found {name!r}, expected one of {', '.join(choices)}")
    module = registry.find("head", name, "head.base")
    keys = {key: value for key, value in table.items() if key != "name"}
    head: Head = module.build(from_dict(module.Config, keys, "head.base"), embedding_dim, num_speakers)
    return head
