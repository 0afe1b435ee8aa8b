"""Training heads: embeddings and speakers to a loss, one loss a file."""

import importlib
from typing import TYPE_CHECKING, Any

from speakerverif._util import registry

if TYPE_CHECKING:
    from speakerverif.heads._base import ClassifierHead, CosineHead, Head
    from speakerverif.heads._pairs import PairHead

__all__ = ["ClassifierHead", "CosineHead", "Head", "PairHead", "build"]

_HOME = {"ClassifierHead": "_base", "CosineHead": "_base", "Head": "_base", "PairHead": "_pairs"}


def __getattr__(name: str) -> Any:
    """Return a public class from its module, imported on first use: listing the heads needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def build(table: dict[str, Any], embedding_dim: int, num_speakers: int) -> "Head":
    """Return the training head of a recipe's `[head]` table, for `num_speakers` classes.

    Raises:
        InputError: unknown name, key or value; the alternatives are named.
    """
    module, config = registry.resolve("head", table)
    head: Head = module.build(config, embedding_dim, num_speakers)
    return head
