"""Training heads: embeddings and speakers to a loss, one loss a file."""

from typing import TYPE_CHECKING, Any

from speakerverif._util import registry

if TYPE_CHECKING:
    from speakerverif.heads._base import Head


def build(table: dict[str, Any], embedding_dim: int, num_speakers: int) -> "Head":
    """Return the training head of a recipe's `[head]` table, for `num_speakers` classes.

    Raises:
        InputError: unknown name, key or value; the alternatives are named.
    """
    module, config = registry.resolve("head", table)
    return module.build(config, embedding_dim, num_speakers)
